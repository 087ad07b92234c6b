"""AGCN computes what the authors' network computes, on every skeleton, and says what it cannot take."""

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import create
from funnybone.models.graphs import directed_partition, graph_of
from funnybone.skeletons import ALL, HDM05_25, NTU25
from golden_for_tests import answer, assert_float32_parity, assert_float64_parity, ours, read, relative, with_weights
from textbook import agcn


@pytest.fixture(scope="module")
def golden():
    return read("agcn")


def outputs(golden, dtype):
    """Logits, features, the first block for person 0 of clip 0, and the gradient."""
    net, x = with_weights("agcn", golden, dtype), golden["in/x"].to(dtype)
    return answer(net, lambda x: net.features(ours(x)), net.l1, lambda args, out: out[:1].permute(0, 3, 2, 1), x)


def small(**options):
    """A narrow network in which every part counts, with statistics of random clips, as after a training."""
    torch.manual_seed(0)
    net = create("agcn", **{"num_classes": 5, "width": 4, **options})
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.momentum = 1.0
        for name, value in net.named_parameters():
            if name.endswith(("bias", "PA")):
                value.add_(torch.randn_like(value) * 0.2)
        net.train()(torch.randn(4, net.persons, 12, len(net.skeleton.joints), net.in_channels))
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


def test_float64_parity(golden):
    assert_float64_parity(outputs(golden, torch.float64), golden)


def test_float32_parity(golden):
    assert_float32_parity(outputs(golden, torch.float32), golden)


def test_bfloat16_gradients_are_as_near_as_the_textbooks():
    net, x = small(width=16), torch.randn(2, 2, 16, 25, 3)

    def cosine(forward):
        gradients = []
        for enabled in (False, True):
            xyz = x.clone().requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                logits = forward(xyz)
            gradients.append(torch.autograd.grad(logits.float().log_softmax(1)[:, 3].sum(), xyz)[0].flatten())
        return torch.cosine_similarity(*gradients, 0).item()

    # Weights that no training has smoothed: batch norms at random let rounding grow from block to block.
    assert cosine(net) > max(0.95, cosine(lambda xyz: agcn.forward(net, xyz)) - 0.01)


def test_parameters_and_keys_are_the_authors():
    net = create("agcn")
    assert sum(parameter.numel() for parameter in net.parameters()) == 3_469_510
    state = net.state_dict()
    assert len(state) == 352
    assert "A" not in state
    assert state["l8.gcn1.conv_a.2.weight"].shape == (64, 128, 1, 1)
    assert state["l5.residual.conv.weight"].shape == (128, 64, 1, 1)
    assert state["data_bn.weight"].shape == (150,)


def test_a_fresh_network_starts_as_the_authors():
    net = create("agcn")
    assert net.l3.gcn1.PA.unique().tolist() == pytest.approx([1e-6])
    assert net.l3.gcn1.bn.weight.unique().tolist() == pytest.approx([1e-6])
    assert (net.l3.tcn1.bn.weight == 1).all()
    deviations = {
        "l4.tcn1.conv": (2 / (64 * 9)) ** 0.5,
        "l9.gcn1.conv_b.1": (2 / 64) ** 0.5,
        "l9.gcn1.conv_d.1": (2 / (256 * 256 * 3)) ** 0.5,
        "l8.gcn1.down.0": (2 / 256) ** 0.5,
        "l8.residual.conv": (2 / 256) ** 0.5,
        "fc": (2 / 60) ** 0.5,
    }
    for name, deviation in deviations.items():
        layer = net.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05), name
        assert name == "fc" or not layer.bias.any(), name


@pytest.mark.parametrize("variant", ["skeleton", "shifted"])
def test_the_fixed_graph_is_the_one_asked_for(variant):
    net = create("agcn", skeleton=HDM05_25, width=4, graph=variant)
    assert torch.equal(net.A, directed_partition(graph_of(HDM05_25, variant)))


@pytest.mark.parametrize("persons", [1, 2])
@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_every_skeleton_equals_the_textbook(skeleton, persons):
    net = small(skeleton=skeleton, persons=persons).double()
    xyz = torch.randn(2, persons, 9, len(skeleton.joints), 3, dtype=torch.float64, requires_grad=True)
    found, expected = net(xyz), agcn.forward(net, xyz)
    assert found.shape == (2, 5)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(logits.logsumexp(1).sum(), xyz)[0] for logits in (found, expected)]
    assert relative(*gradients) < 1e-9
    assert (gradients[0] != 0).any(4).any(2).all()  # every joint of every person counts


