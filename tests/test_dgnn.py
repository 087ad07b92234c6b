"""DGNN computes what the community's network computes, and orders bones by edge, or as that code does, on request."""

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import create
from funnybone.models.dgnn import FIXED_GRAPH, directed_edges, incidence
from funnybone.models.graphs import graph_of
from funnybone.skeletons import ALL, COCO17, HDM05, HDM05_25, NTU25, Skeleton
from golden_for_tests import (
    answer,
    assert_float32_parity,
    assert_float64_parity,
    assert_same_direction,
    ours,
    read,
    relative,
    with_weights,
)
from textbook import dgnn

PUBLISHED = (
    "0-12 0-16 1-0 2-3 4-5 5-6 6-7 7-21 7-22 8-9 9-10 10-11 11-23 11-24 12-13 13-14 14-15 16-17 17-18 18-19 "
    "20-1 20-2 20-4 20-8 20-20"
)
EDGES = tuple((int(a), int(b)) for a, b in (edge.split("-") for edge in PUBLISHED.split()))


@pytest.fixture(scope="module")
def golden():
    return read("dgnn_fullwidth_f16", whose="the community network's")


def outputs(golden, dtype):
    """Logits, features, the first block's joints for person 0 of clip 0, and gradients at joints and bones."""
    net = with_weights("dgnn", golden, dtype)

    def features(x, bones):
        return net.features_given_bones(ours(x), ours(bones))

    inputs = (golden[f"in/{key}"].to(dtype) for key in ("x", "x_bone"))
    return answer(net, features, net.l1, lambda args, out: out[0][:1].permute(0, 3, 1, 2), *inputs)


def small(**options):
    """A narrow network with batch norms that are not the identity, and incidence off its start."""
    torch.manual_seed(0)
    net = create("dgnn", **{"num_classes": 5, "width": 4, **options})
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("_M"):
                value.add_(torch.randn_like(value) * 0.1)
            elif name.endswith(("running_mean", "bias")) or (value.ndim == 1 and name.endswith("weight")):
                value.add_(torch.randn_like(value) * 0.2)
    return net.eval()


def test_float64_parity(golden):
    *found, at_bones = outputs(golden, torch.float64)
    assert_float64_parity(found, golden)
    assert_same_direction(at_bones, golden["out/grad_x_bone"].double())


def test_float32_parity(golden):
    first = {name: value if name.startswith("sd/") else value[:1] for name, value in golden.items()}
    *found, at_bones = outputs(first, torch.float32)
    assert_float32_parity(found, first)
    assert_same_direction(at_bones, first["out/grad_x_bone"])


def test_parameters_and_keys_are_the_communitys():
    net = create("dgnn")
    state = net.state_dict()
    assert sum(parameter.numel() for parameter in net.parameters()) == 4_089_320
    assert len(state) == 256
    assert state["l5.residual.tempconv.conv.weight"].shape == (128, 64, 9, 1)
    assert state["l8.dgn.H_e.weight"].shape == (256, 384)
    assert not any(key.startswith("l1.residual") for key in state)


def test_a_checkpoint_tells_its_sizes():
    net = create("dgnn", num_classes=7, persons=1, in_channels=2, width=6, skeleton=COCO17)
    found, tensors = type(net).from_authors(net.state_dict())
    assert found == {"num_classes": 7, "joints": 17, "persons": 1, "in_channels": 2, "width": 6, "bones": "joint"}
    assert tensors.keys() == net.state_dict().keys()
    assert type(net).from_authors(create("stgcn", width=4).state_dict()) is None


def test_ntu_has_the_published_edges():
    assert directed_edges(graph_of(NTU25, "pyskl")) == EDGES
    # The skeleton's own tree hangs the hand tips on the thumbs, which only ``graph="skeleton"`` asks for.
    assert set(directed_edges(graph_of(NTU25))) ^ set(EDGES) == {(7, 21), (11, 23), (22, 21), (24, 23)}
    leaving, entering = incidence(graph_of(NTU25, "pyskl"))
    net = create("dgnn", width=4)
    assert torch.equal(net.l1.dgn.source_M, leaving)
    assert torch.equal(net.l10.dgn.target_M, entering)
    assert torch.equal(net.bone_ends, torch.tensor(EDGES).T)
    own = create("dgnn", width=4, graph="skeleton")
    assert [22, 21] in own.bone_ends.T.tolist()


