"""Streams show a network differences of positions, and several networks answer as one."""

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import STREAMS, Fused, create, names, shown
from funnybone.models.layers import present_of
from funnybone.skeletons import ALL, HDM05_25, NTU25
from narrow_models import NARROW, narrow


def small(seed=0, name="stgcn", **options):
    torch.manual_seed(seed)
    return create(name, **{"num_classes": 5, **NARROW[name], **options}).double().eval()


@pytest.fixture
def xyz():
    generator = torch.Generator().manual_seed(0)
    xyz = torch.randn(3, 2, 9, 25, 3, generator=generator, dtype=torch.float64)
    xyz[1, 1] = 0
    xyz[2, 0, 6:] = 0
    return xyz


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_bones_are_child_minus_parent_in_joint_order(skeleton):
    xyz = torch.randn(1, 1, 2, len(skeleton.joints), 3)
    bones = shown("bone", xyz, skeleton)
    children = [child for child, _ in skeleton.bones]
    assert torch.equal(bones[..., children, :], skeleton.bone_vectors(xyz))
    assert not bones[..., skeleton.root, :].any()


def test_motion_is_the_next_frame_minus_this_one(xyz):
    moved = shown("joint_motion", xyz, NTU25)
    assert torch.equal(moved[0, 0, :-1], xyz[0, 0, 1:] - xyz[0, 0, :-1])
    assert not moved[:, :, -1].any()
    torch.testing.assert_close(
        shown("bone_motion", xyz, NTU25), shown("joint_motion", shown("bone", xyz, NTU25), NTU25)
    )


@pytest.mark.parametrize("stream", STREAMS)
def test_nobody_stays_nobody_and_leaving_is_no_motion(stream, xyz):
    result = shown(stream, xyz, NTU25)
    assert not result[1, 1].any()
    assert not result[2, 0, 6:].any()
    if stream.endswith("motion"):
        assert not result[2, 0, 5].any()


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_do_not_know_where_the_clip_stands_but_for_the_joints(stream, xyz):
    present = (xyz != 0).any(-1, keepdim=True)
    there = torch.where(present, xyz + 1, 0)
    same = torch.allclose(shown(stream, there, NTU25), shown(stream, xyz, NTU25))
    assert same == (stream != "joint")


def test_four_streams_are_one_network_with_a_gradient_of_all(xyz):
    networks = {stream: small(index) for index, stream in enumerate(STREAMS)}
    fused = Fused(networks, (0.6, 0.6, 0.4, 0.4)).eval()
    xyz.requires_grad_()
    logits = fused(xyz)
    parts = [
        weight * network(shown(stream, xyz, NTU25))
        for weight, (stream, network) in zip(fused.weights, networks.items(), strict=True)
    ]
    torch.testing.assert_close(logits, sum(parts))
    whole = torch.autograd.grad(logits[:, 0].sum(), xyz)[0]
    apart = [torch.autograd.grad(part[:, 0].sum(), xyz, retain_graph=True)[0] for part in parts]
    torch.testing.assert_close(whole, sum(apart))
    assert all(part.abs().sum() > 0 for part in apart)
    assert fused.features(xyz).shape == (3, 4 * 16)
    assert {key.partition(".")[0] for key in fused.state_dict()} == set(STREAMS)


def test_weights_and_names_that_do_not_fit():
    with pytest.raises(DataError, match="1 fusion weights for 2 streams"):
        Fused({"joint": small(), "bone": small()}, (1.0,))
    with pytest.raises(DataError, match="no stream is named 'bones'"):
        shown("bones", torch.zeros(1, 1, 2, 25, 3), NTU25)
    with pytest.raises(DataError, match=r"streams joint cannot be trained as one: .*LinksThenLabels"):
        Fused({"joint": small(name="asgcn")}).objective(0.1)


