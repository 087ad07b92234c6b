"""AS-GCN and its inference of links compute what the authors' networks compute, on every skeleton and length."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from funnybone.errors import DataError
from funnybone.models import create
from funnybone.models.actional_links import PRIOR, gumbel, joint_paths, link_loss, off_diagonal, on_grid, one_hot
from funnybone.models.asgcn import LinksThenLabels
from funnybone.skeletons import ALL, COCO17, HDM05, NTU25
from golden_for_tests import answer, assert_float32_parity, assert_float64_parity, ours, read, relative, with_weights
from textbook import asgcn


@pytest.fixture(scope="module")
def golden():
    """The authors' numbers: of the recogniser, and of the inference of links."""
    return read("as_gcn_fullwidth_f16"), read("as_gcn_aim")


def authors(golden, dtype):
    """A frozen network with the authors' weights."""
    return with_weights("asgcn", golden[0] | golden[1], dtype).requires_grad_(False)


def recognised(net, golden, dtype):
    """Logits, features, eight frames of the first block for the first person, and the gradient, of 64 frames."""
    links = golden["in/a_act_T64"].to(dtype).unflatten(0, (2, 2))

    def features(x):
        return net.features_given_links(ours(x), links)

    def stored(args, out):
        return out[:1, :8].permute(0, 3, 1, 2)

    return answer(net, features, net.class_layer_0, stored, golden["in/x_T64"].to(dtype))


def foreseen(net, golden, dtype):
    """Logits, features and predicted poses of the second clip of 290 frames."""
    links = golden["in/a_act_T290"].to(dtype)[2:]
    last = net.activations(ours(golden["in/x_T290"]).to(dtype)[1], links)
    features = net.pooled(last, torch.arange(2))
    poses = net.predict(last, links, ours(golden["in/x_last_T290"]).to(dtype)[1, :, 0])
    return net.classify(features), features, poses[:1].permute(0, 3, 1, 2)


def inferred(net, golden, dtype):
    """Logits and shares of types, drawn types, actional matrices and predicted poses."""
    x, uniform = ours(golden["in/x"]).to(dtype), golden["in/gumbel_uniform"].to(dtype)
    paths = joint_paths(x.flatten(0, 1))
    logits = net.encoder(paths)
    edges = one_hot(logits, uniform)
    links = net.links(x, uniform.unflatten(0, (2, 2))).flatten(0, 1)
    return logits, logits.softmax(-1), edges, links, net.decoder(paths, edges)


def small(**options):
    """A narrow network with batch norms that are not the identity."""
    torch.manual_seed(0)
    net = create("asgcn", **{"num_classes": 5, "width": 4, **options})
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "tcn.0.weight", "tcn.3.weight", "bias")) or "importance" in name:
                value.add_(torch.randn_like(value) * 0.2)
            elif name.endswith("conv.weight"):
                value.mul_(10)
    return net.eval()


def test_float64_parity_of_recognition(golden):
    net = authors(golden, torch.float64)
    assert_float64_parity(recognised(net, golden[0], torch.float64), golden[0], "_T64")


def test_float64_parity_of_prediction(golden):
    net = authors(golden, torch.float64)
    logits, features, poses = foreseen(net, golden[0], torch.float64)
    assert relative(logits, golden[0]["out64/logits_T290"][1:]) < 1e-7
    assert relative(features, golden[0]["out/feature_T290"][1:].double()) < 2e-6  # stored from a float32 run only
    assert relative(poses, golden[0]["out64/pred_T290"][1:]) < 1e-7
    target = ours(golden[0]["in/x_target_T290"])[:, 0]  # the first person's, as the objective compares with
    assert torch.equal(target.permute(0, 3, 1, 2), golden[0]["out/target_T290"])


