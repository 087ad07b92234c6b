"""How far elbows and knees bend: which joints they are, the bend itself, and turning back to where it ends."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone import skeletons
from funnybone.motion.hinges import FARTHEST, bends, farthest_bends, hinges, no_farther
from funnybone.motion.limits import learn_limits
from funnybone.motion.manifold import Manifold

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("skeleton", "expected"),
    [
        (skeletons.NTU25, {"ElbowL", "ElbowR", "KneeL", "KneeR"}),
        (skeletons.HDM05, {"lhumerus", "rhumerus", "lfemur", "rfemur"}),
        (skeletons.HDM05_25, {"LeftForeArm", "RightForeArm", "LeftLeg", "RightLeg"}),
        (skeletons.MHAD, {"LeftForeArm", "RightForeArm", "LeftLeg", "RightLeg"}),
        (skeletons.KINECT20, {"left_elbow", "right_elbow", "left_knee", "right_knee"}),
        (skeletons.UTD20, {"left_elbow", "right_elbow", "left_knee", "right_knee"}),
        (skeletons.Skeleton("tail", ("root", "a", "b"), (-1, 0, 1)), set()),
        (skeletons.Skeleton("stump", ("root", "left_elbow"), (-1, 0)), set()),
    ],
)
def test_elbows_and_knees_are_known_by_name(skeleton, expected):
    found = hinges(skeleton, CPU)
    assert {skeleton.joints[skeleton.bones[bone][0]] for bone in found.near.tolist()} == expected
    for near, far in zip(found.near.tolist(), found.far.tolist(), strict=True):
        assert skeleton.bones[far][1] == skeleton.bones[near][0]


@pytest.fixture(scope="module")
def clips():
    return fb.load_data("synthetic", split="test")[:6]


@pytest.fixture(scope="module")
def limits(clips):
    return learn_limits(clips)


def thrown(motion, size, seed=0):
    noise = torch.randn(motion.theta.shape, generator=torch.Generator().manual_seed(seed))
    there = motion.valid[..., None, None]
    return dataclasses.replace(motion, theta=torch.where(there, motion.theta + size * noise, motion.theta))


def test_a_bend_is_the_angle_between_the_bones(clips, limits):
    motion = limits.angles(clips, breathing=True)
    joint = hinges(clips.skeleton, CPU)
    bones = clips.skeleton.bone_vectors(clips.xyz).double()
    near, far = bones[..., joint.near, :], bones[..., joint.far, :]
    expected = torch.nn.functional.cosine_similarity(near, far, dim=-1)[clips.valid]
    assert (bends(motion)[clips.valid].double().cos() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_what_bends_too_far_is_turned_back_to_where_that_ends(clips, limits, seed):
    clean = limits.angles(clips, breathing=True)
    farthest = bends(clean).amax(2, keepdim=True).clamp(min=2.0)
    motion = thrown(clean, 1.5, seed)
    before = bends(motion)
    theta = no_farther(motion.theta, clean, farthest)
    after = bends(dataclasses.replace(motion, theta=theta))
    beyond = before > farthest + 1e-5
    assert 0.02 < beyond.float().mean() < 0.9
    assert (after < farthest + 1e-5).all()
    assert ((after > farthest - 1e-3) | ~beyond).all()  # and no farther back than that
    turn = hinges(clips.skeleton, CPU).turn
    assert torch.equal(theta[..., turn, :][~beyond], motion.theta[..., turn, :][~beyond])
    others = [place for place in range(theta.shape[3]) if place not in turn.tolist()]
    assert torch.equal(theta[..., others, :], motion.theta[..., others, :])
    # Straight back to the clean rotation, part of the way.
    way, whole = (part[..., turn, :][beyond] - clean.theta[..., turn, :][beyond] for part in (theta, motion.theta))
    share = (way * whole).sum(-1) / whole.square().sum(-1)
    assert ((share >= 0) & (share < 1)).all()
    assert torch.allclose(way, share[:, None] * whole, atol=1e-5)


def test_limits_count_what_bends_beyond_anatomy(clips, limits):
    free = dataclasses.replace(limits, lower=limits.lower - torch.inf, upper=limits.upper + torch.inf)
    motion = thrown(free.angles(clips), 1.5)
    excess, turn = free.excess(motion), hinges(clips.skeleton, CPU).turn
    over = (bends(motion) - FARTHEST).clamp(min=0) * clips.valid[..., None]
    assert over.max() > 0.1
    assert torch.equal(excess[..., turn, :], over[..., None].expand(*over.shape, 3))
    assert excess.sum() == 3 * over.sum()
    assert free.excess(free.angles(clips)).max() == 0


def test_natural_motion_bends_no_farther(clips, limits):
    clean = limits.angles(clips, breathing=True)
    wide = torch.full_like(limits.upper, 3.0)
    manifold = Manifold.around(clean, -wide, wide)
    path = manifold.paths(clips.xyz)
    path = path + torch.randn(path.shape, generator=torch.Generator().manual_seed(0))
    for natural in (manifold.limited(path), manifold.projected(path)):
        motion = dataclasses.replace(clean, theta=natural[..., 3:].unflatten(-1, (-1, 3)))
        assert bends(motion).max() < FARTHEST + 1e-5
        assert (natural[..., 3:].abs() <= 3.0).all() or clean.theta.abs().max() > 3.0
    beyond = bends(dataclasses.replace(clean, theta=path[..., 3:].unflatten(-1, (-1, 3))))
    assert beyond.max() > FARTHEST


def test_a_clean_clip_that_bends_farther_keeps_its_own_bend(clips, limits):
    clean = limits.angles(clips, breathing=True)
    clean = thrown(clean, 1.5)
    assert bends(clean).max() > FARTHEST
    assert torch.equal(no_farther(clean.theta, clean, farthest_bends(clean)), clean.theta)
    manifold = Manifold.around(clean, limits.lower, limits.upper)
    assert (manifold.limited(manifold.clean_paths) - manifold.clean_paths).abs().max() < 1e-5


def test_recorded_knees_and_elbows_are_within(shared):
    clips = fb.load_data(str(shared / "data/hdm05/hdm05_11.npz"))[::4]
    limits = learn_limits(clips)
    found = bends(limits.angles(clips, breathing=True))[clips.valid]
    assert (found > FARTHEST).float().mean() < 1e-3
    assert found.max() < FARTHEST + 0.05
