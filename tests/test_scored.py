"""What holds of every attack that sees scores: the budget, who moves, what is asked, what comes back."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks import attacks
from funnybone.attacks.problem import free
from funnybone.attacks.scored import ScoreAttack
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf, Mask
from parts_for_tests import noisy, problem_of

SETTINGS = {
    "square": {"queries": 120},
    "simba": {"queries": 200, "step_size": 1.0, "unit": "radius"},
    "nes": {"queries": 210, "samples": 20, "step_size": 0.3},
}
EXAM = {  # the exam in L-infinity is that of every attack
    "square": {"queries": 30},
    "simba": {"queries": 30, "step_size": 1.0, "unit": "radius"},
    "nes": {"queries": 70, "samples": 20, "step_size": 0.3},
}
BALLS = [Linf(0.02), L2(0.2)]
each = pytest.mark.parametrize("name", sorted(SETTINGS))
each_ball = pytest.mark.parametrize("ball", BALLS, ids=str)


def made(name, **settings):
    return fb.create_attack(name, **{**SETTINGS[name], **settings})


def counted(victim):
    """The same victim, which offers scores alone, and how many clips it was asked about so far."""
    asked = []

    def answer(xyz):
        asked.append(len(xyz))
        return victim.logits(xyz)

    return fb.CallableVictim(answer, skeleton=victim.skeleton, classes=victim.classes, access="scores"), asked


def test_all_are_examined_here():
    assert sorted(SETTINGS) == [name for name in sorted(attacks.names()) if issubclass(attacks[name], ScoreAttack)]


@each
def test_the_exam(name):
    check_attack(fb.create_attack(name, **EXAM[name]), threat=L2(0.5))


@each
@each_ball
def test_where_the_ball_has_an_adversary_all_fall_and_where_it_has_none_nobody_does(name, ball):
    clips = random_clips(4)
    attack = made(name, queries=1500)
    within = attack(linear_victim(clips, distance=0.05), clips, threat=ball)
    assert within.success.all()
    assert within.claimed.all()
    assert within.violation.max() <= 1e-6
    beyond = dataclasses.replace(attack, queries=50)(linear_victim(clips, distance=3.0), clips, threat=ball)
    assert not beyond.success.any()
    assert beyond.violation.max() <= 1e-6


@each
def test_what_is_counted_is_what_the_victim_was_asked(name):
    clips = random_clips(5)
    victim, asked = counted(linear_victim(clips, distance=0.05))
    outcome = made(name)(victim, clips, threat=Linf(0.02), batch_size=2)
    judged = 2 * len(clips)  # before and after
    assert outcome.queries.sum() == sum(asked) - judged
    assert not outcome.gradients.any()
    assert outcome.queries.max() <= SETTINGS[name]["queries"]
    each_step = 1 + made(name).probes
    assert torch.equal(outcome.queries, 1 + each_step * outcome.steps)


@each
@pytest.mark.parametrize("budget", [1, 2, 3, 25])
def test_the_smaller_of_budget_and_queries_holds(name, budget):
    clips = random_clips(2)
    victim = linear_victim(clips, distance=3.0)
    attack = made(name)
    by_call, by_setting = (
        attack(victim, clips, threat=Linf(0.02), budget=budget),
        made(name, queries=budget)(victim, clips, threat=Linf(0.02)),
    )
    each_step = 1 + attack.probes
    spent = 1 + (budget - 1) // each_step * each_step
    assert by_call.queries.tolist() == by_setting.queries.tolist() == [spent] * 2
    assert torch.equal(by_call.adversarial.xyz, by_setting.adversarial.xyz)


@each
def test_draws_of_a_stochastic_victim_are_queries(name):
    clips = random_clips(2)
    victim = noisy(linear_victim(clips, distance=3.0), 0.01)
    outcome = made(name, queries=90)(victim, clips, threat=Linf(0.02), draws=4)
    assert outcome.queries.max() <= 90
    assert (outcome.queries % 4 == 0).all()
    with pytest.raises(fb.DataError, match="less than the 4 draws"):
        made(name, queries=3)(victim, clips, threat=Linf(0.02), draws=4)


@each
def test_another_generator_gives_another_result(name):
    clips = random_clips(2)
    one, other = (
        made(name, queries=30)(
            linear_victim(clips), clips, threat=Linf(0.02), generator=torch.Generator().manual_seed(seed)
        )
        for seed in (3, 4)
    )
    assert not torch.equal(one.adversarial.xyz, other.adversarial.xyz)


@each
@each_ball
def test_what_is_not_there_or_masked_never_moves(name, ball):
    clips = random_clips(4, persons=2, absent=True)
    victim = linear_victim(clips, distance=3.0)
    seen = []

    def answer(xyz):
        seen.append(xyz.clone())
        return victim.logits(xyz)

    watched = fb.CallableVictim(answer, skeleton=clips.skeleton, classes=clips.classes, access="scores")
    mask = Mask(joints=(5, 7, 9), frames=(1, 4))
    outcome = made(name, queries=45)(watched, clips, threat=ball & mask)
    assert outcome.violation.max() <= 1e-6
    moved = outcome.adversarial.xyz != clips.xyz
    assert moved.any()
    assert not moved[~clips.valid].any()
    assert not moved[:, :, :, [0, 6, 16]].any()
    # Not so much as asked about, and no question but the first is about a clip as it was.
    nearest = torch.cat([torch.cdist(xyz.flatten(1), clips.xyz.flatten(1)).argmin(1) for xyz in seen[1:-1]])
    change = torch.cat(seen[1:-1]) - clips.xyz[nearest]
    assert not change[~clips.valid[nearest]].any()
    still = (change == 0).flatten(1).all(1)
    assert still.sum() <= len(clips)


@each
def test_free_is_what_may_move(name):
    clips = random_clips(4, persons=2, absent=True)
    problem = problem_of(linear_victim(clips), clips, threat=(Linf(0.02) & Mask(joints=(5,)) & Mask(frames=(1, 3))))
    movable = free(problem)
    assert movable.shape == (4, 2, 8, 17, 1)
    assert movable.sum((1, 2, 3, 4)).tolist() == [4, 4, 4, 2]


@each
def test_what_never_falls_comes_nearest_to_it(name):
    clips = random_clips(4)
    victim = linear_victim(clips, distance=3.0)
    outcome = made(name, queries=60)(victim, clips, threat=Linf(0.02))
    sure = [
        victim.logits(xyz).detach().gather(1, clips.labels[:, None]) for xyz in (clips.xyz, outcome.adversarial.xyz)
    ]
    assert (sure[1] < sure[0]).all()


@each
def test_composed_threat_models_hold(name):
    clips = random_clips(4)
    outcome = made(name)(linear_victim(clips, distance=0.01), clips, threat=Linf(0.02) & BoneLength(0.05))
    assert outcome.violation.max() <= 1e-6
    assert outcome.success.any()
    assert torch.equal(outcome.success, outcome.claimed)


@each
def test_answers_that_are_no_numbers_lead_nowhere(name):
    clips = random_clips(3)
    linear = linear_victim(clips, distance=0.05)
    calls = []

    def answer(xyz):
        calls.append(len(xyz))
        return linear.logits(xyz) * (torch.nan if 1 < len(calls) <= 5 else 1)

    victim = fb.CallableVictim(answer, skeleton=clips.skeleton, classes=clips.classes, access="scores")
    outcome = made(name)(victim, clips, threat=Linf(0.02))
    assert torch.isfinite(outcome.adversarial.xyz).all()
    assert outcome.success.any()


@pytest.mark.parametrize("name", ["square", "nes"])
def test_without_a_ball_it_is_refused_before_anything_is_asked(name):
    clips = random_clips(2)
    victim, asked = counted(linear_victim(clips))
    with pytest.raises(fb.DataError, match="has no ball"):
        made(name)(victim, clips)
    assert sum(asked) == len(clips)  # whom the victim gets right


@each
@pytest.mark.parametrize(("settings", "message"), [({"queries": 0}, "queries is 0"), ({"loss": "cheap"}, "loss is")])
def test_settings_of_all_are_checked(name, settings, message):
    with pytest.raises(fb.DataError, match=message):
        made(name, **settings)
