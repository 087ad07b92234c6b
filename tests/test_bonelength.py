"""The adversarial bone length attack: scales of bones, constant in time, and nothing else."""

import logging

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import funnybone as fb
from funnybone.attacks.bonelength import position_metric, scale_gradient
from funnybone.motion.kinematics import ancestors, scale_bones
from funnybone.skeletons import ALL, COCO17, NTU25
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf, Mask
from parts_for_tests import noisy


def scales(clips, xyz):
    """How many times as long each bone is in each frame, NaN where it cannot be told."""
    before, after = (clips.skeleton.bone_lengths(x.double()) for x in (clips.xyz, xyz))
    return torch.where(clips.valid[..., None] & (before > 1e-3), after / before, torch.nan)


def constant(found):
    """The scales of each person, and how much they differ from frame to frame."""
    mean = found.nanmean(2)
    return mean, float((found - mean[:, :, None]).abs().nan_to_num().max())


def attack(**settings):
    return fb.create_attack("bonelength", **settings)


@pytest.mark.parametrize("settings", [{}, {"symmetric": True, "shared": True}], ids=["free", "tied"])
def test_the_exam(settings):
    check_attack(attack(steps=20, **settings), threat=Linf(0.2))


def test_positions_equal_the_published_loop():
    """Joint by joint in the order of the skeleton's tree: the clean offset, from where the parent went."""
    clips = random_clips(4, persons=2, absent=True, skeleton=NTU25)
    outcome = attack(steps=3)(linear_victim(clips, distance=2.0), clips)
    mean, _ = constant(scales(clips, outcome.adversarial.xyz))
    expected = clips.xyz.clone()
    place = {child: index for index, (child, _) in enumerate(NTU25.bones)}
    for clip in range(4):
        for person in range(2):
            for frame in range(8):
                if not clips.valid[clip, person, frame]:
                    continue
                for child in NTU25.topological_order[1:]:
                    parent = NTU25.parents[child]
                    offset = clips.xyz[clip, person, frame, child] - clips.xyz[clip, person, frame, parent]
                    moved = expected[clip, person, frame, parent] + mean[clip, person, place[child]].float() * offset
                    expected[clip, person, frame, child] = moved
    assert (expected != clips.xyz).any()
    assert torch.allclose(outcome.adversarial.xyz, expected, atol=1e-5)


def test_scales_are_constant_in_time_and_within_the_tolerance():
    clips = random_clips(6, persons=2, absent=True)
    outcome = attack(steps=30, tolerance=0.03)(linear_victim(clips, distance=5.0), clips)
    mean, spread = constant(scales(clips, outcome.adversarial.xyz))
    assert spread < 1e-5
    assert (mean - 1).abs().nan_to_num().max() <= 0.03 + 1e-5
    assert (mean - 1).abs().nan_to_num().max() > 0.0299  # the border is far: all that is allowed is used
    # Directions of bones, and with them all angles, are those of the clean motion; the root stays.
    assert outcome.distances["joint_angle_acceleration"].max() < 0.1
    assert torch.equal(outcome.adversarial.xyz[..., 0, :], clips.xyz[..., 0, :])


def test_it_succeeds_exactly_where_scales_can():
    """Of a linear victim, scales within t change the score by at most t times the sum of the derivatives' sizes."""
    clips = random_clips(5, persons=2)
    victim = linear_victim(clips, distance=0.05)
    normal = victim.module.plane.normal.detach().expand(clips.xyz.shape)
    needed = 0.05 / scale_gradient(clips.xyz, normal, clips.skeleton).abs().sum((1, 2))
    for clip, tolerance in enumerate(needed.tolist()):
        one = clips[[clip]]
        assert attack(tolerance=1.01 * tolerance, step_size=0.05 * tolerance)(victim, one).success.all()
        assert not attack(tolerance=0.99 * tolerance, step_size=0.05 * tolerance)(victim, one).success.any()


