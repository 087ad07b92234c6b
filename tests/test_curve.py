"""Security curves: in which norm, from which motions, and how often an attack runs."""

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch

import funnybone as fb
from funnybone.attacks import Attack
from funnybone.attacks.as_text import attack_from
from funnybone.attacks.problem import Trace
from funnybone.metrics.natural import learn_natural_motion
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2, Linf
from funnybone.threat.ball import ball_of


@pytest.fixture(scope="module")
def scene():
    clips = random_clips(12)
    return clips, linear_victim(clips, distance=0.05)


def exact(victim, norm):
    """How far away the border is."""
    return 0.05 if norm is L2 else 0.05 / victim.module.plane.normal.abs().sum().item()


@dataclass(frozen=True, kw_only=True)
class Guess(Attack):
    """Go to one random point of the ball; remember what was asked of each run."""

    access = "scores"
    asked: list = field(default_factory=list, compare=False)

    def settings(self):
        return {}

    def run(self, problem, progress):
        self.asked.append((problem, problem.victim.remaining(problem.rows)))
        xyz = ball_of(problem.threat).sample(problem.clean, problem.chance)
        nothing = torch.zeros(len(problem), dtype=torch.long)
        return Trace(xyz, nothing.bool(), nothing, nothing.bool())


@pytest.mark.parametrize("norm", [Linf, L2])
@pytest.mark.parametrize("given", ["linf", "l2"])
def test_an_attack_that_knows_several_norms_searches_in_that_of_the_ball(scene, norm, given):
    clips, victim = scene
    radii = [exact(victim, norm) * share for share in (0.98, 1.3)]
    curve = fb.security_curve(fb.create_attack("fab", norm=given), victim, clips, radii, ball=norm)
    assert (curve.fallen, curve.attacked) == ((0, 12), 12)


@pytest.mark.parametrize("attack", ["ddn", "cw"])
def test_a_minimum_norm_attack_of_another_norm_is_refused(scene, attack):
    clips, victim = scene
    with pytest.raises(fb.DataError, match=f"{attack} searches in L2, the ball is Linf; give ball=L2.*Linf$"):
        fb.security_curve(fb.create_attack(attack), victim, clips, [0.01])


@pytest.mark.parametrize(
    ("attack", "norm"), [("hopskipjump steps=3 probes=20", L2), ("rays queries=100", Linf), ("rays queries=100", L2)]
)
def test_an_attack_by_labels_is_counted_by_how_far_it_went(scene, attack, norm):
    clips, victim = scene
    attack = attack_from(attack)
    outcome = attack(victim, clips)
    assert bool(outcome.success.all())
    way = norm(1.0).distance(clips.xyz, outcome.adversarial.xyz).sort().values
    assert exact(victim, norm) < way[0] < way[5] < 6 * exact(victim, norm)
    radii = [((way[k - 1] + way[k]) / 2).item() for k in (3, 6, 9)]
    assert fb.security_curve(attack, victim, clips, radii, ball=norm).fallen == (3, 6, 9)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_of_an_attack_by_labels_a_radius_does_not_depend_on_the_others(scene, norm):
    clips, victim = scene
    attack = fb.create_attack("hopskipjump", steps=3, probes=20)
    radii = [exact(victim, norm) * share for share in (3.4, 9, 20)]
    together = fb.security_curve(attack, victim, clips, radii, ball=norm).fallen
    alone = [fb.security_curve(attack, victim, clips, [radius], ball=norm).fallen for radius in radii]
    assert together == tuple(fallen for (fallen,) in alone)
    assert together[0] < together[1] <= together[2]


def test_an_attack_by_labels_starts_from_the_motions_that_are_given(scene):
    clips, victim = scene
    attack, left = fb.create_attack("hopskipjump", steps=3, probes=20), clips[::2]
    to_right = {"ball": L2, "goal": fb.goals.Specified(1)}
    assert fb.security_curve(attack, victim, left, [0.5], **to_right, starts=clips).fallen[0] > 0
    assert fb.security_curve(attack, victim, left, [0.5], **to_right).fallen == (0,)  # there all are of the other class


def test_an_attack_in_a_ball_has_all_motions_and_one_luck_at_every_radius(scene):
    clips, victim = scene
    guess = Guess()
    together = fb.security_curve(guess, victim, clips, [0.1, 0.2]).fallen
    assert 0 < together[0] < together[1]
    assert [len(problem.starts) for problem, _ in guess.asked] == [12, 12]
    assert [len(problem) for problem, _ in guess.asked] == [12, 12 - together[0]]
    # Twice as far the same way: who fell inside of the smaller ball falls in the larger one.
    assert together == tuple(fb.security_curve(Guess(), victim, clips, [radius]).fallen[0] for radius in (0.1, 0.2))


def test_what_a_curve_is_given_every_run_is(scene):
    clips, victim = scene
    guess, natural = Guess(), learn_natural_motion(clips)
    given = {"natural": natural, "starts": clips[:5], "draws": 3, "precision": "bf16", "budget": 7}
    fb.security_curve(guess, victim, clips, [0.001, 0.002], **given)
    assert len(guess.asked) == 2
    for problem, left in guess.asked:
        assert problem.natural is not None
        assert (len(problem.starts), problem.draws, problem.precision) == (5, 3, "bf16")
        assert left.tolist() == [7] * 12


def test_an_encoder_is_learned_from_all_clips_where_one_is_left(scene):
    clips, victim = scene
    clips = dataclasses.replace(clips, labels=torch.where(torch.arange(12) == 0, clips.labels, 1 - clips.labels))
    attack = fb.create_attack("nobox", epochs=1, steps=1, width=4)
    curve = fb.security_curve(attack, victim, clips, [0.0001, 0.0002])
    assert (curve.fallen, curve.attacked, curve.n) == ((0, 0), 1, 12)