def test_incidence_is_divided_by_the_edge_ends_of_each_joint():
    leaving, entering = incidence(graph_of(NTU25, "pyskl"))
    assert leaving[20, 24].item() == entering[20, 24].item() == pytest.approx(1 / 6 + 1e-6)  # the loop ends there twice
    assert leaving[0, 0].item() == pytest.approx(1 / 3 + 1e-6)
    assert entering[12, 0].item() == pytest.approx(1 / 2 + 1e-6)
    assert leaving[12, 0].item() == entering[0, 0].item() == pytest.approx(1e-6)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_edges_point_away_from_the_centre_and_are_as_many_as_the_joints(skeleton):
    edges = directed_edges(graph_of(skeleton))
    assert edges == tuple(sorted(edges))
    assert {frozenset(edge) for edge in edges if edge[0] != edge[1]} == {frozenset(bone) for bone in skeleton.bones}
    # Each joint is entered once, the centre by its self-loop.
    assert sorted(target for _, target in edges) == list(range(len(skeleton.joints)))
    assert (skeleton.centre, skeleton.centre) in edges


def test_bones_lie_at_their_edges():
    xyz = torch.randn(2, 2, 3, 25, 3)
    bones = small().bones_of(xyz)
    for index, (source, target) in enumerate(EDGES):
        assert torch.equal(bones[..., index, :], xyz[..., target, :] - xyz[..., source, :])
    assert bones[..., 24, :].count_nonzero() == 0


def test_the_published_mismatch_is_kept_on_request():
    xyz = torch.randn(2, 2, 3, 25, 3)
    published, clean = small(bones="joint").bones_of(xyz), small().bones_of(xyz)
    for child, parent in NTU25.bones:
        assert torch.equal(published[..., child, :], xyz[..., child, :] - xyz[..., parent, :])
    assert published[..., 20, :].count_nonzero() == 0
    same = (published == clean).all(4).all(2).all(1).all(0)
    assert same.nonzero().flatten().tolist() == [3, 9, 10, 11, 17, 18, 19]
    assert not torch.allclose(small(bones="joint")(xyz), small()(xyz))


@pytest.mark.parametrize("bones", ["edge", "joint"])
def test_absent_persons_have_no_bones(bones):
    xyz = torch.randn(2, 2, 3, 25, 3)
    xyz[1, 1] = 0
    assert small(bones=bones).bones_of(xyz)[1, 1].count_nonzero() == 0


def assert_same(found, expected, name=""):
    """Equal but for rounding, which an entry far below the largest may be all of."""
    assert relative(found, expected) < 1e-9 if expected.any() else not found.any(), name


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("skeleton", "persons", "frames", "options"),
    [
        (NTU25, 2, 13, {}),
        (NTU25, 1, 16, {"bones": "joint"}),
        (HDM05, 1, 9, {}),
        (HDM05_25, 1, 8, {"graph": "shifted"}),
        (COCO17, 2, 5, {"in_channels": 2}),
    ],
)
def test_the_fast_form_is_the_textbooks(training, skeleton, persons, frames, options):
    nets = [small(skeleton=skeleton, persons=persons, **options).double().train(training) for _ in range(2)]
    inputs = torch.randn(3, persons, frames, len(skeleton.joints), options.get("in_channels", 3), dtype=torch.float64)
    xyz = [inputs.clone().requires_grad_() for _ in nets]
    found, expected = nets[0](xyz[0]), dgnn.forward(nets[1], xyz[1])
    assert_same(found, expected)
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        assert_same(a, b, name)
    for logits in (found, expected):
        logits.square().sum().backward()
    assert relative(xyz[0].grad, xyz[1].grad) < 1e-8
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        if a.grad.abs().max() > 1e-10 or b.grad.abs().max() > 1e-10:  # a bias before a norm that trains has none
            assert relative(a.grad, b.grad) < 1e-7, name


@pytest.mark.parametrize("absent", [[], [(0, 1)], [(0, 1), (2, 1)], [(0, 0), (1, 1), (2, 0)], [(1, 0), (1, 1), (0, 1)]])
def test_absent_persons_of_a_slot_share_one_row_exactly(absent):
    net = small().double()
    xyz = torch.randn(3, 2, 12, 25, 3, dtype=torch.float64)
    for clip, person in absent:
        xyz[clip, person] = 0
    shared, naive = xyz.clone().requires_grad_(), xyz.clone().requires_grad_()
    rows = []
    hook = net.l1.register_forward_hook(lambda module, args, out: rows.append(len(out[0])))
    found, expected = net(shared), dgnn.forward(net, naive)
    hook.remove()
    assert rows[0] == 6 - len(absent) + len({person for _, person in absent})
    assert_same(found, expected)
    for logits in (found, expected):
        (logits * torch.arange(5)).sum().backward()
    present = (xyz != 0).flatten(2).any(2)
    assert relative(shared.grad[present], naive.grad[present]) < 1e-9
    assert shared.grad[~present].count_nonzero() == 0


def test_absent_persons_leave_the_norms_parameters_their_gradient():
    nets = [small().double() for _ in range(2)]
    xyz = torch.randn(3, 2, 6, 25, 3, dtype=torch.float64)
    xyz[:, 1] = 0
    for logits in (nets[0](xyz), dgnn.forward(nets[1], xyz)):
        logits.square().sum().backward()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-8, msg=name)