def test_the_derivative_is_that_of_the_forward_kinematics():
    clips = random_clips(3, persons=2, skeleton=NTU25)
    scale = torch.ones(3, 2, 24, requires_grad=True)
    weights = torch.randn(clips.xyz.shape, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad((scale_bones(clips.xyz, scale, NTU25) * weights).sum(), scale)
    assert torch.allclose(scale_gradient(clips.xyz, weights, NTU25), expected, rtol=1e-4, atol=1e-4)


def test_the_metric_says_how_far_joints_move():
    clips = random_clips(2, persons=2)
    change = torch.randn(2, 2, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    moved = scale_bones(clips.xyz, 1 + change, COCO17) - clips.xyz
    change = change.double()
    quadratic = torch.einsum("nmb,nmbc,nmc->nm", change, position_metric(clips.xyz, COCO17), change)
    assert torch.allclose(quadratic, moved.double().square().sum((2, 3, 4)), rtol=1e-4)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_the_other_side_of_the_other_side_is_the_same(skeleton):
    other = skeleton.mirrored_bones
    assert [other[bone] for bone in other] == list(range(len(other)))
    assert sum(bone != place for place, bone in enumerate(other)) >= 8


def test_bones_of_both_sides_can_be_tied():
    clips = random_clips(4, persons=2, absent=True)
    victim = linear_victim(clips, distance=5.0)
    mean, _ = constant(scales(clips, attack(steps=20, symmetric=True)(victim, clips).adversarial.xyz))
    other = list(COCO17.mirrored_bones)
    assert torch.allclose(mean, mean[..., other], atol=1e-5, equal_nan=True)
    free, _ = constant(scales(clips, attack(steps=20)(victim, clips).adversarial.xyz))
    assert not torch.allclose(free, free[..., other], atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("threat", [fb.threat.Unbounded(), Linf(0.2)], ids=["unbounded", "linf"])
def test_persons_can_share_their_scales(threat):
    clips = random_clips(4, persons=2, absent=True)
    outcome = attack(steps=20, shared=True)(linear_victim(clips, distance=5.0), clips, threat=threat)
    mean, spread = constant(scales(clips, outcome.adversarial.xyz))
    assert spread < 1e-5
    assert torch.allclose(mean[:-1, 0], mean[:-1, 1], atol=1e-5)
    assert (mean[-1, 0] - 1).abs().max() > 0.01  # the person who is there
    assert torch.equal(outcome.adversarial.xyz[-1, 1], clips.xyz[-1, 1])


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.5), Linf(0.05) & BoneLength(0.02)], ids=repr)
def test_where_positions_are_bound_scales_remain_scales(threat):
    clips = random_clips(6, persons=2, absent=True)
    outcome = attack(steps=30)(linear_victim(clips, distance=5.0), clips, threat=threat)
    assert outcome.violation.max() == 0
    mean, spread = constant(scales(clips, outcome.adversarial.xyz))
    assert spread < 1e-5
    assert ((mean - 1).abs().nan_to_num().amax((1, 2)) > 1e-3).all()
    # What is allowed is nearly used up.
    used = outcome.adversarial.xyz - clips.xyz
    assert not isinstance(threat, Linf) or (used.abs().amax((1, 2, 3, 4)) > 0.045).all()


class Narrow(Linf):
    """Binds the last frame alone, and says how far outside each frame is."""

    def project(self, clean, adversarial):
        inside = adversarial.clone()
        inside[:, :, -1] = super().project(clean, adversarial)[:, :, -1]
        return inside

    def violation(self, clean, adversarial):
        return self.excess(clean, adversarial).amax((1, 2))

    def excess(self, clean, adversarial):
        largest = (adversarial - clean).abs().amax((3, 4)) - self.radius
        largest[:, :, :-1] = 0
        return largest.clamp(min=0)


def test_a_bound_on_one_frame_binds_the_scale_of_all():
    clips = random_clips(4, persons=2)
    outcome = attack(steps=10)(linear_victim(clips, distance=5.0), clips, threat=Narrow(0.05))
    assert outcome.violation.max() == 0
    mean, spread = constant(scales(clips, outcome.adversarial.xyz))
    assert spread < 1e-5
    assert ((mean - 1).abs().amax((1, 2)) > 1e-3).all()


