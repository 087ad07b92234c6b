"""What every registered model promises, whatever its family."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import funnybone as fb
from funnybone.models import WeightsRecord, cost, load_weights, models, names, save_weights
from funnybone.models.weights import DataRecord, SkeletonRecord
from funnybone.skeletons import ALL, COCO17, NTU25
from funnybone.testing import check_victim, random_clips
from narrow_models import narrow

every_model = pytest.mark.parametrize("name", names())


def positions(persons=2, frames=24, skeleton=NTU25, n=3):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(n, persons, 1, len(skeleton.joints), 3, generator=generator, dtype=torch.float64)
    steps = torch.randn(n, persons, frames, len(skeleton.joints), 3, generator=generator, dtype=torch.float64)
    return start + 0.1 * steps.cumsum(2)


def test_the_models_of_the_literature_are_all_here():
    wanted = "agcn asgcn ctrgcn dgnn frhead hrnn msg3d sgn skateformer stgcn stgcnpp"
    assert set(wanted.split()) <= set(names())


@every_model
@pytest.mark.parametrize("persons", [1, 2])
def test_clips_do_not_touch_each_other(name, persons):
    network, xyz = narrow(name, persons=persons).double(), positions(persons)
    with torch.no_grad():
        together, alone = network(xyz), torch.cat([network(clip[None]) for clip in xyz])
    assert together.shape == (3, 5)
    assert together.std(0).max() > 1e-4, "the answer does not depend on the clip"
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-9)


@every_model
def test_the_order_of_persons_matters_only_where_it_is_said(name):
    network, xyz = narrow(name).double(), positions()
    with torch.no_grad():
        straight, swapped = network(xyz), network(xyz.flip(1))
    same = torch.allclose(straight, swapped, rtol=1e-8, atol=1e-9)
    assert same == models[name].symmetric


@every_model
def test_empty_frames_matter_only_where_it_is_said(name):
    network, xyz = narrow(name, persons=1).double(), positions(1)
    longer = torch.cat([xyz, torch.zeros_like(xyz[:, :, :6])], 2)
    with torch.no_grad():
        same = torch.allclose(network(xyz), network(longer), rtol=1e-8, atol=1e-9)
    assert same == models[name].skips_empty


@every_model
def test_an_absent_person_has_a_finite_answer_and_nobody_has_one_too(name):
    network, xyz = narrow(name).double(), positions()
    xyz[1, 1] = 0
    xyz[2] = 0
    xyz.requires_grad_()
    network(xyz).logsumexp(1).sum().backward()
    assert torch.isfinite(xyz.grad).all()


@every_model
def test_the_gradient_is_that_of_finite_differences_where_it_is_said(name):
    network, xyz = narrow(name, persons=1).double().requires_grad_(False), positions(1, n=2)
    xyz.requires_grad_()
    gradient = torch.autograd.grad(network(xyz).log_softmax(1)[:, 2].sum(), xyz)[0]
    generator = torch.Generator().manual_seed(5)
    close = []
    for _ in range(8):  # a maximum or a ReLU may bend between the two points of one direction, not of most
        direction = torch.randn(xyz.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            ends = [network(xyz + sign * 1e-7 * direction).log_softmax(1)[:, 2].sum() for sign in (1, -1)]
        slope, expected = ((ends[0] - ends[1]) / 2e-7).item(), (gradient * direction).sum().item()
        close.append(slope == pytest.approx(expected, rel=1e-4, abs=1e-6 * gradient.norm().item()))
    assert (sum(close) >= 6) == models[name].exact_gradients


@every_model
def test_a_call_leaves_nothing_behind(name):
    network, xyz = narrow(name).double(), positions()
    before, chance = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    moved = xyz.clone()
    with torch.no_grad():
        first, other, again = network(moved), network(positions(frames=31)), network(moved)
    assert torch.equal(moved, xyz)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), chance)
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@every_model
def test_threads_may_share_a_network(name):
    network = narrow(name).requires_grad_(False)
    clips = [positions(frames=16 + 4 * index).float() for index in range(4)]

    def gradient(xyz):
        xyz = xyz.clone().requires_grad_()
        return torch.autograd.grad(network(xyz)[:, 0].sum(), xyz)[0]

    alone = [gradient(xyz) for xyz in clips]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(gradient, clips))
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@every_model
def test_every_tensor_moves_with_the_network(name):
    network = narrow(name)
    tensors = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    stray = [
        f"{type(module).__name__}.{key}"
        for module in network.modules()
        for key, value in vars(module).items()
        if isinstance(value, torch.Tensor) and id(value) not in tensors
    ]
    assert not stray


@every_model
def test_it_is_saved_loaded_and_examined_as_a_victim(name, tmp_path):
    clips = random_clips(4, frames=20, persons=2, absent=True, skeleton=NTU25)
    network = narrow(name, num_classes=len(clips.classes), frames=20)
    options = {key: getattr(network, key) for key in ("persons", "frames", "in_channels")}
    record = WeightsRecord(
        model=name,
        options={**options, **_narrow_options(name)},
        skeleton=SkeletonRecord.of(NTU25),
        classes=clips.classes,
        preprocess={"centre": "clip"},
        data=DataRecord(name="none", split=None, n=0, synthetic=True, sha256=""),
    )
    save_weights(tmp_path / f"{name}.none.safetensors", network, record)
    again, _ = load_weights(tmp_path / f"{name}.none.safetensors")
    with torch.no_grad():
        assert torch.equal(again(clips.xyz), network(clips.xyz))
    check_victim(fb.create_victim(tmp_path / f"{name}.none.safetensors"), clips)


def _narrow_options(name):
    from narrow_models import NARROW

    return NARROW.get(name, {})


@every_model
@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_every_skeleton(name, skeleton):
    network = narrow(name, skeleton=skeleton, persons=1)
    xyz = positions(1, 16, skeleton, n=2).float().requires_grad_()
    gradient = torch.autograd.grad(network(xyz).logsumexp(1).sum(), xyz)[0]
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@every_model
def test_lengths_from_short_to_long(name):
    network = narrow(name, persons=1)
    with torch.no_grad():
        for frames in (8, 13, 60, 100):
            assert torch.isfinite(network(positions(1, frames, n=1).float())).all()


@every_model
def test_two_coordinates(name):
    network = narrow(name, skeleton=COCO17, persons=1, in_channels=2)
    assert torch.isfinite(network(positions(1, 16, COCO17)[..., :2].float())).all()


@every_model
def test_costs_are_counted(name):
    found = cost(narrow(name))
    assert found["parameters"] > 100
    assert found["gflops"] > 0


@every_model
@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_parameters_all_have_a_gradient(name, mode):
    network = narrow(name, persons=1).train(mode)
    objective = network.objective(0.1).train(mode)
    for progress in (0.0, 0.5):  # what rests at one time learns at another
        objective(network, positions(1).float(), torch.tensor([0, 1, 2]), progress).backward()
    left = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    # AS-GCN's prediction head takes longer clips than these, and its decoder leaves out the first kind of link.
    apart = ("recon_layer", "edge_importance_recon", "decoder.msg_fc1.0", "decoder.msg_fc2.0")
    assert [key for key in left if not key.startswith(apart)] == []
