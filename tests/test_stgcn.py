"""ST-GCN computes what the authors' network computes, on every skeleton, and says what it cannot take."""

from itertools import product

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import create, models, names
from funnybone.models.graphs import columns_normalised, graph_of, hop_distances, spatial_partition
from funnybone.skeletons import ALL, NTU25, OPENPOSE18
from golden_for_tests import answer, assert_float32_parity, assert_float64_parity, ours, read, relative, with_weights
from textbook import stgcn


@pytest.fixture(scope="module")
def golden():
    return read("st_gcn")


def outputs(golden, dtype):
    """Logits, features, the first block for person 0 of clip 0, and the gradient."""
    net, x = with_weights("stgcn", golden, dtype), golden["in/x"].to(dtype)
    return answer(
        net, lambda x: net.features(ours(x)), net.st_gcn_networks[0], lambda args, out: out[:1].permute(0, 3, 1, 2), x
    )


def small(**options):
    """A narrow network with batch norms that are not the identity."""
    torch.manual_seed(0)
    net = create("stgcn", **{"num_classes": 5, "width": 4, **options})
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "tcn.0.weight", "tcn.3.weight", "edge_importance", "bias")):
                value.add_(torch.randn_like(value) * 0.2)
    return net.eval()


def test_the_fresh_adjacency_is_the_authors(golden):
    assert torch.equal(create("stgcn").A, golden["sd/A"])


def test_float64_parity(golden):
    assert_float64_parity(outputs(golden, torch.float64), golden)


def test_float32_parity(golden):
    assert_float32_parity(outputs(golden, torch.float32), golden)


def test_parameters_and_keys_are_the_authors():
    net = create("stgcn")
    assert sum(parameter.numel() for parameter in net.parameters()) == 3_098_832
    assert len(net.state_dict()) == 172
    assert net.state_dict()["st_gcn_networks.4.residual.0.weight"].shape == (128, 64, 1, 1)


def test_hop_distances_beyond_the_reach_are_all_alike():
    assert hop_distances(graph_of(NTU25), 1).unique().tolist() == [0, 1, 2]
    centre = hop_distances(graph_of(NTU25), 1)[NTU25.centre]
    assert int((centre == 2).sum()) == 20


@pytest.mark.parametrize(
    ("skeleton", "hops", "counts"),
    [
        (NTU25, 1, [25, 40, 8]),
        (OPENPOSE18, 1, [18, 25, 9]),
        (NTU25, 4, [25, 28, 20, 34, 20, 30, 30, 40, 26]),
    ],
)
def test_spatial_partition_has_the_published_counts(skeleton, hops, counts):
    assert (spatial_partition(graph_of(skeleton), hops) > 0).sum((1, 2)).tolist() == counts


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_spatial_partition_splits_the_normalised_graph(skeleton):
    for hops in (1, 2):
        parts = spatial_partition(graph_of(skeleton), hops)
        graph = columns_normalised((hop_distances(graph_of(skeleton), hops) <= hops).double()).float()
        torch.testing.assert_close(parts.sum(0), graph)
        torch.testing.assert_close(parts.sum((0, 1)), torch.ones(len(skeleton.joints)))
        assert ((parts > 0).sum(0) <= 1).all()


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_every_skeleton_number_of_persons_and_length(skeleton):
    for persons, frames in product((1, 2), (16, 60)):
        net = small(skeleton=skeleton, persons=persons, frames=frames)
        xyz = torch.randn(2, persons, frames, len(skeleton.joints), 3, requires_grad=True)
        logits = net(xyz)
        assert logits.shape == (2, 5)
        logits.logsumexp(1).sum().backward()
        assert torch.isfinite(xyz.grad).all()
        assert (xyz.grad != 0).any(4).any(2).all()  # every joint of every person counts


def test_a_batch_without_clips_gives_no_logits():
    assert small()(torch.zeros(0, 2, 8, 25, 3)).shape == (0, 5)


def test_lengths_down_to_one_frame_and_two_coordinates():
    for frames in (1, 2, 3, 5):
        assert small(persons=1)(torch.randn(2, 1, frames, 25, 3)).shape == (2, 5)
    assert small(persons=1, in_channels=2)(torch.randn(2, 1, 9, 25, 2)).shape == (2, 5)


