"""SGN computes what the authors' network computes, on the poses that it says it takes; no other has a gradient."""

from itertools import product

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import create
from funnybone.skeletons import ALL, NTU25
from golden_for_tests import answer, assert_float32_parity, assert_float64_parity, read, relative, with_weights
from textbook import sgn


@pytest.fixture(scope="module")
def golden():
    return read("sgn")


def authors(golden, dtype):
    """A network with the authors' weights, and their 20 frames of one person as (N, M, T, V, C)."""
    return with_weights("sgn", golden, dtype, persons=1), golden["in/x"].view(2, 1, 20, 25, 3).to(dtype)


def outputs(golden, dtype):
    """Logits, features, the first graph layer for clip 0, and the gradient."""
    net, x = authors(golden, dtype)
    found = answer(net, net.features, net.gcn2, lambda args, out: args[0][:20].permute(2, 1, 0)[None], x)
    return *found[:3], found[3].view(2, 20, 75)


def small(**options):
    """A narrow network with a graph (a fresh one has none), sharp, and batch norms that are not the identity."""
    torch.manual_seed(0)
    net = create("sgn", **{"num_classes": 5, "width": 16, "persons": 1, **options})
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias", "bn.weight", "bn1.weight", "bn2.weight")):
                value.add_(torch.randn_like(value) * 0.2)
            elif name.endswith(".w.cnn.weight"):
                value.normal_(0, 0.3)
    return net.eval()


def some_absent(clips, persons, frames, joints=25, dtype=torch.float64):
    """Clips with absent persons in some frames, and frames without anybody."""
    xyz = torch.randn(clips, persons, frames, joints, 3, dtype=dtype)
    return xyz * (torch.rand(clips, persons, frames, 1, 1) < 0.6)


def test_float64_parity(golden):
    assert_float64_parity(outputs(golden, torch.float64), golden)


def test_float32_parity(golden):
    assert_float32_parity(outputs(golden, torch.float32), golden)


def test_sixteen_bit_autocast_keeps_the_gradient(golden):
    net, x = authors(golden, torch.float32)
    x.requires_grad_()
    expected = outputs(golden, torch.float32)[3]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(x)
    gradient = torch.autograd.grad(logits.float().log_softmax(1)[:, 7].sum(), x)[0]
    assert torch.cosine_similarity(gradient.flatten(), expected.flatten(), 0) > 0.999


def test_the_textbook_form_is_the_authors(golden):
    net, x = authors(golden, torch.float64)
    assert relative(sgn.forward(net, x).detach(), golden["out64/logits"]) < 1e-7


def test_parameters_and_keys_are_the_authors():
    net = create("sgn")
    assert sum(parameter.numel() for parameter in net.parameters()) == 691_048
    assert len(net.state_dict()) == 70
    assert net.state_dict()["dif_embed.cnn.0.bn.weight"].shape == (75,)
    assert net.state_dict()["tem_embed.cnn.0.cnn.weight"].shape == (64, 20, 1, 1)