def test_float64_parity_of_links(golden):
    net = authors(golden, torch.float64)
    logits, shares, edges, links, poses = inferred(net, golden[1], torch.float64)
    assert relative(logits, golden[1]["out64/edge_logits"]) < 1e-7
    assert relative(shares, golden[1]["out64/prob"]) < 1e-7
    assert torch.equal(edges.float(), golden[1]["out/edges"])
    assert relative(links, golden[1]["out64/A_batch"]) < 1e-7
    assert relative(poses, golden[1]["out64/decoder"]) < 1e-7


def test_float32_parity(golden):
    net = authors(golden, torch.float32)
    assert_float32_parity(recognised(net, golden[0], torch.float32), golden[0], "_T64")
    names = ("logits_T290", "feature_T290", "pred_T290")
    for found, name in zip(foreseen(net, golden[0], torch.float32), names, strict=True):
        torch.testing.assert_close(found, golden[0][f"out/{name}"][1:], atol=5e-4, rtol=1e-4)
    names = ("edge_logits", "prob", "edges", "A_batch", "decoder")
    for found, name in zip(inferred(net, golden[1], torch.float32), names, strict=True):
        torch.testing.assert_close(found, golden[1][f"out/{name}"], atol=5e-4, rtol=1e-4)


def test_parameters_and_keys_are_the_authors(golden):
    net = create("asgcn")
    assert sum(parameter.numel() for parameter in net.parameters()) == 6_987_478 + 417_798
    inference = [name for name, _ in net.named_parameters() if name.startswith(("encoder.", "decoder."))]
    assert sum(net.get_parameter(name).numel() for name in inference) == 417_798
    shapes = {key[3:]: value.shape for part in golden for key, value in part.items() if key.startswith("sd/")}
    assert {key: value.shape for key, value in net.state_dict().items()} == shapes
    assert torch.equal(net.A.half(), golden[0]["sd/A"])


def test_a_checkpoint_of_both_networks_is_recognised():
    net = small(num_classes=7, in_channels=2, max_hop=2, skeleton=COCO17)
    found, tensors = type(net).from_authors(net.state_dict())
    assert found == {"num_classes": 7, "joints": 17, "in_channels": 2, "width": 4, "max_hop": 2}
    assert tensors.keys() == net.state_dict().keys()
    assert type(net).from_authors(create("stgcn", width=4).state_dict()) is None


def test_pairs_run_over_senders_then_receivers_without_the_diagonal():
    grid = torch.randn(2, 4, 4, 3)
    pairs = off_diagonal(grid).flatten(1, 2)
    wanted = [grid[:, s, r] for s in range(4) for r in range(4) if s != r]
    assert torch.equal(pairs, torch.stack(wanted, 1))
    assert torch.equal(on_grid(pairs, 4), grid * (1 - torch.eye(4))[:, :, None])


def test_paths_are_read_at_fifty_even_times():
    rows = torch.randn(2, 50, 25, 3)
    assert torch.equal(joint_paths(rows), rows.transpose(1, 2))
    for frames in (1, 2, 3, 49, 51, 60, 99, 300):
        times = torch.arange(float(frames)).view(1, -1, 1, 1).double().requires_grad_()
        found = joint_paths(times)[0, 0, :, 0]
        torch.testing.assert_close(found, torch.linspace(0, frames - 1, 50, dtype=torch.float64))
        seen = torch.autograd.grad(found.sum(), times)[0].count_nonzero().item()
        assert seen == frames if frames < 99 else seen >= 50


def test_a_type_is_the_likeliest_and_has_the_gradient_of_the_softmax():
    logits = torch.randn(2, 30, 3, dtype=torch.float64, requires_grad=True)
    weights, uniform = torch.randn(2, 30, 3, dtype=torch.float64), torch.rand(2, 30, 3, dtype=torch.float64)
    for noise in (None, uniform):
        noisy = logits if noise is None else logits + gumbel(noise)
        edges = one_hot(logits, noise)
        assert torch.equal(edges.argmax(-1), noisy.argmax(-1))
        assert set(edges.unique().tolist()) == {0.0, 1.0}
        found = torch.autograd.grad((edges * weights).sum(), logits)[0]
        expected = torch.autograd.grad((torch.softmax(noisy / 0.5, -1) * weights).sum(), logits)[0]
        torch.testing.assert_close(found, expected)


