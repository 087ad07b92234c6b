"""HRNN computes what one recurrent layer after another would, and finds five body parts on every skeleton."""

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import create
from funnybone.models.hrnn import LIMBS, PARTS, parts_of
from funnybone.skeletons import ALL, COCO17, HDM05_25, KINECT20, NTU25, OPENPOSE18, Skeleton
from textbook import hrnn


def small(**options):
    torch.manual_seed(0)
    sizes = {"hidden1": 3, "hidden2": 4, "hidden3": 5, "hidden4": 6}
    return create("hrnn", **{"num_classes": 5, **sizes, **options}).eval()


def clips(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_parameters():
    net = create("hrnn", num_classes=65)
    assert sum(parameter.numel() for parameter in net.parameters()) == 247_085
    state = net.state_dict()
    assert len(state) == 12 * 8 + 2
    assert state["parts.left_arm.weight_ih_l0"].shape == (30, 18)
    assert state["limbs.right_leg.weight_hh_l0_reverse"].shape == (30, 30)
    assert state["halves.upper.weight_ih_l0"].shape == (60, 120)
    assert state["body.weight_ih_l0"].shape == (240, 240)
    assert state["fc.weight"].shape == (65, 120)


def test_parts_of_the_two_published_layouts():
    assert parts_of(NTU25) == {
        "left_arm": (4, 5, 6, 7, 21, 22),
        "right_arm": (8, 9, 10, 11, 23, 24),
        "left_leg": (12, 13, 14, 15),
        "right_leg": (16, 17, 18, 19),
        "trunk": (0, 1, 2, 3, 20),
    }
    assert parts_of(HDM05_25) == {
        "left_arm": tuple(range(15, 20)),
        "right_arm": tuple(range(20, 25)),
        "left_leg": tuple(range(0, 5)),
        "right_leg": tuple(range(5, 10)),
        "trunk": tuple(range(10, 15)),
    }


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_parts_by_the_names_of_joints(skeleton):
    parts = {part: [skeleton.joints[j].lower() for j in joints] for part, joints in parts_of(skeleton).items()}
    assert set(parts) == set(PARTS)
    assert sorted(j for joints in parts.values() for j in joints) == sorted(map(str.lower, skeleton.joints))
    assert all(len(joints) >= 2 for joints in parts.values())
    arm = ("arm", "shoulder", "clavicle", "humerus", "radius", "elbow", "wrist", "hand", "finger", "thumb")
    leg = ("leg", "hip", "femur", "tibia", "knee", "ankle", "foot", "toe")
    trunk = (
        "spine",
        "hips",
        "hip_center",
        "neck",
        "head",
        "root",
        "back",
        "thorax",
        "shoulder_center",
        "spineshoulder",
    )
    for part in LIMBS:
        side, words = part.split("_")[0], arm if part.endswith("arm") else leg
        assert all(any(word in joint for word in words) for joint in parts[part])
        other = "right" if side == "left" else "left"
        assert all(other not in joint and (joint[0] == side[0] or joint[-1] == side[0]) for joint in parts[part])
    assert all(any(word in joint for word in (*trunk, "nose", "eye", "ear")) for joint in parts["trunk"])


def test_eyes_and_ears_are_the_heads():
    assert parts_of(COCO17)["trunk"] == (0, 1, 2, 3, 4)
    assert parts_of(COCO17)["left_arm"] == (5, 7, 9)
    assert parts_of(OPENPOSE18)["trunk"] == (0, 1, 14, 15, 16, 17)
    assert parts_of(OPENPOSE18)["right_leg"] == (8, 9, 10)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_parts_do_not_depend_on_names_or_on_the_root(skeleton):
    expected = parts_of(skeleton)
    nameless = tuple(f"j{index}" for index in range(len(skeleton.joints)))
    assert parts_of(Skeleton("nameless", nameless, skeleton.parents, skeleton.centre, skeleton.pairs)) == expected
    parents, child, parent = list(skeleton.parents), 13, skeleton.parents[13]  # hang it up by a foot or hand
    parents[child] = -1
    while parent >= 0:
        parents[parent], child, parent = child, parent, parents[parent]
    turned = Skeleton("turned", nameless, tuple(parents), skeleton.centre, skeleton.pairs)
    assert parts_of(turned) == expected


def body(arms, legs, head=True, name="J"):
    """A pelvis and a chest, arms and legs of some joints each, and maybe a head."""
    parents, pairs = [-1, 0, *([1] if head else [])], []
    names = ["pelvis", "chest", *(["head"] if head else [])]
    for hook, length, word in ((1, arms, "Arm"), (0, legs, "Leg")):
        for index in range(length):
            first = len(parents)
            parents += [hook, hook] if index == 0 else [first - 2, first - 1]
            pairs.append((first, first + 1))
            names += [f"{side}{word if name == 'named' else ''}{first}" for side in "ab"]
    return Skeleton("body", tuple(names), tuple(parents), 1, tuple(pairs))


def test_parts_of_plain_bodies():
    for arms, legs in ((3, 3), (2, 2), (2, 3), (5, 3)):
        parts = parts_of(body(arms, legs))
        assert [len(parts[part]) for part in ("left_arm", "left_leg", "trunk")] == [arms, legs, 3]
        assert parts["left_arm"][0] == 3
    assert len(parts_of(body(3, 4, head=False, name="named"))["right_leg"]) == 4


def test_a_face_of_many_joints_is_no_limb():
    plain = body(3, 4)
    count = len(plain.joints)
    eyes = [f"{side}_{place}" for place in ("eye_inner", "eye", "ear") for side in ("left", "right")]
    parents = (*plain.parents, 2, 2, *range(count, count + 4))
    pairs = (*plain.pairs, *((first, first + 1) for first in range(count, count + 6, 2)))
    faced = Skeleton("faced", (*plain.joints, *eyes), parents, 1, pairs)
    assert parts_of(faced) == {**parts_of(plain), "trunk": (0, 1, 2, *range(count, count + 6))}


@pytest.mark.parametrize(
    ("skeleton", "word"),
    [
        (body(3, 3, head=False), "nothing tells arms from legs"),
        (body(3, 0), "1 pair of limbs hang on the trunk, not 2"),
        (Skeleton("chain", ("a", "b", "c"), (-1, 0, 1)), "no joint has a mirror image"),
        (Skeleton("sides", ("a", "b"), (-1, 0), pairs=((0, 1),)), "no trunk"),
        (Skeleton("twice", NTU25.joints, NTU25.parents, 20, ((4, 8), (12, 8))), "limbs share joints"),
    ],
)
def test_a_skeleton_without_five_parts_is_named(skeleton, word):
    with pytest.raises(DataError, match=f"HRNN: skeleton '{skeleton.name}'.*{word}"):
        create("hrnn", skeleton=skeleton)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_equals_separate_recurrent_layers(skeleton):
    for persons, frames in ((1, 1), (2, 2), (1, 9)):
        net = small(skeleton=skeleton, persons=persons).double()
        xyz = clips(2, persons, frames, len(skeleton.joints), 3)
        ours, theirs = xyz.clone().requires_grad_(), xyz.clone().requires_grad_()
        found, expected = net(ours), hrnn.forward(net, theirs)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        gradients = []
        for logits in (found, expected):
            net.zero_grad()
            (logits * torch.arange(5)).logsumexp(1).sum().backward()
            gradients.append([parameter.grad.clone() for parameter in net.parameters()])
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12)
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_gradient_of_the_input_alone_with_frozen_weights():
    net = small(persons=1).double().requires_grad_(False)
    xyz = clips(2, 1, 9, 25, 3).requires_grad_()
    found = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz)[0]
    expected = torch.autograd.grad(hrnn.forward(net, xyz).logsumexp(1).sum(), xyz)[0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_a_persons_sequence_is_the_frames_in_which_he_is_present():
    net = small().double()
    xyz = clips(3, 2, 12, 25, 3)
    present = torch.ones(3, 2, 12, dtype=torch.bool)
    present[0, 1], present[1, 0, 7:], present[1, 1, :3], present[2, 0, 4:6], present[2, 1, ::2] = (False,) * 5
    xyz = torch.where(present[..., None, None], xyz, 0).requires_grad_()
    alone = create("hrnn", num_classes=5, persons=1, hidden1=3, hidden2=4, hidden3=5, hidden4=6).double()
    alone.load_state_dict(net.state_dict())
    expected = []
    for clip, seen in zip(xyz, present, strict=True):
        each = [hrnn.forward(alone, p[s][None, None]) for p, s in zip(clip, seen, strict=True) if s.any()]
        expected.append(torch.stack(each).mean(0))
    found, expected = net(xyz), torch.cat(expected)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(logits.logsumexp(1).sum(), xyz)[0] for logits in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)
    assert (gradients[0][~present] == 0).all()