def test_a_fresh_network_starts_without_its_graph_as_the_authors_does():
    net = create("sgn")
    assert not any(layer.w.cnn.weight.any() for layer in (net.gcn1, net.gcn2, net.gcn3))
    assert net.gcn3.w1.cnn.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert net.cnn.cnn1.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.02)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_every_skeleton_number_of_persons_and_length(skeleton):
    for persons, frames, samples in product((1, 2), (7, 45), (1, 3)):
        net = small(skeleton=skeleton, persons=persons, frames=frames, samples=samples).double()
        xyz = some_absent(3, persons, frames, len(skeleton.joints)).requires_grad_()
        found, expected = net(xyz), sgn.forward(net, xyz)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
        gradients = [torch.autograd.grad(logits.logsumexp(1).sum(), xyz)[0] for logits in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("persons", [1, 2])
def test_folding_is_exact_and_training_updates_the_same_statistics(training, persons):
    nets = [small(dropout=0.0, persons=persons).double().train(training) for _ in range(2)]
    xyz = torch.randn(4, persons, 20 // persons, 25, 3, dtype=torch.float64)  # as many poses as segments: no choice
    found, expected = nets[0](xyz), sgn.forward(nets[1], xyz)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for logits in (found, expected):
        logits.square().sum().backward()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9, msg=name)


def row_of(xyz, clip):
    """(frame, person) of the present poses of a clip, by the loop that the authors' loader is."""
    persons, frames = xyz.shape[1:3]
    return [(t, m) for t in range(frames) for m in range(persons) if (xyz[clip, m, t] != 0).any()]


@pytest.mark.parametrize(("persons", "frames", "samples"), [(1, 60, 1), (2, 60, 1), (2, 33, 4), (2, 9, 1), (1, 3, 2)])
def test_evaluation_takes_the_middle_of_each_segment(persons, frames, samples):
    net, xyz = small(persons=persons, samples=samples), some_absent(4, persons, frames)
    chosen = net.chosen(xyz)
    assert chosen.shape == (4, samples, 20)
    for clip, sample, segment in product(range(4), range(samples), range(20)):
        row = row_of(xyz, clip)
        t, m = row[(2 * (segment * samples + sample) + 1) * len(row) // (40 * samples)]
        assert chosen[clip, sample, segment] == (clip * persons + m) * frames + t


def test_training_takes_a_random_pose_of_each_segment():
    net, xyz = small(samples=3).train(), torch.randn(200, 1, 80, 25, 3)
    torch.manual_seed(1)
    first, second = net.chosen(xyz), net.chosen(xyz)
    torch.manual_seed(1)
    assert torch.equal(net.chosen(xyz), first)
    assert not torch.equal(first, second)
    assert first.shape == (200, 1, 20)
    places = first - torch.arange(200)[:, None, None] * 80
    assert torch.equal(places // 4, torch.arange(20).expand(200, 1, 20))
    shares = torch.stack([(places % 4 == k).double().mean((0, 1)) for k in range(4)])
    assert (shares - 0.25).abs().max() < 0.15  # each pose of each segment, 200 draws
    assert not torch.equal(places[0], places[1])


def test_as_many_poses_as_segments_leave_no_choice():
    for persons, training, samples in product((1, 2), (False, True), (1, 5)):
        net = small(persons=persons, samples=samples).train(training)
        chosen = net.chosen(torch.randn(1, persons, 20 // persons, 25, 3))[0]
        person, frame = chosen // (20 // persons), chosen % (20 // persons)
        assert torch.equal(frame * persons + person, torch.arange(20).expand_as(chosen))


def test_the_gradient_reaches_exactly_the_chosen_poses():
    net, xyz = small(persons=2, samples=2, segments=5, width=64).double(), some_absent(3, 2, 50).requires_grad_()
    gradient = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz)[0]
    reached = torch.zeros(3 * 2 * 50, dtype=torch.bool)
    reached[net.chosen(xyz).flatten()] = True
    assert torch.equal((gradient != 0).any(-1).any(-1).flatten(), reached)


def test_frames_without_anybody_make_no_difference():
    net, xyz = small(persons=2).double(), torch.randn(2, 2, 30, 25, 3, dtype=torch.float64)
    xyz[0, 1, 5:] = 0
    places = torch.randperm(47, generator=torch.Generator().manual_seed(0))[:30].sort().values
    longer = torch.zeros(2, 2, 47, 25, 3, dtype=torch.float64).index_copy(2, places, xyz)
    torch.testing.assert_close(net(longer), net(xyz))
    assert net.skips_empty


def test_the_order_of_persons_counts_only_within_a_frame():
    net, xyz = small(persons=2).double(), torch.randn(2, 2, 30, 25, 3, dtype=torch.float64)
    assert (net(xyz) - net(xyz.flip(1))).abs().max() > 1e-3
    assert not net.symmetric
    xyz[:, 1] = 0
    torch.testing.assert_close(net(xyz), net(xyz.flip(1)))
    alone = small(persons=1).double()
    torch.testing.assert_close(net(xyz), alone(xyz[:, :1]))


def test_features_of_several_samples_average_logits():
    net, xyz = small(samples=4).double(), torch.randn(2, 1, 90, 25, 3, dtype=torch.float64)
    single = small(samples=1).double()
    picks = xyz.flatten(0, 2)[net.chosen(xyz)]
    each = torch.stack([single(picks[:, k, None]) for k in range(4)])
    torch.testing.assert_close(net(xyz), each.mean(0))
    assert (each[0] - each[1]).abs().max() > 1e-3


def test_clips_without_anybody_and_batches_without_clips():
    net, xyz = small(persons=2).double(), torch.randn(2, 2, 12, 25, 3, dtype=torch.float64)
    xyz[1] = 0
    xyz.requires_grad_()
    logits = net(xyz)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(torch.autograd.grad(logits.sum(), xyz)[0]).all()
    torch.testing.assert_close(logits[:1], net(xyz[:1]))
    assert net(torch.zeros(0, 2, 8, 25, 3, dtype=torch.float64)).shape == (0, 5)


def test_lengths_down_to_one_frame_other_segments_and_two_coordinates():
    for frames in (1, 2, 19, 21):
        assert small()(torch.randn(2, 1, frames, 25, 3)).shape == (2, 5)
    assert small(segments=7)(torch.randn(2, 1, 30, 25, 3)).shape == (2, 5)
    assert small(segments=1)(torch.randn(2, 1, 30, 25, 3)).shape == (2, 5)
    assert small(in_channels=2)(torch.randn(2, 1, 9, 25, 2)).shape == (2, 5)


def test_frozen_networks_can_be_differentiated_twice():
    net = small(skeleton=NTU25, segments=6).double().requires_grad_(False)
    xyz = torch.randn(1, 1, 4, 25, 3, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), xyz)[0]
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0
    step = 1e-6 * torch.randn_like(xyz)
    nearby = (xyz.detach() + step).requires_grad_()
    change = torch.autograd.grad(net(nearby).logsumexp(1).sum(), nearby)[0].square().sum() - first.square().sum()
    assert change.item() == pytest.approx((second * step).sum().item(), rel=1e-3)


def test_an_exported_network_still_chooses_by_who_is_present():
    net = small(persons=2).requires_grad_(False)
    exported = torch.export.export(net, (torch.randn(2, 2, 30, 25, 3),)).module()
    xyz = some_absent(2, 2, 30, dtype=torch.float32)
    torch.testing.assert_close(exported(xyz), net(xyz))


def test_dropout_takes_whole_channels_of_a_clip():
    net = small(dropout=0.25, width=64).train()
    inputs = []
    net.cnn.bn2.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    torch.nn.init.dirac_(net.cnn.cnn2.weight)
    torch.nn.init.zeros_(net.cnn.cnn2.bias)
    net(torch.randn(50, 1, 20, 25, 3))
    dead = (inputs[0][:, :64] == 0).flatten(2).all(2)  # (clip, channel)
    assert dead.float().mean().item() == pytest.approx(0.25, abs=0.05)
    net.cnn.dropout.eval()
    net(torch.randn(50, 1, 20, 25, 3))
    assert (inputs[1][:, :64] == 0).flatten(2).all(2).float().mean() < 0.05


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"width": 6}, "width is 6"),
        ({"width": 0}, "width is 0"),
        ({"segments": 0}, "segments is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"persons": 0}, "persons is 0"),
    ],
)
def test_a_wrong_option_is_named(options, word):
    with pytest.raises(DataError, match=word):
        create("sgn", **options)


@pytest.mark.parametrize(
    ("shape", "word"),
    [((2, 1, 8, 17, 3), "17 joints"), ((2, 2, 8, 25, 3), "2 person slots"), ((2, 1, 0, 25, 3), "no frames")],
)
def test_a_wrong_input_is_named(shape, word):
    with pytest.raises(DataError, match=word):
        small()(torch.zeros(shape))