@pytest.mark.parametrize("persons", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_folding_is_exact_and_training_updates_the_same_statistics(training, persons):
    nets = [small(persons=persons).double().train(training) for _ in range(2)]
    xyz = torch.randn(4, persons, 7, 25, 3, dtype=torch.float64)
    xyz[0, -1] = 0
    found, expected = nets[0](xyz), agcn.forward(nets[1], xyz)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for logits in (found, expected):
        logits.square().sum().backward()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_lengths_down_to_one_frame_and_two_coordinates():
    for frames in (1, 2, 3, 5, 16, 29):
        net, xyz = small(persons=1).double(), torch.randn(2, 1, frames, 25, 3, dtype=torch.float64)
        torch.testing.assert_close(net(xyz), agcn.forward(net, xyz))
    assert small(persons=1, in_channels=2)(torch.randn(2, 1, 9, 25, 2)).shape == (2, 5)
    assert small(width=5)(torch.randn(2, 2, 9, 25, 3)).shape == (2, 5)


def test_a_batch_without_clips_gives_no_logits():
    assert small()(torch.zeros(0, 2, 8, 25, 3)).shape == (0, 5)


ABSENT = [[], [(0, 1)], [(0, 1), (2, 1)], [(0, 0), (1, 1), (2, 0)], [(0, 1), (1, 1), (2, 1)], [(1, 0), (1, 1), (0, 1)]]


@pytest.mark.parametrize("absent", ABSENT)
def test_absent_persons_share_one_row_for_each_slot_exactly(absent):
    net = small().double()
    xyz = torch.randn(3, 2, 12, 25, 3, dtype=torch.float64)
    for clip, person in absent:
        xyz[clip, person] = 0
    shared, naive = xyz.clone().requires_grad_(), xyz.clone().requires_grad_()
    found, expected = net(shared), agcn.forward(net, naive)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for logits in (found, expected):
        logits.logsumexp(1).sum().backward()
    present = (xyz != 0).flatten(2).any(2)
    torch.testing.assert_close(shared.grad[present], naive.grad[present], rtol=1e-8, atol=1e-14)


def test_rows_of_an_empty_slot_are_computed_once():
    net, xyz = small(), torch.randn(6, 2, 8, 25, 3)
    xyz[1:, 1] = 0
    rows = []
    net.l1.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    net(xyz)
    net.train()(xyz)
    assert rows == [6 + 1 + 1, 12]


def test_the_persons_order_counts_and_clips_do_not_touch_each_other():
    net, xyz = small().double(), torch.randn(3, 2, 10, 25, 3, dtype=torch.float64)
    assert not net.symmetric
    assert (net(xyz) - net(xyz.flip(1))).abs().max() > 1e-3
    torch.testing.assert_close(net(xyz)[1:2], net(xyz[1:2]))


def test_the_clips_own_graph_counts():
    net, xyz = small().double(), torch.randn(3, 2, 10, 25, 3, dtype=torch.float64)
    before = net(xyz)
    with torch.no_grad():
        net.l2.gcn1.conv_a[1].weight.mul_(-1)
    assert (net(xyz) - before).abs().max() > 1e-3


def test_frozen_networks_can_be_differentiated_twice():
    net = small(persons=1).double().requires_grad_(False)
    xyz = torch.randn(1, 1, 4, 25, 3, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), xyz)[0]
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0


def test_an_exported_graph_takes_whoever_is_present():
    net, xyz = small(), torch.randn(3, 2, 8, 25, 3)
    exported = torch.export.export(net, (xyz,)).module()
    absent = xyz.clone()
    absent[1:, 1] = 0
    for clips in (xyz, absent):
        torch.testing.assert_close(exported(clips), net(clips), rtol=1e-4, atol=1e-5)


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
        small().features(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "word"),
    [({"width": 3}, "width is 3"), ({"graph": "shifted"}, "not one of"), ({"wide": 8}, "no option wide")],
)
def test_a_wrong_option_is_named(options, word):
    with pytest.raises(DataError, match=word):
        create("agcn", skeleton=NTU25, **options)
