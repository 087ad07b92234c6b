"""RayS: how near it comes, and its blocks."""

from itertools import pairwise

import pytest
import torch

import funnybone as fb
from funnybone.attacks.rays import Parts, RayS, _levels
from funnybone.attacks.spaces import space_of
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import Linf, Mask, Unbounded
from parts_for_tests import easy, problem_of


def ways(outcome, clips):
    return (outcome.adversarial.xyz - clips.xyz).flatten(1).abs().amax(1)


def nearest(victim):
    normal = victim.module.plane.normal.detach()
    return float(0.05 * normal.norm() / normal.abs().sum())


def parts_of(clips, space="positions", threat=None):
    problem = problem_of(linear_victim(clips), clips, threat=threat or Unbounded(), starts=clips)
    return Parts(problem, space_of(problem, space))


def test_it_ends_at_the_border():
    victim, clips = easy()
    outcome = RayS()(victim, clips)
    assert outcome.success.all()
    assert (ways(outcome, clips) > 0.999 * nearest(victim)).all()  # nothing nearer can succeed
    assert (ways(outcome, clips) < 1.03 * nearest(victim)).all()
    assert (outcome.queries < 100).all()  # it ends where no turn helps


def test_few_queries_come_near():
    victim, clips = easy()
    assert (ways(RayS(queries=30)(victim, clips), clips) < 2.5 * nearest(victim)).all()


def test_a_ball_is_reached_in_its_own_norm():
    victim, clips = easy()
    radius = nearest(victim)
    assert RayS()(victim, clips, threat=Linf(1.05 * radius)).success.all()
    assert not RayS()(victim, clips, threat=Linf(0.95 * radius)).success.any()


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
    clips.valid[1, 1, :3] = clips.valid[2, 0, 6:] = clips.valid[2, 1, :6] = False  # persons that come and go
    parts, rows = parts_of(clips, space), torch.arange(4)
    numbers = 3 * parts.joints
    for level in range(parts.last + 1):
        blocks, number = parts.blocks(rows, torch.full((4,), level))
        for clip in range(4):
            there = blocks[clip][clips.valid[clip]]
            assert torch.equal(there.unique(), torch.arange(number[clip]))  # none is empty
        assert (blocks[~clips.valid] == -1).all()
    assert number.tolist() == [4 * 2 * numbers, (8 + 5) * numbers, (6 + 2) * numbers, 8 * numbers]


def test_what_a_mask_holds_is_in_no_block():
    clips = random_clips(2)
    parts = parts_of(clips, threat=Mask(joints=(3, 9), frames=(2, 5)))
    free = torch.zeros(8, 17, 3, dtype=torch.bool)
    free[2:5, [3, 9]] = True
    for level in range(parts.last + 1):
        blocks, number = parts.blocks(torch.arange(2), torch.full((2,), level))
        assert ((blocks[:, 0] >= 0) == free.flatten(1)).all()
        assert torch.equal(blocks[1].unique(), torch.arange(-1, number[1]))
    assert number.tolist() == [18, 18]


def test_blocks_are_joints_in_kinematic_order_times_frames():
    clips = random_clips(1)
    blocks, number = parts_of(clips).blocks(torch.tensor([0]), torch.tensor([2]))
    blocks = blocks[0, 0].unflatten(-1, (17, 3))
    assert number.tolist() == [4]
    assert (blocks == blocks[..., :1]).all()
    assert torch.equal(blocks[0], blocks[3])
    assert torch.equal(blocks[0] + 2, blocks[4])
    inner, order = blocks[0, :, 0] == 0, clips.skeleton.topological_order
    assert inner[list(order)].int().diff().tolist().count(-1) == 1
    assert inner[list(order)].int().diff().tolist().count(1) == 0


@pytest.mark.parametrize("settings", [{"accuracy": 0.0}, {"accuracy": 1.0}], ids=str)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"rays: {next(iter(settings))}"):
        fb.create_attack("rays", **settings)
