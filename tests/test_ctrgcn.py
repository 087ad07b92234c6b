"""CTR-GCN computes what the authors' network computes, on every skeleton, and says what it cannot take."""

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import create
from funnybone.models.graphs import directed_partition, graph_of
from funnybone.skeletons import ALL, COCO17, HDM05_25, NTU25
from golden_for_tests import answer, assert_float32_parity, assert_float64_parity, ours, read, with_weights
from textbook import ctrgcn


@pytest.fixture(scope="module")
def golden():
    return read("ctr_gcn")


def outputs(golden, dtype):
    """Logits, features, the first block for person 0 of clip 0, and the gradient."""
    net, x = with_weights("ctrgcn", golden, dtype), golden["in/x"].to(dtype)
    return answer(net, lambda x: net.features(ours(x)), net.l1, lambda args, out: out[:1].transpose(2, 3), x)


def small(**options):
    """A narrow network with refinements, moved adjacencies, and norms that have seen data and been moved from it."""
    torch.manual_seed(0)
    net = create("ctrgcn", **{"num_classes": 5, "width": 4, **options})
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith("gcn1.bn.weight"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("alpha", "bias")):
                value.add_(torch.randn_like(value) * 0.3)
            elif name.endswith("PA"):
                value.add_(torch.randn_like(value) * 0.1)
        for norm in net.modules():
            if hasattr(norm, "running_var"):
                norm.momentum = 1.0
        net.train()(torch.randn(4, net.persons, 9, len(net.skeleton.joints), net.in_channels))
        for norm in net.modules():
            if hasattr(norm, "running_var"):
                norm.momentum = 0.1
                norm.running_mean += norm.running_var.sqrt() * torch.randn_like(norm.running_mean) * 0.2
                norm.running_var *= 0.6 + torch.rand_like(norm.running_var)
    return net.eval()


