"""ST-GCN++ has the authors' parameters and keys and computes their formulas."""

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import create
from funnybone.models.graphs import directed_partition, graph_of
from funnybone.skeletons import ALL, KINECT20, NTU25, OPENPOSE18, Skeleton
from textbook import stgcnpp

FINGERS = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)
HAND = Skeleton("hand", tuple(f"p{index}" for index in range(21)), FINGERS)


def small(**options):
    """A narrow network with batch norms that are not the identity, some turned over, and trained adjacencies."""
    torch.manual_seed(0)
    net = create("stgcnpp", **{"num_classes": 5, "width": 8, "stages": 4, "inflate": "2,4", **options})
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("weight") and value.ndim == 1:
                value.copy_(torch.randn_like(value).sign() * (0.5 + torch.rand_like(value)))
            elif name.endswith(("running_mean", "bias", ".A")):
                value.add_(torch.randn_like(value) * 0.2)
        net.cls_head.fc_cls.weight.mul_(30)
    return net.eval()


def clips(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def test_parameters_and_keys_are_the_authors():
    net = create("stgcnpp", graph="pyskl")
    assert count(net) == 1_403_144
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    one_norm, one_conv = 5, 2
    branches = 4 * (2 * one_conv + one_norm) + (one_conv + one_norm) + one_conv
    block = 1 + one_norm + one_conv + branches + (one_norm + one_conv) + one_norm
    assert len(shapes) == 10 * block + (3 + 2) * (one_conv + one_norm) + one_norm + 2
    expected = {
        "backbone.data_bn.weight": (75,),
        "backbone.gcn.0.gcn.A": (3, 25, 25),
        "backbone.gcn.0.gcn.bn.running_var": (64,),
        "backbone.gcn.0.gcn.conv.weight": (192, 3, 1, 1),
        "backbone.gcn.0.gcn.down.0.weight": (64, 3, 1, 1),
        "backbone.gcn.7.gcn.down.1.weight": (256,),
        "backbone.gcn.1.tcn.branches.0.0.weight": (14, 64, 1, 1),
        "backbone.gcn.1.tcn.branches.0.1.num_batches_tracked": (),
        "backbone.gcn.1.tcn.branches.0.3.conv.weight": (14, 14, 3, 1),
        "backbone.gcn.1.tcn.branches.3.3.conv.bias": (10,),
        "backbone.gcn.1.tcn.branches.4.1.weight": (10,),
        "backbone.gcn.1.tcn.branches.5.weight": (10, 64, 1, 1),
        "backbone.gcn.9.tcn.transform.0.bias": (256,),
        "backbone.gcn.9.tcn.transform.2.weight": (256, 256, 1, 1),
        "backbone.gcn.9.tcn.bn.running_mean": (256,),
        "backbone.gcn.4.residual.conv.weight": (128, 64, 1, 1),
        "backbone.gcn.7.residual.bn.weight": (256,),
        "cls_head.fc_cls.weight": (60, 256),
        "cls_head.fc_cls.bias": (60,),
    }
    assert {key: shapes.get(key) for key in expected} == expected
    assert "backbone.gcn.0.residual.conv.weight" not in shapes
    assert "backbone.gcn.1.gcn.down.0.weight" not in shapes


def test_the_published_hand_gesture_network_can_be_described():
    net = create("stgcnpp", skeleton=HAND, num_classes=40, persons=1, in_channels=2, stages=6, inflate="6")
    assert count(net) == 197_478
    assert net(torch.randn(2, 1, 10, 21, 2)).shape == (2, 40)


def test_adjacencies_start_from_the_graph_and_train():
    net = create("stgcnpp", graph="pyskl", width=6)
    for block in net.backbone.gcn:
        assert torch.equal(block.gcn.A, directed_partition(graph_of(NTU25, "pyskl")))
        assert block.gcn.A.requires_grad
    assert not torch.equal(net.backbone.gcn[0].gcn.A, create("stgcnpp", width=6).backbone.gcn[0].gcn.A)
    assert len({block.gcn.A.data_ptr() for block in net.backbone.gcn}) == 10


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("skeleton", [NTU25, KINECT20, OPENPOSE18], ids=lambda skeleton: skeleton.name)
def test_equals_the_authors_order_of_operations(skeleton, training):
    for persons, frames in ((1, 9), (2, 12)):
        nets = [small(skeleton=skeleton, persons=persons).double().train(training) for _ in range(2)]
        xyz = clips(3, persons, frames, len(skeleton.joints), 3)
        ours, theirs = xyz.clone().requires_grad_(), xyz.clone().requires_grad_()
        found, expected = nets[0](ours), stgcnpp.forward(nets[1], theirs)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
        for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, msg=name)
        for logits in (found, expected):
            logits.logsumexp(1).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-10)
        for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_every_skeleton_number_of_persons_and_length(skeleton):
    for persons, frames in ((1, 2), (2, 17), (2, 1)):
        net = small(skeleton=skeleton, persons=persons)
        xyz = torch.randn(2, persons, frames, len(skeleton.joints), 3, requires_grad=True)
        logits = net(xyz)
        assert logits.shape == (2, 5)
        logits.logsumexp(1).sum().backward()
        assert torch.isfinite(xyz.grad).all()
        assert (xyz.grad != 0).any(4).any(2).all()  # every joint of every person counts


