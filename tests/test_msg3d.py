"""MS-G3D computes what the authors' network computes, on every skeleton, and says what it cannot take."""

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import create, multiscale
from funnybone.models.graphs import adjacency, graph_of
from funnybone.models.multiscale import MultiScale, hop_matrices
from funnybone.skeletons import ALL, COCO17, HDM05_25, NTU25, OPENPOSE18
from golden_for_tests import answer, assert_float32_parity, assert_float64_parity, ours, read, with_weights
from textbook import msg3d


@pytest.fixture(scope="module")
def golden():
    return read("ms_g3d")


def outputs(golden, dtype):
    """Logits, features, the first stage for person 0 of clip 0, and the gradient."""
    net, x = with_weights("msg3d", golden, dtype).requires_grad_(False), golden["in/x"].to(dtype)
    return answer(net, lambda x: net.features(ours(x)), net.tcn1, lambda args, out: out[:1].permute(0, 3, 1, 2), x)


def small(**options):
    """A narrow network with masks that matter and batch norms that are not the identity."""
    torch.manual_seed(0)
    net = create("msg3d", **{"num_classes": 5, "width": 6, "gcn_scales": 4, "g3d_scales": 3, **options})
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("A_res"):
                value.normal_(0, 0.1)
            elif value.is_floating_point() and value.ndim == 1:
                value.add_(torch.randn_like(value) * 0.2)
    return net.eval()


def clips(*shape, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), **options)


def test_float64_parity(golden):
    assert_float64_parity(outputs(golden, torch.float64), golden)


def test_float32_parity(golden):
    assert_float32_parity(outputs(golden, torch.float32), golden)


def test_bfloat16_finds_the_same_direction(golden):
    net = with_weights("msg3d", golden, torch.float32).requires_grad_(False)
    x = ours(golden["in/x"])[:1, :, :30].contiguous().requires_grad_()
    gradients = []
    for half in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = net(x)
        gradients.append(torch.autograd.grad(logits.float().log_softmax(1)[:, 7].sum(), x)[0].flatten())
    # Random weights make the gradient rough: the authors' order of operations reaches no more than 0.97 either.
    assert torch.cosine_similarity(*gradients, 0) > 0.95


def test_parameters_and_keys_are_the_authors():
    net = create("msg3d")
    assert sum(parameter.numel() for parameter in net.parameters()) == 3_194_595
    state = net.state_dict()
    assert len(state) == 810
    assert state["gcn3d2.gcn3d.1.gcn3d.1.A_res"].shape == (750, 125)
    assert 0 < state["sgcn3.0.A_res"].abs().max() <= 1e-6
    assert state["gcn3d1.gcn3d.0.gcn3d.1.mlp.layers.0.weight"].shape == (96, 18, 1, 1)


@pytest.mark.parametrize("skeleton", [NTU25, COCO17], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("window", [1, 3])
def test_hop_matrices_are_what_is_reached_in_k_steps_but_not_in_fewer(skeleton, window):
    graph = graph_of(skeleton)
    count = window * graph.joints
    eye = torch.eye(count, dtype=torch.float64)
    linked = adjacency(graph) if window == 1 else (adjacency(graph) + torch.eye(graph.joints)).repeat(window, window)
    steps = [torch.linalg.matrix_power(linked + eye, hop).clamp(max=1) for hop in range(16)]
    for hop, found in enumerate(hop_matrices(graph, 16, window).double()):
        expected = eye if hop == 0 else steps[hop] - steps[hop - 1] + eye
        expected = expected / (expected.sum(1)[:, None] * expected.sum(1)).sqrt()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_hops_beyond_the_skeletons_longest_path_are_the_identity():
    matrices = hop_matrices(graph_of(COCO17), 13)
    assert not torch.equal(matrices[7], torch.eye(17))
    assert torch.equal(matrices[-1], torch.eye(17))


def test_scales_are_told_apart_by_the_row_and_the_second_joint_is_the_source():
    conv = MultiScale(1, 2, hop_matrices(graph_of(NTU25), 3), 25).double().eval().requires_grad_(False)
    with torch.no_grad():
        conv.A_res.zero_()
        conv.A_res.view(3, 25, 25)[2, 4, 9] = 7
        conv.mlp.layers[0].weight.copy_(torch.tensor([[0, 0, 1], [0, 0, 0]]).view(2, 3, 1, 1))
        conv.mlp.layers[0].bias.zero_()
    x = torch.zeros(1, 1, 25, 1, dtype=torch.float64)
    x[0, 0, 9] = 1
    expected = 7 + conv.hops.view(3, 25, 25)[2, 4, 9]
    assert conv(x)[0, 0, 4, 0].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("skeleton", "persons", "frames"), [(NTU25, 2, 9), (HDM05_25, 1, 12), (COCO17, 1, 2), (OPENPOSE18, 2, 1)]
)
@pytest.mark.parametrize("frozen", [True, False])
def test_the_fast_form_is_the_textbook(skeleton, persons, frames, frozen, monkeypatch):
    monkeypatch.setattr(multiscale, "BLOCK", 5000)  # several blocks in so short a clip
    net = small(skeleton=skeleton, persons=persons).double().requires_grad_(not frozen)
    xyz = clips(3, persons, frames, len(skeleton.joints), 3, dtype=torch.float64).requires_grad_()
    found, expected = net(xyz), msg3d.forward(net, xyz)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    inputs = [xyz, *(part for part in net.parameters() if not frozen)]
    pairs = zip(*(torch.autograd.grad(out.logsumexp(1).sum(), inputs) for out in (found, expected)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-10)


def test_training_updates_the_same_statistics_and_gradients():
    nets = [small(skeleton=COCO17).double().train() for _ in range(2)]
    xyz = clips(3, 2, 9, 17, 3, dtype=torch.float64)
    found, expected = nets[0](xyz), msg3d.forward(nets[1], xyz)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for logits in (found, expected):
        logits.square().sum().backward()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_every_skeleton(skeleton):
    net = small(skeleton=skeleton, g3d_scales=2).requires_grad_(False)
    xyz = clips(1, 2, 8, len(skeleton.joints), 3).requires_grad_()
    gradient = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz)[0]
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any(4).any(2).all()  # every joint of every person counts