def test_types_are_drawn_with_their_probabilities():
    torch.manual_seed(0)
    shares = torch.tensor(PRIOR)
    drawn = one_hot(shares.log().expand(1, 100_000, 3), torch.rand(1, 100_000, 3)).mean((0, 1))
    torch.testing.assert_close(drawn, shares, atol=5e-3, rtol=0)


def test_links_are_several_types_and_columns_add_up():
    net, xyz = small(persons=1), torch.randn(3, 1, 20, 25, 3)
    links = net.links(xyz)
    torch.testing.assert_close(links.sum(3), torch.full((3, 1, 2, 25), 0.1))
    assert (links.diagonal(dim1=3, dim2=4) > 0).all()
    types = net.encoder(joint_paths(xyz[:, 0])).argmax(-1)
    assert types.unique().tolist() == [0, 1, 2]
    assert (types != types[:1]).any()  # of these clips, not of all clips


def test_evaluation_draws_nothing_and_training_draws():
    net, xyz = small(), torch.randn(1, 2, 10, 25, 3)
    state = torch.get_rng_state()
    assert torch.equal(net(xyz), net(xyz))
    assert torch.equal(torch.get_rng_state(), state)
    net = small(dropout=0.0).train()
    torch.manual_seed(1)
    first, second = net.links(xyz), net.links(xyz)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(net.links(xyz), first)
    uniform = torch.rand(1, 2, 600, 3)
    assert torch.equal(net.links(xyz, uniform), net.links(xyz, uniform))
    assert not torch.equal(net.eval().links(xyz, uniform), net.links(xyz))


def test_an_attack_has_a_gradient_through_the_links():
    net, xyz = small(persons=1).double(), torch.randn(1, 1, 20, 25, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 16, dtype=torch.float64)
    links = net.links(xyz)
    parts = [net.features(xyz), net.features_given_links(xyz, links.detach())]
    torch.testing.assert_close(*parts)
    whole, fixed = (torch.autograd.grad((part * weights).sum(), xyz, retain_graph=True)[0] for part in parts)
    assert not torch.allclose(whole, fixed, rtol=1e-3)
    through = net.features_given_links(xyz.detach(), links)
    rest = torch.autograd.grad((through * weights).sum(), xyz)[0]
    torch.testing.assert_close(whole, fixed + rest)


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


def test_a_batch_without_clips_lengths_down_to_one_frame_and_two_coordinates():
    assert small()(torch.zeros(0, 2, 8, 25, 3)).shape == (0, 5)
    for frames in (1, 2, 3, 5):
        assert small(persons=1)(torch.randn(2, 1, frames, 25, 3)).shape == (2, 5)
    net = small(persons=1, in_channels=2)
    assert net.encoder.mlp1.fc1.in_features == 100
    xyz = torch.randn(2, 1, 9, 25, 2)
    torch.testing.assert_close(net(xyz), asgcn.forward(net, xyz), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("skeleton", "persons", "frames"), [(NTU25, 1, 9), (HDM05, 2, 50), (COCO17, 2, 61)])
def test_fast_and_textbook_agree_and_training_updates_the_same_statistics(skeleton, persons, frames, training):
    nets = [small(skeleton=skeleton, dropout=0.0, persons=persons).double().train(training) for _ in range(2)]
    joints = len(skeleton.joints)
    xyz = [torch.randn(2, persons, frames, joints, 3, dtype=torch.float64)]
    xyz = [xyz[0].clone().requires_grad_() for _ in nets]
    torch.manual_seed(3)
    uniform = torch.rand(2 * persons, joints * (joints - 1), 3, dtype=torch.float64) if training else None
    torch.manual_seed(3)
    found, expected = nets[0](xyz[0]), asgcn.forward(nets[1], xyz[1], uniform)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for logits in (found, expected):
        logits.square().sum().backward()
    torch.testing.assert_close(xyz[0].grad, xyz[1].grad, rtol=1e-6, atol=1e-9)
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("training", [False, True])
def test_the_prediction_head_and_the_decoder_are_the_textbooks(channels, training):
    net = small(persons=1, in_channels=channels, dropout=0.0).double().train(training)
    last, links = torch.randn(2, 66, 25, 16).double(), torch.rand(2, 2, 25, 25).double()
    pose = torch.randn(2, 25, channels).double()
    found = net.predict(last, links, pose)
    expected = asgcn.predict(net, last.permute(0, 3, 1, 2), links, pose.transpose(1, 2))
    torch.testing.assert_close(found.permute(0, 3, 1, 2), expected)
    paths, edges = torch.randn(2, 25, 8, channels).double(), torch.rand(2, 600, 3).double()
    torch.testing.assert_close(net.decoder(paths, edges), asgcn.decode(net.decoder, paths, edges))


