"""The tree of joints in motion: levels, ancestors, bones scaled and bones kept."""

from itertools import pairwise

import pytest
import torch

from funnybone.motion.kinematics import ancestors, free_branches, levels, realign, scale_bones, triplets
from funnybone.skeletons import ALL, COCO17, HDM05_25, NTU25, Skeleton


def poses(skeleton, *batch, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*batch, len(skeleton.joints), 3, generator=generator)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_a_level_holds_the_children_of_the_level_before(skeleton):
    by_level = levels(skeleton)
    assert sorted(joint for level in by_level for joint in level) == list(range(len(skeleton.joints)))
    for before, level in pairwise(by_level):
        assert {skeleton.parents[joint] for joint in level} <= set(before)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_ancestors_are_those_on_the_way_to_the_root(skeleton):
    matrix = ancestors(skeleton)
    for joint in range(len(skeleton.joints)):
        on_the_way, at = set(), joint
        while skeleton.parents[at] >= 0:
            on_the_way.add(at)
            at = skeleton.parents[at]
        assert {skeleton.bones[bone][0] for bone in matrix[joint].nonzero().flatten()} == on_the_way
    assert set(matrix.unique().tolist()) <= {0.0, 1.0}


def test_what_is_remembered_serves_gradients_also_when_first_asked_for_without():
    arm = Skeleton("only here", ("a", "b", "c"), (-1, 0, 1))
    with torch.inference_mode():
        ancestors(arm)
        realign(torch.rand(1, 3, 3), torch.rand(1, 3, 3), arm)
    xyz = torch.rand(1, 1, 2, 3, 3, requires_grad=True)
    scale = torch.ones(1, 1, 2, requires_grad=True)
    realign(scale_bones(xyz, scale, arm), torch.rand(1, 1, 2, 3, 3), arm).sum().backward()
    assert scale.grad is not None


def test_every_angle_of_the_published_list_is_bounded():
    """The 22 triplets of Zheng et al. (one-based), but for those at hand tips, which hang on thumbs in our tree."""
    published = (
        "1,2,21 2,21,3 5,21,9 21,3,4 2,1,13 2,1,17 21,9,10 21,5,6 9,10,11 5,6,7 10,11,12 6,7,8 11,12,25 7,8,23 1,13,14 "
        "1,17,18 13,14,15 17,18,19 14,15,16 18,19,20"
    )
    ours = {(frozenset((one, other)), joint) for one, joint, other in triplets(NTU25)}
    for triplet in published.split():
        one, joint, other = (int(number) - 1 for number in triplet.split(","))
        assert (frozenset((one, other)), joint) in ours, triplet
    for skeleton in ALL:
        bones = {frozenset(bone) for bone in skeleton.bones}
        found = triplets(skeleton)
        assert len({(frozenset((one, other)), joint) for one, joint, other in found}) == len(found)
        assert all({frozenset((one, joint)), frozenset((joint, other))} <= bones for one, joint, other in found)


def test_a_branch_is_free_when_nothing_in_it_is_held():
    generator = torch.Generator().manual_seed(0)
    free = torch.rand(40, 25, generator=generator) > 0.1
    found = free_branches(free, NTU25)
    for row, result in zip(free, found, strict=True):
        expected = row.clone()
        for joint in reversed(NTU25.topological_order[1:]):
            expected[NTU25.parents[joint]] &= expected[joint]
        assert torch.equal(result, expected)


def test_scaled_bones_equal_forward_kinematics_joint_by_joint():
    xyz = poses(NTU25, 2, 2, 3)
    scale = 1 + 0.1 * torch.randn(2, 2, 24, generator=torch.Generator().manual_seed(1))
    expected = xyz.clone()
    bone = {child: place for place, (child, _) in enumerate(NTU25.bones)}
    for joint in NTU25.topological_order[1:]:
        parent = NTU25.parents[joint]
        offset = xyz[..., joint, :] - xyz[..., parent, :]
        expected[..., joint, :] = expected[..., parent, :] + scale[:, :, None, bone[joint], None] * offset
    assert torch.allclose(scale_bones(xyz, scale, NTU25), expected, atol=1e-5)
    assert torch.equal(scale_bones(xyz, torch.ones(2, 2, 24), NTU25), xyz)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_realigned_bones_have_the_clean_lengths(skeleton):
    clean = poses(skeleton, 3, 5)
    moved = realign(clean + poses(skeleton, 3, 5, seed=1, spread=0.1), clean, skeleton)
    assert torch.allclose(skeleton.bone_lengths(moved), skeleton.bone_lengths(clean), atol=2e-6)


def test_each_joint_goes_to_the_nearest_point_that_its_bone_reaches():
    clean, xyz = poses(NTU25, 6), poses(NTU25, 6) + poses(NTU25, 6, seed=1, spread=0.2)
    expected = xyz.clone()
    for joint in NTU25.topological_order[1:]:
        parent = NTU25.parents[joint]
        length = (clean[:, joint] - clean[:, parent]).norm(dim=-1, keepdim=True)
        offset = xyz[:, joint] - expected[:, parent]
        expected[:, joint] = expected[:, parent] + offset * length / offset.norm(dim=-1, keepdim=True)
    assert torch.allclose(realign(xyz, clean, NTU25), expected, atol=1e-5)


def test_realigned_poses_come_back_exactly():
    clean = 5 + poses(NTU25, 50)
    assert torch.equal(realign(clean, clean, NTU25), clean)
    moved = realign(clean + poses(NTU25, 50, seed=1, spread=0.1), clean, NTU25)
    assert torch.equal(realign(moved, clean, NTU25), moved)
    # Whatever does not hang on a joint that moved has not moved either.
    one = clean.clone()
    one[:, NTU25.index("ElbowL")] += 0.1
    still = [joint for joint in range(25) if not ancestors(NTU25)[joint, NTU25.index("ElbowL")]]
    assert len(still) == 20
    assert torch.equal(realign(one, clean, NTU25)[:, still], one[:, still])


def test_bones_without_length_stay_without():
    clean = poses(HDM05_25, 4)
    clean[:, HDM05_25.index("LHipJoint")] = clean[:, HDM05_25.index("Hips")]
    moved = realign(clean + poses(HDM05_25, 4, seed=1, spread=0.1), clean, HDM05_25)
    assert (HDM05_25.bone_lengths(moved)[:, 0] == 0).all()
    folded = clean[:, [HDM05_25.root]].repeat(1, 25, 1).requires_grad_(True)  # every joint on the root
    opened = realign(folded, clean, HDM05_25)
    assert torch.allclose(HDM05_25.bone_lengths(opened), HDM05_25.bone_lengths(clean), atol=2e-6)
    opened.sum().backward()
    assert torch.isfinite(folded.grad).all()


def test_a_joint_on_its_parent_takes_the_direction_of_the_clean_bone():
    clean = poses(COCO17, 3)
    folded = clean.clone()
    leaf = COCO17.index("left_wrist")
    folded[:, leaf] = clean[:, COCO17.parents[leaf]]
    assert torch.allclose(realign(folded, clean, COCO17), clean, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_the_derivative_is_that_of_the_formula_also_where_nothing_moves(spread):
    clean = poses(COCO17, 1).double()
    xyz = realign(clean, clean, COCO17) + poses(COCO17, 1, seed=1, spread=spread).double()
    weights = poses(COCO17, 1, seed=2).double()

    def total(joints, bones):
        return (realign(joints, bones, COCO17) * weights).sum()

    assert torch.autograd.gradcheck(
        total, (xyz.requires_grad_(True), clean.clone().requires_grad_(True)), eps=1e-6, atol=1e-6
    )