def test_stages_double_the_width_and_halve_the_time():
    net = small(persons=1, stages=5, inflate=" 3, 5 ")
    shapes = []
    for block in net.backbone.gcn:
        block.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    net(torch.randn(2, 1, 17, 25, 3))
    assert [(shape[1], shape[3]) for shape in shapes] == [(17, 8), (17, 8), (9, 16), (9, 16), (5, 32)]
    assert create("stgcnpp", width=6, stages=1, inflate="").features(torch.randn(1, 2, 4, 25, 3)).shape == (1, 6)


@pytest.mark.parametrize("absent", [[(0, 1)], [(0, 1), (2, 1)], [(1, 0), (1, 1), (0, 1)]])
def test_absent_persons_share_one_row_exactly(absent):
    net, xyz = small().double(), clips(3, 2, 8, 25, 3)
    for clip, person in absent:
        xyz[clip, person] = 0
    torch.testing.assert_close(net(xyz), stgcnpp.forward(net, xyz), rtol=1e-10, atol=1e-11)


def test_persons_may_be_swapped_and_clips_do_not_touch_each_other():
    net, xyz = small().double(), clips(3, 2, 10, 25, 3)
    torch.testing.assert_close(net(xyz), net(xyz.flip(1)))
    torch.testing.assert_close(net(xyz)[1:2], net(xyz[1:2]))
    assert net(xyz[:0]).shape == (0, 5)


def test_frozen_networks_can_be_differentiated_twice():
    for dtype in (torch.float32, torch.float64):
        net = small(persons=1).to(dtype).requires_grad_(False)
        xyz = clips(1, 1, 4, 25, 3).to(dtype).requires_grad_()
        first = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
        second = torch.autograd.grad(first.square().sum(), xyz)[0]
        assert torch.isfinite(second).all()
        assert second.abs().max() > 0


def test_autocast():
    net = small(persons=1, width=12).requires_grad_(False)
    xyz = torch.randn(2, 1, 9, 25, 3, requires_grad=True)
    expected = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(xyz)
    found = torch.autograd.grad(logits.float().logsumexp(1).sum(), xyz)[0]
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.95  # narrow and random, so far off


@pytest.mark.slow
def test_export():
    net, xyz = small(persons=1, stages=2, inflate="2").requires_grad_(False), torch.randn(2, 1, 5, 25, 3)
    exported = torch.export.export(net, (xyz,)).module()
    torch.testing.assert_close(exported(xyz), net(xyz))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"width": 5}, "width is 5; give at least 6"),
        ({"stages": 0}, "stages is 0"),
        ({"stages": 10**9}, "stages is 1000000000"),
        ({"inflate": "2,5"}, "inflate is '2,5'.*from 2 to 4"),
        ({"inflate": "1"}, "inflate is '1'"),
        ({"inflate": "4,2"}, "inflate is '4,2'"),
        ({"inflate": "two"}, "inflate is 'two'"),
        ({"skeleton": KINECT20, "graph": "pyskl"}, "graph 'pyskl' is not one of KINECT20"),
    ],
)
def test_a_wrong_option_is_named(options, word):
    with pytest.raises(DataError, match=word):
        small(**options)