def clips(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def test_the_fresh_adjacency_lies_about_the_authors(golden):
    net = create("ctrgcn", width=4)
    for block in range(1, 11):
        noise = golden[f"sd/l{block}.gcn1.PA"] - net.get_submodule(f"l{block}").gcn1.PA  # of 0.05 by construction
        assert noise.abs().max() < 0.3


def test_float64_parity(golden):
    assert_float64_parity(outputs(golden, torch.float64), golden)


def test_float32_parity(golden):
    assert_float32_parity(outputs(golden, torch.float32), golden)


def test_parameters_and_keys_are_the_authors():
    net = create("ctrgcn")
    assert sum(parameter.numel() for parameter in net.parameters()) == 1_446_672
    state = net.state_dict()
    assert len(state) == 822
    assert state["data_bn.weight"].shape == (150,)
    assert state["l9.gcn1.convs.2.conv4.weight"].shape == (256, 32, 1, 1)
    assert state["l5.tcn1.branches.1.3.conv.weight"].shape == (32, 32, 5, 1)


def test_initial_values_are_the_authors():
    net = create("ctrgcn", width=16)
    for block in range(1, 11):
        gcn = net.get_submodule(f"l{block}").gcn1
        assert torch.equal(gcn.PA, directed_partition(graph_of(NTU25)))
        assert gcn.alpha.item() == 0
        assert torch.equal(gcn.bn.weight, torch.full_like(gcn.bn.weight, 1e-6))
    assert all((value == 0).all() for name, value in net.named_parameters() if name.endswith("conv3.bias"))
    weight = net.l9.gcn1.convs[0].conv3.weight  # Kaiming's, by the number of outputs
    assert weight.std().item() == pytest.approx((2 / len(weight)) ** 0.5, rel=0.1)
    assert net.fc.weight.std().item() == pytest.approx((2 / 60) ** 0.5, rel=0.1)


def test_the_graph_is_chosen():
    net = create("ctrgcn", skeleton=HDM05_25, width=4, graph="ntu25")
    assert torch.equal(net.l3.gcn1.PA, directed_partition(graph_of(NTU25)))


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_every_skeleton_equals_the_textbook(skeleton):
    for persons in (1, 2):
        net = small(skeleton=skeleton, persons=persons).double()
        xyz = clips(2, persons, 13, len(skeleton.joints), 3).requires_grad_()
        found, expected = net(xyz), ctrgcn.forward(net, xyz)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
        gradients = [torch.autograd.grad(logits.logsumexp(1).sum(), xyz)[0] for logits in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-11)
        assert (gradients[0] != 0).any(4).any(2).all()  # every joint of every person counts


def test_lengths_down_to_one_frame_and_other_coordinates():
    nets = {channels: small(persons=1, in_channels=channels, skeleton=COCO17).double() for channels in (2, 3)}
    for frames, channels in ((1, 3), (2, 3), (3, 3), (4, 2), (5, 3), (7, 3)):
        net, xyz = nets[channels], clips(2, 1, frames, 17, channels)
        torch.testing.assert_close(net(xyz), ctrgcn.forward(net, xyz), rtol=1e-10, atol=1e-11)


def test_a_batch_without_clips_gives_no_logits():
    assert small()(torch.zeros(0, 2, 8, 25, 3)).shape == (0, 5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("persons", [1, 2])
def test_gradients_and_statistics_are_the_textbooks(training, persons):
    nets = [small(persons=persons, width=8).double().train(training) for _ in range(2)]
    xyz = clips(3, persons, 9, 25, 3)
    found, expected = nets[0](xyz), ctrgcn.forward(nets[1], xyz)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for logits in (found, expected):
        logits.square().sum().backward()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("absent", [[], [(0, 1)], [(0, 1), (2, 1)], [(0, 0), (1, 1), (2, 0)], [(1, 0), (1, 1), (0, 1)]])
def test_absent_persons_share_one_row_of_their_slot_exactly(absent):
    net = small().double()
    xyz = clips(3, 2, 12, 25, 3)
    for clip, person in absent:
        xyz[clip, person] = 0
    shared, naive = xyz.clone().requires_grad_(), xyz.clone().requires_grad_()
    found, expected = net(shared), ctrgcn.forward(net, naive)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    for logits in (found, expected):
        logits.logsumexp(1).sum().backward()
    present = (xyz != 0).flatten(2).any(2)
    torch.testing.assert_close(shared.grad[present], naive.grad[present], rtol=1e-8, atol=1e-12)
    slots = [sum(person == slot for _, person in absent) for slot in (0, 1)]
    if max(slots) > 1:
        assert (shared.grad[~present] == 0).all()
    assert len(net.hidden(xyz)[0][0]) == 6 - sum(max(0, count - 1) for count in slots)


def test_absent_persons_leave_the_norms_parameters_their_gradient():
    nets = [small().double() for _ in range(2)]
    xyz = clips(3, 2, 6, 25, 3)
    xyz[:, 1] = 0
    for logits in (nets[0](xyz), ctrgcn.forward(nets[1], xyz)):
        logits.square().sum().backward()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-8, msg=name)


def test_the_persons_order_matters_and_clips_do_not_touch_each_other():
    net, xyz = small().double(), clips(3, 2, 10, 25, 3)
    assert not type(net).symmetric
    assert (net(xyz) - net(xyz.flip(1))).abs().max() > 1e-3
    torch.testing.assert_close(net(xyz)[1:2], net(xyz[1:2]))


def test_hidden_is_pure_and_ends_in_the_features():
    net, xyz = small().double(), clips(2, 2, 9, 25, 3)
    hidden, places = net.hidden(xyz)
    assert [tuple(block.shape[1:]) for block in hidden] == [(4, 25, 9)] * 4 + [(8, 25, 5)] * 3 + [(16, 25, 3)] * 3
    torch.testing.assert_close(hidden[-1].mean((2, 3))[places].mean(1), net.features(xyz))


def test_frozen_networks_can_be_differentiated_twice():
    net = small(persons=1).double().requires_grad_(False)
    xyz = clips(1, 1, 4, 25, 3).requires_grad_()
    first = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), xyz)[0]
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0


def test_bfloat16_gradients_point_the_same_way():
    net = small(persons=1, width=16).requires_grad_(False)
    xyz = clips(2, 1, 16, 25, 3, dtype=torch.float32).requires_grad_()
    gradients = []
    for low in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            logits = net(xyz)
        gradients.append(torch.autograd.grad(logits.float().logsumexp(1).sum(), xyz)[0].flatten())
    assert torch.cosine_similarity(*gradients, 0) > 0.9


@pytest.mark.slow
def test_it_exports_and_the_export_computes_the_same():
    net = small(skeleton=COCO17).requires_grad_(False)
    xyz = clips(2, 2, 5, 17, 3, dtype=torch.float32)
    exported = torch.export.export(net, (xyz.clone(),)).module()
    xyz[:, 1] = 0  # the graph must not depend on who was present when it was traced
    torch.testing.assert_close(exported(xyz), net(xyz), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((2, 2, 8, 17, 3), "17 joints"),
        ((2, 2, 8, 25, 2), "2 coordinates"),
        ((2, 1, 8, 25, 3), "1 person slots"),
        ((2, 2, 0, 25, 3), "no frames"),
    ],
)
def test_a_wrong_input_is_named(shape, word):
    with pytest.raises(DataError, match=word):
        small()(torch.zeros(shape))


@pytest.mark.parametrize("width", [0, 2, 6])
def test_a_width_that_four_branches_cannot_share_is_named(width):
    with pytest.raises(DataError, match=rf"width is {width}; give (at least 1|a multiple of 4)"):
        create("ctrgcn", width=width)
