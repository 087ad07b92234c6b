"""Boundary attack: how near it comes, its budget, its steps."""

import pytest
import torch

import funnybone as fb
from funnybone.attacks.boundary import Boundary, latest
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2, Mask


def ways(outcome, clips):
    return L2(1.0).distance(clips.xyz, outcome.adversarial.xyz)


@pytest.fixture
def few():
    """Clips whose victim has a border on the way from the others; of some it has none there, but between two clips."""
    clips = random_clips(4, frames=4)
    return linear_victim(clips, distance=0.05, generator=torch.Generator().manual_seed(3)), clips


@pytest.mark.parametrize("trials", [1, 5])
def test_it_nears_the_border(trials, few):
    victim, clips = few
    outcome = Boundary(queries=3000, trials=trials)(victim, clips, starts=clips)
    assert outcome.success.all()
    assert (ways(outcome, clips) > 0.0499).all()  # nothing nearer can succeed
    assert (ways(outcome, clips) < 1.5 * 0.05).all()
    assert (outcome.queries <= 3000).all()
    assert (outcome.queries > 3000 - 2 * trials).all()
    assert not outcome.gradients.any()


def test_lengths_are_adapted(few):
    victim, clips = few
    plain, stiff = (Boundary(queries=1000, adaptation=factor)(victim, clips, starts=clips) for factor in (1.5, 1.0001))
    assert ways(plain, clips).mean() < 0.8 * ways(stiff, clips).mean()


def test_queries_are_those_that_the_victim_counts(few):
    victim, clips = few
    asked = []

    def labels(xyz):
        asked.append(len(xyz))
        return victim.labels(xyz)

    counting = fb.victims.CallableVictim(labels, skeleton=clips.skeleton, classes=clips.classes)
    outcome = Boundary(queries=100)(counting, clips, starts=clips)
    assert sum(asked) == outcome.queries.sum() + 2 * len(clips)  # the clean clips and the results are judged
    assert outcome.success.all()


def test_a_budget_holds(few):
    victim, clips = few
    for budget in (1, 7, 50):
        assert (Boundary()(victim, clips, starts=clips, budget=budget).queries <= budget).all()


def test_the_number_of_steps_holds(few):
    victim, clips = few
    outcome = Boundary(steps=7, trials=3)(victim, clips, starts=clips)
    assert (outcome.steps == 7).all()
    assert (outcome.queries <= 1 + 10 + 7 * 2 * 3 + 19).all()


def test_same_generator_same_result_and_another_another(few):
    victim, clips = few
    first, again, other = (
        Boundary(queries=200)(victim, clips, starts=clips, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.adversarial.xyz, again.adversarial.xyz)
    assert not torch.equal(first.adversarial.xyz, other.adversarial.xyz)


@pytest.mark.parametrize("preset", [None, "natural"])
def test_a_clip_does_not_depend_on_those_beside_it(preset, few):
    victim, clips = few
    attack = fb.create_attack("boundary", preset=preset, queries=60)
    together, alone = (
        attack(victim, some, starts=clips, batch_size=size) for some, size in ((clips, 64), (clips[[2, 0]], 1))
    )
    assert torch.equal(together.success[[2, 0]], alone.success)
    assert torch.allclose(together.adversarial.xyz[[2, 0]], alone.adversarial.xyz, atol=1e-5)
    assert torch.equal(together.queries[[2, 0]], alone.queries)


@pytest.mark.parametrize("preset", [None, "natural"])
def test_padding_and_absent_persons_stay(preset):
    clips = random_clips(6, persons=2, absent=True)
    victim = linear_victim(clips, distance=0.05)
    outcome = fb.create_attack("boundary", preset=preset, queries=60)(victim, clips, starts=clips)
    assert outcome.success.any()
    assert torch.equal(outcome.adversarial.xyz[~clips.valid], clips.xyz[~clips.valid])


def test_a_mask_is_kept_and_what_is_left_is_searched(few):
    victim, clips = few
    threat = Mask(joints=tuple(range(8)))
    outcome = Boundary(queries=2000)(victim, clips, starts=clips, threat=threat)
    assert outcome.success.any()
    assert (outcome.violation <= 1e-6).all()


def test_natural_motion_keeps_bones(few):
    victim, clips = few
    outcome = fb.create_attack("boundary", preset="natural", queries=60)(victim, clips, starts=clips)
    natural = torch.tensor(outcome.provenance["natural"])
    assert natural.any()
    assert (outcome.distances["bone_length_change"][natural] < 1e-5).all()


def test_the_latest_answers_are_kept():
    nan = torch.nan
    kept = torch.tensor([[nan, nan, 1.0], [4.0, 5.0, 6.0]])
    more = torch.tensor([[nan, 2.0], [7.0, nan]])
    wanted = torch.tensor([[nan, 1.0, 2.0], [5.0, 6.0, 7.0]])
    assert torch.equal(latest(kept, more).nan_to_num(-1), wanted.nan_to_num(-1))


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"trials": 0},
        {"spherical": 0.0},
        {"ahead": 1.0},
        {"adaptation": 1.0},
        {"frequencies": 0},
        {"queries": 0},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"boundary: {next(iter(settings))}"):
        fb.create_attack("boundary", **settings)


def test_an_unknown_space_is_refused():
    with pytest.raises(fb.DataError, match="dreams"):
        fb.create_attack("boundary", space="dreams")