def test_empty_frames_and_persons_make_no_difference():
    assert create("hrnn").skips_empty
    net, xyz = small().double(), clips(2, 2, 8, 25, 3)
    gap = torch.zeros(2, 2, 3, 25, 3, dtype=torch.float64)
    for padded in ((gap, xyz), (xyz, gap), (xyz[:, :, :3], gap, xyz[:, :, 3:])):
        torch.testing.assert_close(net(torch.cat(padded, 2)), net(xyz))
    torch.testing.assert_close(net(xyz), net(xyz.flip(1)))
    nobody = net(torch.zeros(1, 2, 8, 25, 3, dtype=torch.float64))
    torch.testing.assert_close(nobody, net.fc.bias[None])


def test_order_of_frames_counts_and_length_does_not_scale_the_logits():
    net, xyz = small(persons=1).double(), clips(2, 1, 40, 25, 3)
    assert (net(xyz) - net(xyz.flip(2))).abs().max() > 1e-3
    still = xyz[:, :, :1]
    short, long = (net(still.expand(-1, -1, frames, -1, -1)) for frames in (100, 200))
    assert (short - long).abs().max() < 0.05 * (short - net.fc.bias).abs().max()


def test_frozen_networks_can_be_differentiated_twice():
    net = small(persons=1, skeleton=KINECT20).double().requires_grad_(False)
    assert torch.autograd.gradgradcheck(net, clips(1, 1, 3, 20, 3).requires_grad_(), fast_mode=True)
    net = small(persons=1).requires_grad_(False)  # single precision takes other kernels in PyTorch's own modules
    xyz = torch.randn(2, 1, 6, 25, 3, requires_grad=True)
    first = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
    assert torch.isfinite(torch.autograd.grad(first.square().sum(), xyz)[0]).all()


def test_autocast():
    net = small(persons=1).requires_grad_(False)
    xyz = torch.randn(2, 1, 6, 25, 3, requires_grad=True)
    expected = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(net(xyz).float().logsumexp(1).sum(), xyz)[0]
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.99


@pytest.mark.slow
def test_export():
    net, xyz = small(persons=1, hidden1=2).requires_grad_(False), torch.randn(2, 1, 3, 25, 3)
    exported = torch.export.export(net, (xyz,)).module()
    torch.testing.assert_close(exported(xyz), net(xyz))


def test_sizes():
    assert small(persons=1, in_channels=2)(torch.randn(2, 1, 9, 25, 2)).shape == (2, 5)
    assert small()(torch.zeros(0, 2, 8, 25, 3)).shape == (0, 5)
    with pytest.raises(DataError, match="hidden3 is 0"):
        small(hidden3=0)
    with pytest.raises(DataError, match="17 joints"):
        small()(torch.zeros(2, 2, 8, 17, 3))
