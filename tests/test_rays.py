"""RayS: how near it comes, its budget, its blocks."""

from itertools import pairwise

import pytest
import torch

import funnybone as fb
from funnybone.attacks.problem import Problem
from funnybone.attacks.rays import Parts, RayS, _levels
from funnybone.chance import Chance
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import Linf, Mask


def ways(outcome, clips):
    return (outcome.adversarial.xyz - clips.xyz).flatten(1).abs().amax(1)


def nearest(victim):
    normal = victim.module.plane.normal.detach()
    return float(0.05 * normal.norm() / normal.abs().sum())


def problem_of(clips):
    return Problem(
        victim=None,
        goal=fb.goals.AnythingBut(),
        threat=Linf(1.0),
        clips=clips,
        reference=clips.labels,
        rows=torch.arange(len(clips)),
        chance=Chance.of(clips, torch.Generator()),
    )


@pytest.fixture
def few():
    clips = random_clips(4, frames=4)
    return linear_victim(clips, distance=0.05, generator=torch.Generator().manual_seed(3)), clips


def test_it_ends_at_the_border(few):
    victim, clips = few
    outcome = RayS()(victim, clips, starts=clips)
    assert outcome.success.all()
    assert (ways(outcome, clips) > 0.999 * nearest(victim)).all()  # nothing nearer can succeed
    assert (ways(outcome, clips) < 1.01 * nearest(victim)).all()
    assert (outcome.queries < 2000).all()  # it ends where no turn helps
    assert not outcome.gradients.any()


def test_few_queries_come_near(few):
    victim, clips = few
    assert (ways(RayS(queries=300)(victim, clips, starts=clips), clips) < 2.5 * nearest(victim)).all()


def test_a_ball_is_reached_in_its_own_norm(few):
    victim, clips = few
    radius = nearest(victim)
    attack = RayS(queries=2000)
    assert attack(victim, clips, starts=clips, threat=Linf(1.05 * radius)).success.all()
    assert not attack(victim, clips, starts=clips, threat=Linf(0.95 * radius)).success.any()


def test_queries_are_those_that_the_victim_counts(few):
    victim, clips = few
    asked = []

    def labels(xyz):
        asked.append(len(xyz))
        return victim.labels(xyz)

    counting = fb.victims.CallableVictim(labels, skeleton=clips.skeleton, classes=clips.classes)
    outcome = RayS(queries=100)(counting, clips, starts=clips)
    assert sum(asked) == outcome.queries.sum() + 2 * len(clips)  # the clean clips and the results are judged
    assert outcome.success.all()


def test_a_budget_holds(few):
    victim, clips = few
    for budget in (1, 7, 50):
        assert (RayS()(victim, clips, starts=clips, budget=budget).queries <= budget).all()


def test_same_generator_same_result(few):
    victim, clips = few
    first, again = (
        RayS(queries=200)(victim, clips, starts=clips, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first.adversarial.xyz, again.adversarial.xyz)


@pytest.mark.parametrize("preset", [None, "natural"])
def test_a_clip_does_not_depend_on_those_beside_it(preset, few):
    victim, clips = few
    attack = fb.create_attack("rays", preset=preset, queries=60)
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
    outcome = fb.create_attack("rays", preset=preset, queries=60)(victim, clips, starts=clips)
    assert outcome.success.any()
    assert torch.equal(outcome.adversarial.xyz[~clips.valid], clips.xyz[~clips.valid])


def test_a_mask_is_kept(few):
    victim, clips = few
    outcome = RayS(queries=500)(victim, clips, starts=clips, threat=Mask(joints=tuple(range(8))))
    assert outcome.success.any()
    assert (outcome.violation <= 1e-6).all()


def test_natural_motion_keeps_bones(few):
    victim, clips = few
    outcome = fb.create_attack("rays", preset="natural", queries=60)(victim, clips, starts=clips)
    natural = torch.tensor(outcome.provenance["natural"])
    assert natural.any()
    assert (outcome.distances["bone_length_change"][natural] < 1e-5).all()


@pytest.mark.parametrize("sizes", [(4, 17), (1, 17), (60, 25), (3, 1), (1, 1)], ids=str)
def test_levels_halve_until_coordinates_are_single(sizes):
    levels = _levels(*sizes, 3)
    assert levels[0] == (1, 1, 1)
    assert levels[-1] == (*sizes, 3)
    for before, after in pairwise(levels):
        grown = [b / a for a, b in zip(before, after, strict=True) if b > a]
        assert len(grown) == 1
        assert grown[0] <= 3


@pytest.mark.parametrize("space", ["positions", "angles"])
def test_blocks_divide_what_can_move(space):
    clips = random_clips(4, persons=2, absent=True)
    parts, rows = Parts(problem_of(clips), space), torch.arange(4)
    joints = parts.places.shape[0] // 3
    for level in range(parts.last + 1):
        blocks, number = parts.blocks(rows, torch.full((4,), level))
        for clip in range(4):
            there = blocks[clip][clips.valid[clip]]
            assert torch.equal(there.unique(), torch.arange(number[clip]))  # none is empty
    assert number.tolist() == [4 * 2 * joints * 3, *[8 * 2 * joints * 3] * 2, 8 * joints * 3]


def test_blocks_are_joints_in_kinematic_order_times_frames():
    clips = random_clips(1)
    blocks, number = Parts(problem_of(clips), "positions").blocks(torch.tensor([0]), torch.tensor([2]))
    blocks = blocks[0, 0].unflatten(-1, (17, 3))
    assert number.tolist() == [4]
    assert (blocks == blocks[..., :1]).all()
    assert torch.equal(blocks[0], blocks[3])
    assert torch.equal(blocks[0] + 2, blocks[4])
    inner, order = blocks[0, :, 0] == 0, clips.skeleton.topological_order
    assert inner[list(order)].int().diff().tolist().count(-1) == 1
    assert inner[list(order)].int().diff().tolist().count(1) == 0


@pytest.mark.parametrize("settings", [{"accuracy": 0.0}, {"accuracy": 1.0}, {"queries": 0}], ids=str)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"rays: {next(iter(settings))}"):
        fb.create_attack("rays", **settings)


def test_an_unknown_space_is_refused():
    with pytest.raises(fb.DataError, match="dreams"):
        fb.create_attack("rays", space="dreams")