def test_where_positions_are_bound_much_of_what_scales_can_do_is_done():
    """The best scales in an L-infinity ball are the answer of a linear programme."""
    clips, radius = random_clips(6, persons=2), 0.02
    victim = linear_victim(clips, distance=5.0)
    outcome = attack(steps=50)(victim, clips, threat=Linf(radius))
    normal = victim.module.plane.normal.detach()
    ways = (ancestors(COCO17)[..., None] * clips.skeleton.bone_vectors(clips.xyz)[:, :, :, None]).transpose(-1, -2)
    shares = []
    for clip in range(6):
        sign = 1 if clips.labels[clip] == 0 else -1
        best = 0.0
        for person in range(2):
            way = ways[clip, person].reshape(-1, 16).double().numpy()
            slope = sign * normal[person].flatten().double().numpy() @ way
            limits = np.vstack([way, -way]), np.full(2 * len(way), radius)
            best += linprog(slope, A_ub=limits[0], b_ub=limits[1], bounds=[(-0.1, 0.1)] * 16).fun
        gained = sign * float((normal * (outcome.adversarial.xyz - clips.xyz)[clip]).sum())
        shares.append(gained / best)
    assert max(shares) <= 1.001
    assert sum(shares) / 6 > 0.55  # 0.43 were scales only shortened together


def test_persons_who_share_scales_are_held_together():
    clips = random_clips(3, persons=2, absent=True)
    victim = linear_victim(clips, distance=5.0)
    outcome = attack(steps=5, shared=True)(victim, clips, threat=Mask(persons=(0,)))
    moved = (outcome.adversarial.xyz != clips.xyz).flatten(2).any(2)
    assert moved.tolist() == [[False, False], [False, False], [True, False]]  # of the last, the second is absent


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_bone_that_carries_what_is_held_keeps_its_length(symmetric):
    clips = random_clips(4)
    held = COCO17.index("left_wrist")
    free = tuple(joint for joint in range(17) if joint != held)
    attacking = attack(steps=20, symmetric=symmetric)
    outcome = attacking(linear_victim(clips, distance=5.0), clips, threat=Mask(joints=free))
    assert outcome.violation.max() == 0
    mean, _ = constant(scales(clips, outcome.adversarial.xyz))
    kept = ancestors(COCO17)[held].bool()
    kept = kept | kept[list(COCO17.mirrored_bones)] if symmetric else kept
    assert (mean[..., kept] == 1).all()
    assert ((mean[..., ~kept] - 1).abs() > 0.01).all()


def test_where_no_bone_may_change_nothing_does_and_it_is_said(caplog):
    clips = random_clips(3)
    with caplog.at_level(logging.WARNING, logger="funnybone"):
        outcome = attack(steps=3)(linear_victim(clips), clips, threat=Mask(joints=(0, 1, 2)))
    assert torch.equal(outcome.adversarial.xyz, clips.xyz)
    assert not outcome.success.any()
    assert "no bone change in 3 of 3 clips" in caplog.text


def test_bones_without_length_and_few_frames_do_no_harm():
    clips = random_clips(2, frames=1)
    xyz = clips.xyz.clone()
    xyz[..., 3, :] = xyz[..., 1, :]
    clips = clips.with_xyz(xyz)
    outcome = attack(steps=20)(linear_victim(clips, distance=0.05), clips, threat=Linf(0.2))
    assert outcome.success.all()
    assert torch.isfinite(outcome.adversarial.xyz).all()


def test_goals_draws_and_budgets():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.05)
    stochastic = noisy(victim, 0.01)
    outcome = attack(steps=10)(stochastic, clips, draws=4, goal=fb.goals.Specified())
    assert outcome.success.all()
    assert (outcome.queries % 4 == 0).all()
    assert attack(steps=10)(stochastic, clips, draws=4, budget=11).queries.max() == 8


@pytest.mark.parametrize("settings", [{"tolerance": 0.0}, {"tolerance": 1.0}, {"step_size": 0.0}, {"steps": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"bonelength: {next(iter(settings))}"):
        attack(**settings)