def test_networks_of_several_families_answer_together(xyz):
    networks = {"joint": small(0), "bone": small(1, "ctrgcn"), "joint_motion": small(2, "sgn").train()}
    networks["joint"].data_bn.train()
    modes = [[part.training for part in network.modules()] for network in networks.values()]
    fused = Fused(networks, (0.5, 1.0, 2.0))
    assert [[part.training for part in network.modules()] for network in networks.values()] == modes
    fused.eval()
    assert fused.features(xyz).shape == (3, 16 + 32 + 32)
    parts = [network(shown(stream, xyz, NTU25), present_of(xyz)) for stream, network in networks.items()]
    torch.testing.assert_close(fused(xyz), 0.5 * parts[0] + parts[1] + 2 * parts[2])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_classes": 7}, "classes 5 and 7"),
        ({"skeleton": HDM05_25}, "skeleton NTU25 and HDM05_25"),
        ({"persons": 1}, "persons 2 and 1"),
        ({"in_channels": 2}, "coordinates 3 and 2"),
    ],
)
def test_networks_that_do_not_fit_together(options, says):
    with pytest.raises(DataError, match=f"streams 'joint' and 'bone' do not fit together: {says}.*create them alike"):
        Fused({"joint": small(), "bone": small(**options)})


def test_it_promises_what_all_networks_promise():
    def fused(*families, streams=("joint", "bone")):
        return Fused({stream: small(name=name) for stream, name in zip(streams, families, strict=True)})

    assert fused("stgcn", "hrnn").symmetric
    assert not fused("stgcn", "agcn").symmetric
    assert not fused("agcn", "stgcn").symmetric
    assert fused("stgcn", "agcn").exact_gradients
    assert not fused("stgcn", "asgcn").exact_gradients
    assert fused("hrnn", "sgn").skips_empty
    assert not fused("hrnn", "stgcn").skips_empty
    assert not fused("hrnn", "sgn", streams=("joint", "bone_motion")).skips_empty


@pytest.mark.parametrize("weights", [(1.0, float("nan")), (float("inf"), 1.0), (1.0, 1.0, 1.0)])
def test_weights_that_do_not_fit(weights):
    with pytest.raises(DataError, match="fusion weight"):
        Fused({"joint": small(), "bone": small()}, weights)


def standing(frames=12):
    """Two clips of two persons who do not move."""
    pose = torch.randn(1, 2, 1, 25, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return pose.repeat(2, 1, frames, 1, 1).requires_grad_()


@pytest.mark.parametrize("name", names())
def test_who_stands_still_is_there(name):
    fused, xyz = Fused({"joint_motion": narrow(name).double()}).eval(), standing()
    logits = fused(xyz)
    gradient = torch.autograd.grad(logits[:, 0].sum(), xyz)[0]
    assert gradient.flatten(2).any(2).all()
    hair = torch.randn(xyz.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1e-9
    torch.testing.assert_close(fused(xyz + hair), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["agcn", "stgcn", "hrnn"])  # others take maxima over time: of equals, here
def test_the_gradient_of_who_stands_still_is_that_of_finite_differences(name):
    fused, xyz = Fused({"joint_motion": narrow(name).double()}).eval(), standing()
    gradient = torch.autograd.grad(fused(xyz)[0, 0], xyz)[0]
    step = torch.randn(xyz.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1e-5
    with torch.no_grad():
        measured = (fused(xyz + step)[0, 0] - fused(xyz - step)[0, 0]) / 2
    assert measured.abs() > 1e-8
    torch.testing.assert_close((gradient * step).sum(), measured, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", names())
def test_of_positions_it_need_not_be_said_who_is_there(name, xyz):
    network = narrow(name).double()
    assert torch.equal(network(xyz, present_of(xyz)), network(xyz))
    objective = network.objective(0.1).double().eval()
    for progress in (0.0, 0.5):
        losses = [objective(network, xyz, torch.tensor([0, 1, 2]), progress, who) for who in (present_of(xyz), None)]
        assert torch.equal(*losses)


@pytest.mark.parametrize("name", ["hrnn", "sgn"])
def test_frames_without_motion_enter_where_it_is_said_who_is_there(name):
    network, moved = narrow(name, persons=1).double(), torch.zeros(1, 1, 8, 25, 3, dtype=torch.float64)
    moved[:, :, :4] = standing(4)[:1, :1].detach()
    assert torch.equal(network(moved, present_of(moved)), network(moved))
    assert (network(moved, torch.ones(1, 1, 8, dtype=torch.bool)) - network(moved)).abs().max() > 1e-3


def test_presence_of_another_shape_is_refused(xyz):
    with pytest.raises(DataError, match=r"present is torch.bool of shape \(3, 2\); give \(N, M, T\) bools"):
        small().check(xyz, present_of(xyz)[..., 0])
