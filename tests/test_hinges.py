"""How far elbows and knees bend: which joints they are, the bend itself, and turning back to where it ends."""

import dataclasses
import math

import pytest
import torch

import funnybone as fb
from funnybone import skeletons
from funnybone.attacks.angles import Turned
from funnybone.metrics.natural import FIGURES, learn_natural_motion
from funnybone.motion.hinges import FARTHEST, bends, bends_of, farthest_bends, hinges, no_farther
from funnybone.motion.limits import learn_limits
from funnybone.motion.manifold import Manifold
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import Linf
from parts_for_tests import problem_of

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
    same = (theta[..., turn, :] == motion.theta[..., turn, :]).all(-1)[~beyond]
    assert same.float().mean() > 0.9  # but for those that came through a fold
    others = [place for place in range(theta.shape[3]) if place not in turn.tolist()]
    assert torch.equal(theta[..., others, :], motion.theta[..., others, :])
    # Straight back to the clean rotation, part of the way.
    way, whole = (part[..., turn, :][beyond] - clean.theta[..., turn, :][beyond] for part in (theta, motion.theta))
    share = (way * whole).sum(-1) / whole.square().sum(-1)
    assert ((share >= 0) & (share < 1)).all()
    assert torch.allclose(way, share[:, None] * whole, atol=1e-5)


def test_a_forearm_does_not_go_through_the_upper_arm(clips, limits):
    """Turned on and on, an elbow stops where it first cannot be bent farther, and does not jump to the other side."""
    clean = limits.angles(clips, breathing=True)
    joint = hinges(clips.skeleton, CPU)
    axis = torch.linalg.cross(*(clean.rest[bone[0]] for bone in (joint.near, joint.far)))
    turns = torch.linspace(0, 4.5, clean.theta.shape[2])[:, None] * axis / axis.norm()
    still = dataclasses.replace(clean, theta=torch.zeros_like(clean.theta))
    theta = still.theta.clone()
    theta[..., joint.turn[0], :] = turns
    found = no_farther(theta, still, farthest_bends(still))
    bent = bends(dataclasses.replace(still, theta=found))[0, 0, :, 0]
    assert (bent.diff() > -1e-4).all()  # it bends, and then stays
    assert bent[-1] == pytest.approx(FARTHEST, abs=1e-3)
    assert found.diff(dim=2).norm(dim=-1).max() < 1.01 * theta.diff(dim=2).norm(dim=-1).max()


def test_whatever_is_on_the_way_there_may_be_reached_too(clips, limits):
    clean = limits.angles(clips, breathing=True)
    found = no_farther(thrown(clean, 2.0).theta, clean, farthest_bends(clean))
    for share in torch.linspace(0, 1, 23):
        between = torch.lerp(clean.theta, found, share)
        assert (bends(dataclasses.replace(clean, theta=between)) < farthest_bends(clean) + 0.02).all()


def test_a_search_of_angles_in_a_ball_bends_no_farther(clips):
    natural = learn_natural_motion(clips)
    wide = torch.full_like(natural.limits.upper, 4.0)
    natural = dataclasses.replace(natural, limits=dataclasses.replace(natural.limits, lower=-wide, upper=wide))
    victim = linear_victim(clips, distance=0.5)
    problem = dataclasses.replace(problem_of(victim, clips, threat=Linf(0.15)), natural=natural)
    turned = Turned.of(problem, 1.5)
    noise = torch.randn(turned.clean.shape, generator=torch.Generator().manual_seed(0))
    moved = turned.constrain(turned.clean + 2 * noise)
    theta = turned.motion.theta + moved[..., 1:, :]
    assert (moved.abs() > 0.1).any()
    assert (bends(dataclasses.replace(turned.motion, theta=theta)) < turned.farthest + 0.02).all()


def test_the_test_of_natural_motion_counts_what_bends_beyond_anatomy(clips):
    natural = learn_natural_motion(clips)
    joint, xyz = hinges(clips.skeleton, CPU), clips.xyz.clone()
    near, far = (clips.skeleton.bones[bone[0]] for bone in (joint.near, joint.far))
    # One elbow folded whole, on bones of the same length.
    upper = xyz[:, :, :, near[1]] - xyz[:, :, :, near[0]]
    length = (xyz[:, :, :, far[0]] - xyz[:, :, :, far[1]]).norm(dim=-1, keepdim=True)
    xyz[:, :, :, far[0]] = xyz[:, :, :, near[0]] + length * torch.nn.functional.normalize(upper, dim=-1)
    folded = clips.with_xyz(torch.where(clips.valid[..., None, None], xyz, 0))
    there = clips.valid
    assert torch.allclose(bends_of(folded.xyz, clips.skeleton)[there][:, 0], torch.tensor(math.pi), atol=1e-3)
    beyond = FIGURES.index("beyond_limits")
    assert (natural.figures(folded)[:, beyond] > math.pi - FARTHEST - 1e-3).all()
    assert not natural.holds(folded).any()


@pytest.mark.parametrize("skeleton", [skeletons.HDM05, skeletons.Skeleton("tail", ("root", "a", "b"), (-1, 0, 1))])
def test_a_clip_is_bent_the_same_whoever_is_beside_it(skeleton):
    clips = random_clips(4, frames=8, skeleton=skeleton)
    limits = learn_limits(clips)
    manifold = Manifold.around(limits.angles(clips, breathing=True), limits.lower - 3, limits.upper + 3)
    path = manifold.clean_paths
    path = path + torch.randn(path.shape, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([manifold[torch.tensor([row])].limited(path[[row]]) for row in range(4)])
    assert torch.equal(manifold.limited(path), alone)


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