def test_other_coordinates_scales_and_an_empty_batch():
    assert small(in_channels=2, gcn_scales=1, g3d_scales=1)(clips(2, 2, 5, 25, 2)).shape == (2, 5)
    assert small(in_channels=7, persons=1, g3d_scales=1)(clips(2, 1, 5, 25, 7)).shape == (2, 5)
    assert small(g3d_scales=1)(torch.zeros(0, 2, 8, 25, 3)).shape == (0, 5)


@pytest.mark.parametrize("absent", [[(0, 1), (2, 1)], [(0, 0), (2, 0), (0, 1), (1, 1)], [(0, 0), (1, 1)]])
def test_absent_persons_of_a_slot_share_one_row_exactly(absent):
    net = small(g3d_scales=2).double().requires_grad_(False)
    xyz = clips(3, 2, 6, 25, 3, dtype=torch.float64)
    for clip, person in absent:
        xyz[clip, person] = 0
    xyz.requires_grad_()
    found, expected = net(xyz), msg3d.forward(net, xyz)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(logits.logsumexp(1).sum(), xyz)[0] for logits in (found, expected)]
    present = (xyz != 0).flatten(2).any(2)
    torch.testing.assert_close(gradients[0][present], gradients[1][present], rtol=1e-8, atol=1e-12)


def test_sharing_saves_the_rows():
    net, rows = small(g3d_scales=1), []
    net.tcn3.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    xyz = clips(4, 2, 4, 25, 3)
    xyz[:, 1] = 0
    net(xyz)
    assert rows == [5]


def test_the_order_of_persons_matters_and_clips_do_not_touch_each_other():
    net, xyz = small(g3d_scales=2).double(), clips(3, 2, 7, 25, 3, dtype=torch.float64)
    assert not net.symmetric
    assert (net(xyz) - net(xyz.flip(1))).abs().max() > 1e-3
    torch.testing.assert_close(net(xyz)[1:2], net(xyz[1:2]))


def test_empty_frames_count():
    net, xyz = small(g3d_scales=1).double(), clips(1, 2, 6, 25, 3, dtype=torch.float64)
    assert not net.skips_empty
    assert (net(xyz) - net(torch.cat([xyz, torch.zeros_like(xyz)], 2))).abs().max() > 1e-3


def test_frozen_networks_can_be_differentiated_twice():
    xyz = clips(1, 1, 4, 25, 3, dtype=torch.float64).requires_grad_()
    net = small(persons=1).double().requires_grad_(False)
    second = []
    for forward in (net, lambda clip: msg3d.forward(net, clip)):
        first = torch.autograd.grad(forward(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
        second.append(torch.autograd.grad(first.square().sum(), xyz)[0])
    assert second[0].abs().max() > 0
    torch.testing.assert_close(*second, rtol=1e-6, atol=1e-10)


def test_frozen_networks_hold_no_graph_of_their_weights():
    net = small(g3d_scales=1).requires_grad_(False)
    assert not net(clips(1, 2, 4, 25, 3)).requires_grad


@pytest.mark.slow
def test_it_can_be_exported():
    net = small(skeleton=COCO17, g3d_scales=2, gcn_scales=2).requires_grad_(False)
    xyz = clips(1, 2, 5, 17, 3)
    exported = torch.export.export(net, (xyz,))
    torch.testing.assert_close(exported.module()(xyz), net(xyz), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"width": 16}, "width is 16"),
        ({"width": 0}, "width is 0"),
        ({"gcn_scales": 0}, "gcn_scales is 0"),
        ({"g3d_scales": 65}, "g3d_scales is 65"),
        ({"graph": "centre"}, "graph is 'centre'"),
    ],
)
def test_a_wrong_option_is_named(options, word):
    with pytest.raises(DataError, match=word):
        create("msg3d", **options)


def test_a_wrong_input_is_named():
    with pytest.raises(DataError, match="17 joints"):
        small(g3d_scales=1)(torch.zeros(2, 2, 8, 17, 3))
    with pytest.raises(DataError, match="1 person slots"):
        small(g3d_scales=1)(torch.zeros(2, 1, 8, 25, 3))
