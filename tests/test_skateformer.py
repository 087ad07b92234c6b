"""SkateFormer computes what its textbook form computes, groups the joints of every skeleton, and resizes any clip."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from funnybone.errors import DataError
from funnybone.models import create
from funnybone.models.body_parts import body_parts
from funnybone.skeletons import ALL, COCO17, HDM05_25, KINECT20, MHAD, NTU25, OPENPOSE18, UTD20, Skeleton
from textbook import skateformer

SMALL = {"num_classes": 5, "width": 16, "heads": 8, "length": 16, "window": 2, "attn_drop": 0.0, "drop_path": 0.0}
PUBLISHED = (6, 7, 21, 22, 10, 11, 23, 24, 12, 13, 14, 15, 16, 17, 18, 19, 4, 8, 5, 9, 1, 2, 0, 3)


def small(**options):
    """A narrow float64 network whose norms are not the identity and whose biases and matrices are not small."""
    torch.manual_seed(0)
    net = create("skateformer", **{**SMALL, **options}).double()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("bias_table", "gconv", "embedding", "mean", "bias", "norm_1.weight", "bn.weight")):
                value.add_(torch.randn_like(value) * 0.4)
            elif name.endswith(("mapping.weight", "proj.weight")):
                value.mul_(3)
    return net.eval()


def clips(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_parameters_and_keys_are_the_authors():
    net = create("skateformer")
    state = net.state_dict()
    assert sum(parameter.numel() for parameter in net.parameters()) == 3_616_083
    assert len(state) == 214
    shapes = {
        "stem.4.weight": (96, 9, 1, 1),
        "joint_person_embedding": (96, 48),
        "stages.0.blocks.0.transformer.gconv": (8, 48, 48),
        "stages.0.blocks.1.transformer.tconv.weight": (24, 3, 7, 1),
        "stages.1.blocks.0.downsample.reduction.weight": (192, 96, 7, 1),
        "stages.3.blocks.0.downsample.bn.num_batches_tracked": (),
        "stages.3.blocks.1.transformer.mapping.weight": (384, 192),
        "stages.2.blocks.0.transformer.attention.0.relative_position_bias_table": (15, 4),
        "stages.2.blocks.0.transformer.attention.2.relative_position_index": (8, 8),
        "stages.2.blocks.0.transformer.attention.3.relative_position_bias_table": (15, 12, 12, 4),
        "stages.1.blocks.1.transformer.mlp.fc1.weight": (768, 192),
        "head.weight": (60, 192),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert not any("stages.0" in key and "downsample" in key for key in state)


def test_northwestern_ucla_has_the_authors_partitions():
    net = create("skateformer", skeleton=KINECT20, persons=1, num_classes=10, mlp_ratio=1.0)
    attention = net.stages[0].blocks[0].transformer.attention
    shapes = [tuple(part.relative_position_bias_table.shape) for part in attention]
    assert shapes == [(15, 4), (15, 5, 5, 4)] * 2
    assert net.order.tolist() == [*range(4, 20), 1, 2, 0, 3]


def test_the_published_order_of_ntu():
    assert create("skateformer").order.tolist() == list(PUBLISHED)
    transformer = create("skateformer", persons=1).stages[0].blocks[0].transformer
    assert (transformer.window, transformer.neighbours, transformer.distant) == (8, 4, 6)
    transformer = create("skateformer", persons=2).stages[0].blocks[0].transformer
    assert (transformer.window, transformer.neighbours, transformer.distant) == (8, 8, 12)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_parts_use_every_joint_that_they_can(skeleton):
    parts = body_parts(skeleton)
    joints = [joint for part in parts for joint in part]
    assert len({len(part) for part in parts}) == 1
    assert set(joints) == set(range(len(skeleton.joints))) - ({20} if skeleton is NTU25 else set())
    assert len(joints) - len(set(joints)) <= 1
    assert parts == body_parts(skeleton)


def test_parts_are_arms_and_legs_beside_their_mirror_images():
    assert body_parts(HDM05_25) == tuple(
        tuple(range(start, start + 5)) for start in (0, 5, 15, 20, 10)
    )  # legs, arms, trunk
    assert body_parts(OPENPOSE18)[:4] == ((5, 6, 7), (2, 3, 4), (11, 12, 13), (8, 9, 10))
    for skeleton in (HDM05_25, UTD20, MHAD, COCO17):
        mirror = dict(skeleton.pairs)
        for left, right in list(zip(*(body_parts(skeleton)[k::2] for k in (0, 1)), strict=False))[:2]:
            assert tuple(mirror[joint] for joint in left) == right


def test_parts_of_any_skeleton():
    line = Skeleton("line", tuple("abcdefg"), (-1, 0, 1, 2, 3, 4, 5), centre=3)
    assert body_parts(line) == ((0, 1, 2, 3), (4, 5, 6, 3))
    crossed = Skeleton("crossed", tuple("abcd"), (-1, 0, 1, 2), pairs=((1, 2), (2, 1), (3, 3), (0, 1)))
    assert sorted(body_parts(crossed)[0]) == [0, 1, 2, 3]
    with pytest.raises(DataError, match="has 2 joints"):
        body_parts(Skeleton("bone", ("a", "b"), (-1, 0)))


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_every_skeleton_and_number_of_persons(skeleton):
    for persons in (1, 2):
        net = small(skeleton=skeleton, persons=persons)
        xyz = clips(2, persons, 17, len(skeleton.joints), 3).requires_grad_()
        logits = net(xyz)
        torch.testing.assert_close(logits, skateformer.forward(net, xyz), rtol=1e-10, atol=1e-12)
        logits.logsumexp(1).sum().backward()
        moves = (xyz.grad != 0).any(4).all(2)
        used = [joint in net.order.tolist() for joint in range(len(skeleton.joints))]
        assert torch.equal(moves, torch.tensor(used).expand_as(moves))


@pytest.mark.parametrize(("training", "persons"), [(False, 1), (False, 2), (True, 1), (True, 2)])
def test_the_fast_form_is_the_textbook_form(training, persons):
    nets = [small(persons=persons).train(training) for _ in range(2)]
    inputs = [clips(2, persons, 16, 25, 3).requires_grad_() for _ in nets]
    outputs = [nets[0](inputs[0]), skateformer.forward(nets[1], inputs[1])]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-8, atol=1e-12)
    for (name, found), (_, expected) in zip(*(net.named_parameters() for net in nets), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-9, msg=name)
        assert found.grad.abs().max() > 0, name
    for found, expected in zip(*(net.buffers() for net in nets), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_bias_of_neighbours_counts_as_the_released_code_does():
    attention = small(skeleton=KINECT20, persons=1, window=8, length=64).stages[0].blocks[0].transformer.attention[0]
    bias, table = attention.bias(), attention.relative_position_bias_table
    assert bias.shape == (1, 32, 32)
    for row, column in product(range(32), repeat=2):
        assert bias[0, row, column] == table[row % 8 - column % 8 + 7, 0]


@pytest.mark.parametrize("frames", [1, 2, 15, 17, 75])
def test_clips_of_any_length_are_resized_inside(frames):
    net = small(persons=1)
    xyz = clips(2, 1, frames, 25, 3)
    torch.testing.assert_close(net(xyz), skateformer.forward(net, xyz), rtol=1e-10, atol=1e-12)
    resized = F.interpolate(xyz[:, 0].flatten(2).mT, size=16, mode="linear").mT.reshape(2, 1, 16, 25, 3)
    with torch.no_grad():
        net.joint_person_embedding.zero_()  # then the times make no difference
    torch.testing.assert_close(net(xyz), net(resized), rtol=1e-10, atol=1e-12)


def test_times_are_those_of_the_feeder():
    net = small(persons=1)
    with torch.no_grad():
        net.joint_person_embedding.fill_(1.0)
        for layer in net.stem[::2]:
            layer.weight.zero_()
            layer.bias.zero_()
    times = torch.arange(16, dtype=torch.float64) / 8 - 1
    embedded = net._embed(clips(1, 1, 16, 25, 3))[0, :, 5]
    torch.testing.assert_close(embedded[:, 0], times.sin())
    torch.testing.assert_close(embedded[:, 3], (times / 1e4 ** (2 / 16)).cos())
    stretched = F.interpolate(torch.arange(7.0).double()[None, None], size=16, mode="linear")[0, 0]
    torch.testing.assert_close(net._embed(clips(1, 1, 7, 25, 3))[0, :, 5, 0], (2 * stretched / 7 - 1).sin())


def test_an_absent_second_person_and_the_order_of_persons_matter():
    net, xyz = small(), clips(2, 2, 20, 25, 3)
    assert not net.symmetric
    assert not torch.allclose(net(xyz), net(xyz.flip(1)))
    absent = xyz.clone()
    absent[:, 1] = 0
    torch.testing.assert_close(net(absent), skateformer.forward(net, absent), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(net(absent), net(xyz))
    torch.testing.assert_close(net(xyz)[1:], net(xyz[1:]))


def test_a_batch_without_clips_gives_no_logits():
    assert small()(clips(0, 2, 8, 25, 3)).shape == (0, 5)


@pytest.mark.parametrize("frozen", [True, False])
def test_networks_can_be_differentiated_twice(frozen):
    options = {"persons": 1, "skeleton": COCO17, "width": 8, "length": 8, "window": 1}
    nets = [small(**options).requires_grad_(not frozen) for _ in range(2)]
    seconds = []
    for net, forward in zip(nets, (nets[0], lambda xyz: skateformer.forward(nets[1], xyz)), strict=True):
        xyz = clips(1, 1, 6, 17, 3).requires_grad_()
        first = torch.autograd.grad(forward(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
        wanted = (
            [xyz] if frozen else [xyz, net.stages[1].blocks[0].transformer.attention[1].relative_position_bias_table]
        )
        seconds.append(torch.autograd.grad(first.square().sum(), wanted))
        assert all(torch.isfinite(second).all() and second.abs().max() > 0 for second in seconds[-1])
    for found, expected in zip(*seconds, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


def test_dropouts_are_for_training_alone():
    xyz = clips(4, 1, 16, 17, 3)
    plain = small(persons=1, skeleton=COCO17)(xyz)
    for option in ("attn_drop", "drop", "head_drop", "drop_path"):
        net = small(persons=1, skeleton=COCO17, **{option: 0.5})
        torch.testing.assert_close(net(xyz), plain)
        net.train()
        torch.manual_seed(0)
        assert not torch.allclose(net(xyz), net(xyz)), option
    path = small(drop_path=0.5).train().stages[3].blocks[1].transformer.drop_path
    kept = path(torch.ones(4000, 1, 1, 2))
    assert kept.unique().tolist() == [0, 2]
    assert torch.equal(kept[..., 0], kept[..., 1])
    assert kept.mean().item() == pytest.approx(1, abs=0.05)


def test_low_precision_keeps_the_direction_of_the_gradient():
    torch.manual_seed(0)
    net = create("skateformer", persons=1, **SMALL).eval()
    gradients = []
    for low in (False, True):
        xyz = clips(4, 1, 24, 25, 3).float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            net(xyz).float().log_softmax(1)[:, 1].sum().backward()
        gradients.append(xyz.grad.flatten())
    assert torch.cosine_similarity(*gradients, 0) > 0.99


def test_attention_as_exporters_see_it_is_the_same(monkeypatch):
    net, xyz = small(persons=1), clips(2, 1, 20, 25, 3)
    found = net(xyz)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(net(xyz), found, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_exported_networks_compute_the_same():
    net, xyz = small(persons=1).float(), clips(2, 1, 24, 25, 3).float()
    exported = torch.export.export(net, (xyz,)).module()
    torch.testing.assert_close(exported(xyz), net(xyz), rtol=1e-4, atol=1e-5)


def test_ntu_parts_on_other_skeletons_of_25_joints():
    net = create("skateformer", skeleton=HDM05_25, persons=1, graph="ntu25", **SMALL)
    assert net.order.tolist() == list(PUBLISHED)
    with pytest.raises(DataError, match="ntu25"):
        create("skateformer", skeleton=COCO17, graph="ntu25")
    with pytest.raises(DataError, match="graph is 'pyskl'"):
        create("skateformer", graph="pyskl")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"length": 60}, "length is 60.*multiple of 64"),
        ({"length": 32, "window": 8}, "length is 32"),
        ({"window": 0}, "window is 0"),
        ({"heads": 12}, "heads is 12"),
        ({"width": 40}, "width is 40.*32"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0"),
        ({"drop_path": 1.0}, "drop_path is 1"),
        ({"attn_drop": 1.0}, "dropout is 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options, word):
    with pytest.raises(DataError, match=word):
        create("skateformer", **options)


@pytest.mark.parametrize(
    ("shape", "word"),
    [((2, 2, 8, 17, 3), "17 joints"), ((2, 1, 8, 25, 3), "1 person slots"), ((2, 2, 0, 25, 3), "no frames")],
)
def test_a_wrong_input_is_named(shape, word):
    with pytest.raises(DataError, match=word):
        small()(torch.zeros(shape, dtype=torch.float64))