def test_the_prediction_head_says_which_lengths_it_takes():
    net, links = small(persons=1), torch.zeros(1, 2, 25, 25)
    for frames in (257, 320):
        last = net.activations(torch.randn(1, frames, 25, 3), links)
        assert net.predict(last, links, torch.zeros(1, 25, 3)).shape == (1, 10, 25, 3)
    for frames in (64, 81):
        with pytest.raises(DataError, match=f"{4 * frames - 3} to {4 * frames} frames"):
            net.predict(torch.zeros(1, frames, 25, 16), links, torch.zeros(1, 25, 3))


@pytest.mark.parametrize("absent", [[], [(0, 1)], [(0, 1), (2, 1)], [(0, 0), (1, 1), (2, 0)], [(1, 0), (1, 1), (0, 1)]])
def test_absent_persons_share_one_row_exactly(absent):
    net = small().double()
    xyz = torch.randn(3, 2, 12, 25, 3, dtype=torch.float64)
    for clip, person in absent:
        xyz[clip, person] = 0
    shared, naive = xyz.clone().requires_grad_(), xyz.clone().requires_grad_()
    links = torch.stack([net.links_of(row[None])[0] for row in naive.flatten(0, 1)]).unflatten(0, (3, 2))
    found, expected = net.features(shared), net.features_given_links(naive, links)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net.links(xyz), links)
    weights = torch.randn_like(found)
    for features in (found, expected):
        (features * weights).sum().backward()
    present = (xyz != 0).flatten(2).any(2)
    torch.testing.assert_close(shared.grad[present], naive.grad[present], rtol=1e-10, atol=1e-14)


def test_persons_may_be_swapped_and_clips_do_not_touch_each_other():
    net, xyz = small().double(), torch.randn(3, 2, 10, 25, 3, dtype=torch.float64)
    torch.testing.assert_close(net(xyz), net(xyz.flip(1)))
    torch.testing.assert_close(net(xyz)[1:2], net(xyz[1:2]))


def gradients_of(net, xyz, progress):
    """Loss of the objective, and the names of the parameters that it trains."""
    net.zero_grad()
    loss = net.objective(0.1)(net, xyz, torch.tensor([0, 1]), progress)
    loss.backward()
    return loss.detach(), {name for name, parameter in net.named_parameters() if parameter.grad is not None}


def of_inference(names):
    return {name for name in names if name.startswith(("encoder.", "decoder."))}


def test_the_first_tenth_trains_the_links_alone():
    net, xyz = small(dropout=0.0).double(), torch.randn(2, 2, 20, 25, 3, dtype=torch.float64)
    xyz[:, 1] = 0
    every = {name for name, _ in net.named_parameters()}
    loss, trained = gradients_of(net, xyz, 0.0999)
    assert trained == {name for name in of_inference(every) if ".0." not in name}  # all but messages without a link
    paths = asgcn.sampled(xyz.flatten(0, 1))
    logits = asgcn.encode(net.encoder, paths)
    shares = logits.softmax(-1)
    predicted = asgcn.decode(net.decoder, paths, F.one_hot(shares.argmax(-1)).double())
    error = (predicted - paths[:, :, 1:]).square().sum() / (2 * 5e-4)
    divergence = (shares * (shares / torch.tensor(PRIOR, dtype=torch.float64)).log()).sum()
    torch.testing.assert_close(loss, ((error + divergence) / (4 * 25)).detach())
    torch.testing.assert_close(link_loss(paths, predicted, logits).mean(), loss)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradients_of(net.train(), xyz, 0.0)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("encoder.") and ".bn." in name} - {
        name for name in before if name.endswith((".bn.weight", ".bn.bias"))
    }