def naive_features(net, xyz):
    """The mean over every person, each computed by itself."""
    n, m = xyz.shape[:2]
    rows = net._normalise(xyz.flatten(0, 1))
    for block, importance in zip(net.st_gcn_networks, net.edge_importance, strict=True):
        rows = block(rows, net.A * importance)
    return rows.mean((1, 2)).view(n, m, -1).mean(1)


@pytest.mark.parametrize("absent", [[], [(0, 1)], [(0, 1), (2, 1)], [(0, 0), (1, 1), (2, 0)], [(1, 0), (1, 1), (0, 1)]])
def test_absent_persons_share_one_row_exactly(absent):
    net = small().double()
    xyz = torch.randn(3, 2, 12, 25, 3, dtype=torch.float64)
    for clip, person in absent:
        xyz[clip, person] = 0
    shared, naive = xyz.clone().requires_grad_(), xyz.clone().requires_grad_()
    found, expected = net.features(shared), naive_features(net, naive)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(found)
    for features in (found, expected):
        (features * weights).sum().backward()
    present = (xyz != 0).flatten(2).any(2)
    torch.testing.assert_close(shared.grad[present], naive.grad[present], rtol=1e-10, atol=1e-14)


def test_absent_persons_share_one_row_with_the_authors_weights(golden):
    net, x = with_weights("stgcn", golden, torch.float64), ours(golden["in/x"]).double()
    xyz = torch.cat([x, x.flip(0)])
    xyz[:, 1] = 0
    assert relative(net.features(xyz).detach(), naive_features(net, xyz).detach()) < 1e-12


def test_persons_may_be_swapped_and_clips_do_not_touch_each_other():
    net, xyz = small().double(), torch.randn(3, 2, 10, 25, 3, dtype=torch.float64)
    torch.testing.assert_close(net(xyz), net(xyz.flip(1)))
    torch.testing.assert_close(net(xyz)[1:2], net(xyz[1:2]))


@pytest.mark.parametrize("training", [False, True])
def test_folding_is_exact_and_training_updates_the_same_statistics(training):
    nets = [small(dropout=0.0, persons=1).double().train(training) for _ in range(2)]
    xyz = torch.randn(4, 1, 9, 25, 3, dtype=torch.float64)
    found, expected = nets[0](xyz), stgcn.forward(nets[1], xyz)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for features in (found, expected):
        features.square().sum().backward()
    gradients = [[p.grad for p in net.parameters()] for net in nets]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_frozen_networks_can_be_differentiated_twice():
    net = small(persons=1, skeleton=NTU25).double().requires_grad_(False)
    xyz = torch.randn(1, 1, 4, 25, 3, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), xyz)[0]
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0


def test_dropout_keeps_the_mean_and_its_share():
    dropout = small(dropout=0.25).st_gcn_networks[1].tcn[4].train()
    torch.manual_seed(0)
    y = dropout(torch.ones(10, 10, 10, 103))
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(dropout.eval()(y), y)


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((2, 2, 8, 17, 3), "17 joints"),
        ((2, 2, 8, 25, 2), "2 coordinates"),
        ((2, 1, 8, 25, 3), "1 person slots"),
        ((2, 8, 25, 3), r"shape \(2, 8, 25, 3\)"),
        ((2, 2, 0, 25, 3), "no frames"),
    ],
)
def test_a_wrong_input_is_named(shape, word):
    with pytest.raises(DataError, match=word):
        small().check(torch.zeros(shape))


def test_integers_are_refused():
    with pytest.raises(DataError, match="int64"):
        small().check(torch.zeros(1, 2, 8, 25, 3, dtype=torch.int64))


def test_registry():
    assert "stgcn" in names()
    assert "stgcn" in models
    with pytest.raises(DataError, match=r"has no option wide.*width"):
        create("stgcn", wide=3)
    with pytest.raises(DataError, match="persons is 0"):
        create("stgcn", persons=0)
    with pytest.raises(DataError, match="dropout is 1"):
        create("stgcn", dropout=1.0)