def test_the_order_of_persons_matters_and_clips_do_not_touch_each_other():
    net, xyz = small().double(), torch.randn(3, 2, 10, 25, 3, dtype=torch.float64)
    assert not net.symmetric
    assert not torch.allclose(net(xyz), net(xyz.flip(1)))
    torch.testing.assert_close(net(xyz)[1:2], net(xyz[1:2]))


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_every_skeleton_and_number_of_persons(skeleton):
    for persons, bones in ((1, "edge"), (2, "joint")):
        net = small(skeleton=skeleton, persons=persons, bones=bones)
        xyz = torch.randn(2, persons, 9, len(skeleton.joints), 3, requires_grad=True)
        logits = net(xyz)
        assert logits.shape == (2, 5)
        logits.logsumexp(1).sum().backward()
        assert (xyz.grad != 0).any(4).any(2).all()  # every joint of every person counts


def test_a_skeleton_of_the_users():
    chain = Skeleton("chain", ("a", "b", "c"), (-1, 0, 1), centre=1)
    net = small(skeleton=chain, persons=1)
    assert net.bone_ends.T.tolist() == [[1, 0], [1, 1], [1, 2]]
    assert net(torch.randn(2, 1, 4, 3, 3)).shape == (2, 5)


def test_lengths_down_to_one_frame_and_batches_down_to_none():
    for frames in (1, 2, 3, 5):
        assert small(persons=1)(torch.randn(2, 1, frames, 25, 3)).shape == (2, 5)
    assert small()(torch.zeros(0, 2, 8, 25, 3)).shape == (0, 5)


def gradients(net, progress):
    net.zero_grad()
    torch.manual_seed(1)
    xyz, labels = torch.randn(3, 2, 8, 25, 3), torch.tensor([0, 1, 2])
    loss = net.objective(0.1)(net, xyz, labels, progress)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in net.named_parameters()}


def test_incidence_rests_in_the_first_twelfth_of_the_training():
    net = small().train()
    early, late = gradients(net, FIXED_GRAPH - 1e-6), gradients(net, FIXED_GRAPH)
    again = gradients(net, 0.0)
    assert early[0] == pytest.approx(late[0])
    assert int(net.data_bn_v.num_batches_tracked) == 3  # the norms learn all along
    incident = {name for name in early[1] if name.endswith("_M")}
    assert len(incident) == 20
    for name in early[1].keys() - incident:
        torch.testing.assert_close(early[1][name], late[1][name])
    assert all(early[1][name] is None and again[1][name] is None for name in incident)
    assert all(late[1][name].abs().max() > 0 for name in incident)


def test_weight_decay_does_not_move_resting_incidence():
    net = small().train()
    before = {name: value.clone() for name, value in net.named_parameters()}
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=0.1)
    gradients(net, 0.0)
    optimiser.step()
    moved = {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in before if name.endswith("_M")} == before.keys() - moved
    gradients(net, 0.5)
    optimiser.step()
    assert not torch.equal(net.l3.dgn.source_M, before["l3.dgn.source_M"])


def test_frozen_networks_can_be_differentiated_twice():
    net = small(persons=1).double().requires_grad_(False)
    xyz = torch.randn(1, 1, 4, 25, 3, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(net(xyz).logsumexp(1).sum(), xyz, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), xyz)[0]
    assert torch.isfinite(second).all()
    assert second.abs().max() > 0


def test_mixed_precision_keeps_the_direction():
    net = small(width=8).requires_grad_(False)
    xyz = torch.randn(2, 2, 12, 25, 3, requires_grad=True)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logits = net(xyz)
        found.append(torch.autograd.grad(logits.float().logsumexp(1).sum(), xyz)[0].flatten())
    # Twenty ReLUs in a row: rounding decides the sign of what is nearly zero, as it does in the textbook's form.
    assert torch.cosine_similarity(*found, 0) > 0.95


def test_export():
    net, xyz = small(persons=2), torch.randn(2, 2, 6, 25, 3)
    xyz[:, 1] = 0
    exported = torch.export.export(net, (xyz,)).module()
    other = torch.randn_like(xyz)  # with nobody absent, which the exported graph must not depend on
    for clips in (xyz, other):
        torch.testing.assert_close(exported(clips), net(clips))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"bones": "parent"}, "bones is 'parent'"),
        ({"graph": "ring"}, "graph is 'ring'"),
        ({"graph": "pyskl", "skeleton": COCO17}, "is not one of COCO17"),
    ],
)
def test_a_wrong_option_is_named(options, word):
    with pytest.raises(DataError, match=word):
        create("dgnn", width=4, **options)


def test_a_wrong_input_is_named():
    with pytest.raises(DataError, match="17 joints"):
        small()(torch.zeros(2, 2, 8, 17, 3))
    with pytest.raises(DataError, match="1 person slots"):
        small()(torch.zeros(2, 1, 8, 25, 3))