@pytest.mark.parametrize("frames", [20, 266, 331])
def test_then_recognition_trains_along_frozen_links(frames):
    net, xyz = small(dropout=0.0), torch.randn(2, 2, frames, 25, 3)
    loss, trained = gradients_of(net, xyz, 0.1)
    torch.testing.assert_close(loss, F.cross_entropy(net(xyz), torch.tensor([0, 1]), label_smoothing=0.1).detach())
    assert trained == {
        name
        for name, _ in net.named_parameters()
        if name.startswith(("class_layer", "data_bn", "edge_importance.", "fcn"))
    }


@pytest.mark.parametrize("frames", [267, 330])
def test_prediction_is_trained_along_where_it_can_be(frames):
    net, xyz = small(dropout=0.0), torch.randn(2, 2, frames, 25, 3)
    xyz[1, 1] = 0
    xyz[0, 0] = 0
    loss, trained = gradients_of(net, xyz, 0.5)
    seen, labels = xyz[:, :, :-10], torch.tensor([0, 1])
    links = net.links(seen)
    last = net.activations(seen[:, 0], links[:, 0])
    future = net.predict(last, links[:, 0], seen[:, 0, -1])
    expected = F.cross_entropy(net(seen), labels, label_smoothing=0.1) + 0.01 * F.mse_loss(future, xyz[:, 0, -10:])
    torch.testing.assert_close(loss, expected.detach())
    assert not of_inference(trained)
    assert {name.split(".")[0] for name in trained} >= {f"recon_layer_{index}" for index in range(7)}
    assert isinstance(net.objective(0.0), LinksThenLabels)


def test_frozen_networks_can_be_differentiated_twice():
    net = small(persons=1).double().requires_grad_(False)
    xyz = torch.randn(1, 1, 4, 25, 3, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), xyz)[0]
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0


def test_links_are_the_same_in_mixed_precision():
    net, xyz = small(persons=1, width=16).requires_grad_(False), torch.randn(2, 1, 20, 25, 3).cumsum(2)
    gradients = []
    for mixed in (False, True):
        x = xyz.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            logits, links = net(x), net.links(x)
        assert torch.equal(links, net.links(xyz))
        gradients.append(torch.autograd.grad(logits.float().log_softmax(1)[:, 3].sum(), x)[0].flatten())
    assert torch.cosine_similarity(*gradients, 0) > 0.97


def test_it_can_be_exported():
    net, xyz = small(persons=2), torch.randn(2, 2, 12, 25, 3)
    xyz[:, 1] = 0
    exported = torch.export.export(net, (xyz,)).module()
    torch.testing.assert_close(exported(xyz), net(xyz))


@pytest.mark.parametrize(
    ("shape", "word"),
    [((2, 2, 8, 17, 3), "17 joints"), ((2, 1, 8, 25, 3), "1 person slots"), ((2, 2, 0, 25, 3), "no frames")],
)
def test_a_wrong_input_is_named(shape, word):
    net = small()
    for function in (net.features, net.links, net.link_loss):
        with pytest.raises(DataError, match=word):
            function(torch.zeros(shape))


def test_links_of_another_clip_are_refused():
    # Past the type checker of the tests, which would refuse them first.
    with pytest.raises(DataError, match=r"\(3, 2, 2, 25, 25\).*here \(1, 2, 2, 25, 25\)"):
        small().features_given_links.__wrapped__(small(), torch.zeros(1, 2, 8, 25, 3), torch.zeros(3, 2, 2, 25, 25))
