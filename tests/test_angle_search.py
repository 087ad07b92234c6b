"""Search in angle space: what a body can do, and no more."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import funnybone as fb
from funnybone.attacks.angles import Turned
from funnybone.metrics.natural import learn_natural_motion
from funnybone.motion.angles import to_angles_near
from funnybone.motion.limits import learn_limits
from funnybone.motion.turns import carried, turns
from funnybone.skeletons import COCO17, HDM05, NTU25, Skeleton
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf, Mask
from parts_for_tests import noisy, problem_of

ARM = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
SEARCHES = ("fgsm", "pgd steps=20", "mifgsm steps=20", "apgd steps=20", "smart steps=60 step_size=0.004")


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_passes_the_exam(search):
    check_attack(fb.create_attack("angles", search=search), threat=Linf(0.05))


@pytest.mark.parametrize("threat", [None, Linf(0.03), L2(0.5), Linf(0.03) & BoneLength(1e-4)], ids=str)
def test_bones_keep_their_length_and_joints_their_range(threat):
    clips = random_clips(6, skeleton=NTU25, persons=2, absent=True)  # whose bones breathe
    victim = linear_victim(clips, distance=0.05)
    attack = fb.create_attack("angles", search="smart steps=60 step_size=0.01", slack=0.1)
    outcome = attack(victim, clips, threat=threat)
    moved = outcome.adversarial.xyz
    assert outcome.success.any()
    assert (moved != clips.xyz).any()
    lengths = [clips.skeleton.bone_lengths(xyz) for xyz in (clips.xyz, moved)]
    assert (lengths[0] - lengths[1]).abs().max() < 2e-6
    assert torch.equal(moved[~clips.valid], clips.xyz[~clips.valid])
    bends = [bend(xyz.double(), clips.skeleton)[clips.valid] for xyz in (clips.xyz, moved)]
    assert (bends[0] - bends[1]).abs().max() > 0.01
    assert (bends[0] - bends[1]).abs().max() <= 2 * 0.1 + 1e-3  # a hub's turn, and that of one of its bones


def bend(xyz, skeleton):
    """The angle between each bone and the one before it."""
    end = {child: xyz[..., child, :] - xyz[..., parent, :] for child, parent in skeleton.bones}
    pairs = [(end[child], end[parent]) for child, parent in skeleton.bones if parent in end]
    one, other = (nn.functional.normalize(torch.stack(side, -2), dim=-1) for side in zip(*pairs, strict=True))
    return 2 * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1))


class Reach(nn.Module):
    """Class 1 when the wrist has come further than this along x in the mean over frames."""

    def __init__(self, border):
        super().__init__()
        self.border = border

    def forward(self, xyz):
        ahead = 100 * (xyz[..., 2, 0].mean((1, 2)) - self.border)
        return torch.stack([-ahead, ahead], 1)


@pytest.mark.parametrize(("share", "falls"), [(0.97, True), (1.03, False)])
@pytest.mark.parametrize("search", ["pgd random_start=False", "smart step_size=0.01"])
def test_a_wrist_goes_as_far_as_the_elbow_may_turn(search, share, falls):
    hanging = torch.tensor([[0.0, 0.0, 0.0], [0.0, -0.3, 0.0], [0.0, -0.55, 0.0]])
    clips = random_clips(2, frames=5, skeleton=ARM).with_xyz(hanging.expand(2, 1, 5, 3, 3).clone())
    clips = dataclasses.replace(clips, labels=torch.zeros(2, dtype=torch.long))
    victim = fb.TorchVictim(Reach(share * 0.25 * math.sin(0.4)), skeleton=ARM, classes=clips.classes)
    attack = fb.create_attack("angles", search=search, slack=0.4)
    outcome = attack(victim, clips, threat=Mask(joints=("wrist",)) & Linf(1.0))
    assert (outcome.success == falls).all()
    assert torch.equal(outcome.adversarial.xyz[..., :2, :], clips.xyz[..., :2, :])  # to the last digit
    if not falls:
        assert (outcome.adversarial.xyz[..., 2, 0] > 0.999 * 0.25 * math.sin(0.4)).all()


@pytest.mark.parametrize("skeleton", [ARM, COCO17, HDM05, NTU25], ids=lambda skeleton: skeleton.name)
def test_a_turn_moves_what_hangs_on_it(skeleton):
    clips = random_clips(1, skeleton=skeleton)
    problem = Turned.of(problem_of(linear_victim(clips), clips), slack=0.3)
    assert torch.equal(problem.shown(problem.clean), clips.xyz)
    rows = [[True] * len(skeleton.joints), *carried(skeleton)]
    for number, expected in enumerate(rows):
        turned = problem.clean.clone()
        turned[..., number, :] = torch.tensor([0.2, 0.3, -0.1])
        moved = (problem.shown(turned) - clips.xyz).norm(dim=-1).amax((0, 1, 2)) > 1e-7
        bones = clips.skeleton.bone_lengths(clips.xyz).amax((0, 1, 2))
        assert bones.min() > 1e-3
        assert moved.tolist() == list(expected), f"{turns(skeleton)[number - 1]}"


@pytest.mark.parametrize(
    ("mask", "still"),
    [
        (Mask(frames=(2, 5)), lambda delta: delta[:, :, [0, 1, 5, 6, 7]]),
        (Mask(persons=(1,)), lambda delta: delta[:, 0]),
        (Mask(joints=("left_wrist",)), lambda delta: delta[..., [*range(9), *range(10, 17)], :]),
    ],
    ids=["frames", "persons", "joints"],
)
def test_what_is_masked_stays_to_the_last_digit(mask, still):
    clips = random_clips(4, persons=2, skeleton=COCO17)
    attack = fb.create_attack("angles", search="pgd steps=10", slack=0.5)
    outcome = attack(linear_victim(clips, distance=0.05), clips, threat=mask & L2(2.0) & Linf(0.5))
    delta = outcome.adversarial.xyz - clips.xyz
    assert not still(delta).any()
    assert delta.any()
    assert outcome.violation.max() == 0


def test_a_mask_that_frees_no_turn_is_refused_and_asks_nothing():
    clips = random_clips(2, skeleton=NTU25)
    attack = fb.create_attack("angles", search="pgd steps=10")
    with pytest.raises(fb.DataError, match="every turn moves joints"):
        attack(linear_victim(clips), clips, threat=Mask(joints=("ElbowL", "ShoulderL")) & Linf(0.05))


def test_it_is_a_stage_of_a_cascade_and_averages_over_answers():
    clips = random_clips(6)
    victim = linear_victim(clips, distance=0.05)
    cascade = fb.create_attack("cascade", stages=("fgsm step_size=0.01", "angles slack=0.5 search='pgd steps=20'"))
    outcome = cascade(victim, clips, threat=Linf(0.05), precision="bf16")
    assert outcome.success.any()
    assert any("angles" in (by or "") for by in outcome.provenance["felled_by"])
    drawn = fb.create_attack("angles", search="pgd steps=8")(noisy(victim, 0.01), clips, threat=Linf(0.05), draws=3)
    assert (drawn.queries % 3 == 0).all()
    assert drawn.success.any()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"search": "ciasa"}, "ciasa searches positions only"),
        ({"search": "dim"}, "dim searches positions only"),
        ({"search": "angles"}, "angles searches positions only"),
        ({"search": "cw"}, "cw searches positions only"),
        ({"search": "no"}, "no"),
        ({"search": "pgd step"}, "not a setting"),
        ({"slack": 0.0}, "slack"),
        ({"slack": math.nan}, "slack"),
        ({"slack": 2.0}, "slack"),
    ],
)
def test_refusals(settings, says):
    with pytest.raises(fb.DataError, match=says):
        fb.create_attack("angles", **settings)


def test_joints_need_three_coordinates():
    clips = random_clips(2)
    flat = dataclasses.replace(clips, xyz=clips.xyz[..., :2].contiguous())
    with pytest.raises(fb.DataError, match="two coordinates"):
        fb.create_attack("angles")(linear_victim(flat, distance=0.01), flat)


def test_joint_limits_of_recorded_motion_are_kept():
    clips = random_clips(6, frames=12)
    natural = learn_natural_motion(clips)
    # Each clip goes beyond these by itself in some frames, and no further in any.
    limits = learn_limits(clips, share=0.2, margin=0.0)
    tight = dataclasses.replace(natural, limits=limits)
    victim = linear_victim(clips, distance=0.2)
    turned = Turned.of(dataclasses.replace(problem_of(victim, clips), natural=tight), 1.0)
    noise = torch.randn(turned.clean.shape, generator=torch.Generator().manual_seed(0))
    theta = turned.motion.theta + turned.constrain(turned.clean + noise)[..., 1:, :]
    before, after = (
        limits.excess(dataclasses.replace(turned.motion, theta=part)) for part in (turned.motion.theta, theta)
    )
    assert before.max() > 0.1
    assert (after - before).max() < 1e-6
    assert (theta - turned.motion.theta).abs().max() > 0.5
    # Read back from positions, a twist that was cut off at one joint shows at the next.
    clean, reached = limits.angles(clips, breathing=True), []
    for known in (None, tight):
        outcome = fb.create_attack("angles", search="pgd steps=20", slack=1.0)(
            victim, clips, threat=L2(5.0), natural=known
        )
        assert outcome.success.any()
        assert outcome.distances["bone_length_change"].max() < 1e-5
        found = to_angles_near(outcome.adversarial.xyz, clean)
        reached.append(float((limits.excess(found) - limits.excess(clean)).max()))
    assert reached[1] < 0.5 * reached[0]
