"""Joint angles: motion there and back on every skeleton, on recordings, and what angles mean."""

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import funnybone as fb
from funnybone.motion.angles import AngleMotion, positions, residual, to_angles, to_angles_near
from funnybone.motion.kinematics import ancestors
from funnybone.motion.rest import rest_pose
from funnybone.motion.rotations import matrix
from funnybone.motion.turns import turns
from funnybone.skeletons import ALL, COCO17, HDM05, HDM05_25, KINECT20, NTU25, Skeleton

ODD = (
    Skeleton("chain", tuple("abcde"), (-1, 0, 1, 2, 3)),
    Skeleton("chain from its middle", tuple("abcde"), (1, 2, -1, 2, 3)),
    Skeleton("star", tuple("abcde"), (-1, 0, 0, 0, 0)),
    Skeleton("last is first", tuple("abcd"), (3, 0, 0, -1)),
    Skeleton("bone", tuple("ab"), (1, -1)),
    Skeleton("point", ("a",), (-1,)),
)
SKELETONS = (*ALL, *ODD)
skeletons = st.sampled_from(SKELETONS)
seeds = st.integers(0, 2**31)


def unit(*shape, generator):
    return torch.nn.functional.normalize(torch.randn(*shape, 3, generator=generator, dtype=torch.float64), dim=-1)


def rigid(skeleton, n=2, m=1, t=6, *, seed=0, pace=0.5, pointless=True):
    """Motion in which every bone keeps its length and turns as it likes, of persons of their own sizes.

    The first child's bone has no length where there are others.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(skeleton.bones)
    start, other = unit(n, m, 1, count, generator=generator), unit(n, m, 1, count, generator=generator)
    angle = pace * torch.arange(t, dtype=torch.float64)[:, None, None]
    directions = matrix(angle * other) @ start[..., None]
    lengths = 0.1 + 0.4 * torch.rand(n, m, 1, count, generator=generator, dtype=torch.float64)
    if pointless and count > 2:
        lengths[..., 0] = 0
    root = 4 + unit(n, m, t, 1, generator=generator)
    return root + ancestors(skeleton, dtype=torch.float64) @ (lengths[..., None] * directions.squeeze(-1))


def everywhere(xyz):
    return torch.ones(xyz.shape[:3], dtype=torch.bool)


def angles_of(xyz, skeleton, valid=None, of=None):
    valid = everywhere(xyz) if valid is None else valid
    return to_angles(xyz, valid, skeleton, rest_pose(*((xyz, valid) if of is None else of), skeleton))


@given(skeleton=skeletons, seed=seeds, persons=st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_rigid_motion_comes_back(skeleton, seed, persons):
    xyz = rigid(skeleton, m=persons, seed=seed)
    exact = angles_of(xyz, skeleton)
    assert (positions(exact) - xyz).abs().max() < 1e-7
    stored = angles_of(xyz.float(), skeleton)
    assert positions(stored).dtype == stored.theta.dtype == torch.float32
    assert (positions(stored) - xyz).norm(dim=-1).max() < 1e-5
    assert torch.allclose(
        stored.lengths, torch.linalg.vector_norm(bones(xyz, skeleton), dim=-1)[:, :, :1].float(), atol=1e-6
    )


def bones(xyz, skeleton):
    child, parent = ([bone[end] for bone in skeleton.bones] for end in (0, 1))
    return xyz[..., child, :] - xyz[..., parent, :]


@pytest.mark.parametrize("skeleton", SKELETONS, ids=lambda skeleton: skeleton.name)
def test_rotations_are_applied_joint_by_joint(skeleton):
    """Forward kinematics as a textbook has them, for one frame."""
    motion = random_motion(skeleton, n=1, t=1)
    theta, names = motion.theta[0, 0, 0].numpy(), turns(skeleton)
    rotation = {name: Rotation.from_rotvec(vector) for name, vector in zip(names, theta, strict=True)}
    drawn = (motion.lengths[0, 0, 0, :, None] * motion.rest).numpy()
    place = {child: bone for bone, (child, _) in enumerate(skeleton.bones)}
    frame = {skeleton.root: Rotation.from_matrix(motion.facing[0, 0].numpy())}
    xyz = {skeleton.root: motion.root[0, 0, 0].numpy()}
    for joint in skeleton.topological_order[1:]:
        parent = skeleton.parents[joint]
        own = rotation.get(f"{skeleton.joints[parent]}-{skeleton.joints[joint]}", Rotation.identity())
        frame[joint] = frame[parent] * rotation[skeleton.joints[parent]] * own
        xyz[joint] = xyz[parent] + frame[joint].apply(drawn[place[joint]])
    found = positions(motion)[0, 0, 0]
    assert all((found[joint] - torch.from_numpy(where)).abs().max() < 1e-12 for joint, where in xyz.items())


def random_motion(skeleton, n=2, m=1, t=3, *, seed=0, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    theta = size * torch.randn(n, m, t, len(turns(skeleton)), 3, generator=generator, dtype=torch.float64)
    count = len(skeleton.bones)
    lengths = 0.1 + torch.rand(n, m, 1, count, generator=generator, dtype=torch.float64)
    if count > 2:
        lengths[..., 0] = 0
    return AngleMotion(
        root=unit(n, m, t, generator=generator),
        theta=theta,
        lengths=lengths,
        facing=matrix(unit(n, m, generator=generator)),
        rest=unit(count, generator=generator),
        valid=torch.ones(n, m, t, dtype=torch.bool),
        skeleton=skeleton,
    )


def test_the_way_forward_is_each_clips_own_and_serves_gradients_after_none():
    fork = Skeleton("only here", ("a", "b", "c", "d"), (-1, 0, 1, 1))
    motion = random_motion(fork, n=7, m=2, t=9)
    with torch.inference_mode():
        together = positions(motion)
    for rows in ([], [3], [6, 0, 3]):
        assert torch.equal(positions(motion[torch.tensor(rows, dtype=torch.long)]), together[rows])
    leaf = motion.theta.clone().requires_grad_(True)
    positions(replace(motion, theta=leaf)).square().sum().backward()
    assert (leaf.grad != 0).any()


def test_rotations_are_named_once_each():
    for skeleton in SKELETONS:
        assert len(set(turns(skeleton))) == len(turns(skeleton)) == random_motion(skeleton).theta.shape[3]
    carrying = {HDM05.joints[parent] for parent in HDM05.parents if parent >= 0}
    assert set(turns(HDM05)[: len(carrying)]) == carrying
    assert turns(HDM05)[len(carrying) :][:2] == ("root-lhipjoint", "root-rhipjoint")
    assert turns(ODD[-1]) == ()


@pytest.mark.parametrize("skeleton", [KINECT20, HDM05_25, COCO17, *ODD[2:5]], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_the_way_forward_has_the_right_derivative(skeleton, size):
    motion = random_motion(skeleton, n=1, t=1, size=size)
    weights = unit(1, 1, 1, len(skeleton.joints), generator=torch.Generator().manual_seed(9))

    def total(root, theta, lengths):
        return (positions(replace(motion, root=root, theta=theta, lengths=lengths)) * weights).sum()

    leaves = tuple(leaf.clone().requires_grad_(True) for leaf in (motion.root, motion.theta, motion.lengths))
    assert torch.autograd.gradcheck(total, leaves, eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("skeleton", SKELETONS[:-1], ids=lambda skeleton: skeleton.name)
def test_the_way_there_has_a_derivative_everywhere(skeleton):
    xyz, valid = rigid(skeleton, n=1, t=3), torch.tensor([[[True, True, False]]])
    rest = rest_pose(xyz, valid, skeleton)
    at_rest = replace(random_motion(skeleton, n=1), rest=rest, theta=torch.zeros(1, 1, 3, len(turns(skeleton)), 3))
    at_rest = replace(at_rest, theta=at_rest.theta.double())
    clean = to_angles(xyz, valid, skeleton, rest)
    point, opposite = torch.ones_like(xyz), positions(replace(at_rest, rest=-rest))
    for pose in (xyz, xyz + 0.01 * torch.randn_like(xyz), positions(at_rest), opposite, point):
        for there in (lambda xyz: to_angles(xyz, valid, skeleton, rest), lambda xyz: to_angles_near(xyz, clean)):
            leaf = pose.clone().requires_grad_(True)
            motion = there(leaf)
            (slope,) = torch.autograd.grad((motion.theta * at_rest.theta.add(1)).sum() + motion.root.sum(), leaf)
            assert torch.isfinite(slope).all()
            assert (slope[~valid] == 0).all()


def test_the_way_there_has_the_right_derivative():
    hand = Skeleton("hand", ("elbow", "wrist", "thumb", "finger", "tip"), (-1, 0, 1, 1, 3))
    xyz = rigid(hand, n=1, t=2, pointless=False)
    clean = angles_of(xyz, hand)
    weights = torch.randn_like(clean.theta)

    def total(moved):
        return (to_angles_near(moved, clean).theta * weights).sum()

    leaf = (xyz + 0.02 * torch.randn_like(xyz)).requires_grad_(True)
    assert torch.autograd.gradcheck(total, leaf, eps=1e-6, atol=1e-4, rtol=1e-4)


@given(skeleton=skeletons, seed=seeds)
@settings(max_examples=15, deadline=None)
def test_angles_near_a_motion_are_its_own_where_nothing_has_moved(skeleton, seed):
    """Also where its angles are not those that inverse kinematics would choose."""
    motion = random_motion(skeleton, seed=seed)
    again = to_angles_near(positions(motion), motion)
    assert (again.theta - motion.theta).abs().max() < 1e-5 if motion.theta.numel() else True
    assert (positions(again) - positions(motion)).abs().max() < 1e-8


def test_what_moves_little_turns_little_also_beyond_half_a_turn():
    time = torch.linspace(0, 1, 40, dtype=torch.float64)
    xyz = rigid(HDM05, n=3, t=40, pace=0.2, pointless=False)  # every bone turns by 8 radians
    clean = angles_of(xyz, HDM05)
    assert clean.theta.norm(dim=-1).max() > 3.5
    moved = xyz + 1e-4 * torch.sin(9 * time)[:, None, None]
    near = to_angles_near(moved + 1e-5 * torch.randn_like(xyz), clean)
    assert (near.theta - clean.theta).abs().max() < 0.05
    assert near.rest is clean.rest
    assert torch.equal(near.lengths, clean.lengths)


def test_a_joint_that_carries_one_bone_does_not_twist_it():
    motion = angles_of(rigid(NTU25, pointless=False), NTU25)
    names = turns(NTU25)
    for bone, (_, parent) in enumerate(NTU25.bones):
        if NTU25.parents.count(parent) == 1 and parent != NTU25.root:
            theta = motion.theta[..., names.index(NTU25.joints[parent]), :]
            assert (theta @ motion.rest[bone]).abs().max() < 1e-6 * theta.abs().max()


def test_bones_without_length_are_looked_through():
    """The hip joints of HDM05_25 lie on the hips, and the thighs that hang on them say how the hips are turned."""
    names, bone = turns(HDM05_25), [child for child, _ in HDM05_25.bones]
    pose = rigid(HDM05_25, n=1, t=1, pointless=False)
    for hip in (HDM05_25.index("LHipJoint"), HDM05_25.index("RHipJoint")):
        leg = ancestors(HDM05_25)[:, bone.index(hip)] > 0
        pose[..., leg, :] += pose[..., [HDM05_25.root], :] - pose[..., [hip], :]
    spine = pose[0, 0, 0, HDM05_25.index("Spine")] - pose[0, 0, 0, HDM05_25.root]
    angle = torch.linspace(0, 3, 20, dtype=torch.float64)[:, None]
    xyz = pose @ matrix(angle * spine / spine.norm()).mT
    xyz[..., HDM05_25.index("LHipJoint"), :] += 1e-8 * torch.randn(1, 1, 20, 3)  # points nowhere
    motion = angles_of(xyz, HDM05_25)
    assert (motion.theta[..., names.index("Hips-LHipJoint"), :] == 0).all()
    turned = motion.theta[0, 0, :, names.index("Hips")]
    assert torch.allclose((turned[-1] - turned[0]).norm(), angle[-1], rtol=1e-4)
    others = motion.theta[0, 0, :, [name != "Hips" for name in names]]
    assert (others - others[:1]).abs().max() < 1e-4


def test_angles_do_not_depend_on_place_and_direction():
    xyz = rigid(NTU25, n=3, t=8, pace=0.1)
    rest = rest_pose(xyz, everywhere(xyz), NTU25)
    turn = matrix(torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64))
    here, there = (to_angles(xyz, everywhere(xyz), NTU25, rest) for xyz in (xyz, 3 + xyz @ turn.mT))
    assert (here.theta - there.theta).abs().max() < 1e-5
    assert (here.facing - turn.mT @ there.facing).abs().max() < 1e-5
    assert here.theta[:, :, 3, turns(NTU25).index("SpineShoulder")].abs().max() < 1e-5  # the middle one


def test_a_person_who_turns_in_circles_is_a_ramp():
    angle = torch.linspace(0, 6 * torch.pi, 90, dtype=torch.float64)
    turn = matrix(angle[:, None] * torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    pose = rigid(KINECT20, n=1, t=1, pointless=False)
    motion = angles_of(pose @ turn.mT, KINECT20)
    root = motion.theta[0, 0, :, turns(KINECT20).index("hip_center")]
    step = root.diff(dim=0)
    assert (step - step[:1]).abs().max() < 1e-3
    assert torch.allclose((root[-1] - root[0]).norm(), angle[-1], rtol=1e-5)
    others = motion.theta[0, 0, :, [name != "hip_center" for name in turns(KINECT20)]]
    assert (others - others[:1]).abs().max() < 1e-5


def test_absent_persons_and_padding():
    xyz, valid = rigid(COCO17, n=3, m=2, t=7), torch.ones(3, 2, 7, dtype=torch.bool)
    valid[0, 1] = False
    valid[1, :, 4:] = False
    valid[2, 0, [0, 3]] = False
    xyz = torch.where(valid[..., None, None], xyz, 0)
    rest = rest_pose(xyz, valid, COCO17)
    motion = to_angles(xyz, valid, COCO17, rest)
    assert torch.equal(positions(motion) != 0, xyz != 0)
    assert (positions(motion) - xyz).abs().max() < 1e-7
    assert all((part[0, 1] == 0).all() for part in (motion.theta, motion.root, motion.lengths))
    for part in (motion.theta, motion.root):  # what does not count stays where it was, and does not jump to zero
        assert torch.equal(part[1, :, 4:], part[1, :, 3:4].expand_as(part[1, :, 4:]))
        assert torch.equal(part[2, 0, [0, 3]], part[2, 0, [1, 2]])
    # Whatever stands where frames are not valid, and whichever clips stand beside, changes nothing.
    spoilt = to_angles(torch.where(valid[..., None, None], xyz, 99), valid, COCO17, rest)
    near = to_angles_near(torch.where(valid[..., None, None], xyz, 99), motion)
    alone = to_angles(xyz[1:2], valid[1:2], COCO17, rest)
    for part in ("theta", "root", "lengths", "facing"):
        assert torch.equal(getattr(spoilt, part), getattr(motion, part))
        assert torch.allclose(getattr(near, part), getattr(motion, part), atol=1e-6)
        assert torch.allclose(getattr(alone, part), getattr(motion, part)[1:2], atol=1e-12)
    leaf = motion.theta.clone().requires_grad_(True)
    positions(replace(motion, theta=leaf)).square().sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert (leaf.grad[~valid] == 0).all()
    assert (leaf.grad[valid] != 0).any()


def test_the_flat_view():
    motion = random_motion(COCO17, n=2, m=2, t=5)
    count = len(turns(COCO17))
    flat = motion.flat()
    assert flat.shape == (2, 5, 2 * count * 3)
    assert torch.equal(flat[1, 3], torch.cat([motion.theta[1, 0, 3].flatten(), motion.theta[1, 1, 3].flatten()]))
    assert torch.equal(motion.with_flat(flat).theta, motion.theta)
    leaf = flat.clone().requires_grad_(True)
    positions(motion.with_flat(leaf)).sum().backward()
    assert leaf.grad.abs().sum() > 0


# The set's file, frames it is resampled to, and how many metres joints are missed by on average, at most.
RECORDED = {
    "hdm05_11": ("hdm05/hdm05_11.npz", None, 1e-6),
    "hdm05_11 at 60 frames": ("hdm05/hdm05_11.npz", 60, 2e-5),
    "utd_mhad": ("utd_mhad/utd_mhad.npz", 60, 0.014),
    "nw_ucla": ("nw_ucla/nw_ucla.npz", 60, 0.029),
}


@lru_cache
def recorded(path, frames):
    return fb.load_data(path, frames=frames)[::20]


@pytest.mark.parametrize("name", RECORDED)
def test_recordings_come_back(shared, name):
    file, frames, expected = RECORDED[name]
    clips = recorded(shared / "data" / file, frames)
    xyz, valid = clips.xyz[:, :, :100], clips.valid[:, :, :100]
    motion = angles_of(xyz, clips.skeleton, valid)
    once, missed = positions(motion), residual(motion, xyz)
    assert missed.mean() < expected
    if frames is None:
        assert (once - xyz).norm(dim=-1).max() < 1e-5
    # What comes back has rigid bones, so that it comes back exactly.
    assert (positions(to_angles_near(once, motion)) - once).abs().max() < 1e-5
    again = to_angles(once, valid, clips.skeleton, motion.rest)
    assert (positions(again) - once).norm(dim=-1).max() < 1e-5


def test_synthetic_clips_come_back(synthetic):
    clips = synthetic[::4]
    assert residual(angles_of(clips.xyz, clips.skeleton, clips.valid), clips.xyz).max() < 1e-6


def test_people_rest_upright_with_arms_beside_them(shared):
    """Bones of the mean pose, in axes of the body: x to its left, y upwards, z to the front."""
    for file in ("hdm05/hdm05_11.npz", "utd_mhad/utd_mhad.npz"):
        clips = recorded(shared / "data" / file, 60)
        rest = rest_pose(clips.xyz, clips.valid, clips.skeleton)
        place = {clips.skeleton.joints[child]: rest[bone] for bone, (child, _) in enumerate(clips.skeleton.bones)}
        assert torch.allclose(rest.norm(dim=-1), torch.ones(len(rest)))
        for left, right in clips.skeleton.pairs:
            one, other = (place[clips.skeleton.joints[joint]] for joint in (left, right))
            assert (one * torch.tensor([-1.0, 1.0, 1.0])) @ other > 0.8, (file, clips.skeleton.joints[left])
        head = place["head"]
        foot = place.get("left_foot", place.get("ltoes"))
        knee = place.get("left_knee", place.get("lfemur"))
        assert head[1] > 0.9
        assert knee[1] < -0.8
        assert foot[2] > 0.4
        order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))
        assert (rest_pose(clips.xyz[order], clips.valid[order], clips.skeleton) - rest).abs().max() < 0.02
        motion = to_angles(clips.xyz, clips.valid, clips.skeleton, rest)
        assert motion.theta[clips.valid].norm(dim=-1).median() < 0.5


def test_bones_rest_somewhere_on_every_skeleton():
    for skeleton in SKELETONS:
        xyz = rigid(skeleton)
        for pose in (xyz, torch.ones_like(xyz)):
            rest = rest_pose(pose, everywhere(xyz), skeleton)
            assert (rest.norm(dim=-1) - 1).abs().max() < 1e-6 if len(rest) else True


def test_what_cannot_be_turned_is_refused():
    xyz = rigid(COCO17)
    with pytest.raises(fb.DataError, match="2 coordinates"):
        to_angles(xyz[..., :2], everywhere(xyz), COCO17, torch.zeros(16, 3))
    with pytest.raises(fb.DataError, match="24 bones"):
        to_angles(xyz, everywhere(xyz), COCO17, torch.zeros(24, 3))
