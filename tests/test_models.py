"""What every registered model promises, whatever its family."""

import typing

import pytest
import torch

import funnybone as fb
from funnybone.errors import DataError
from funnybone.models import Preprocess, cost, create, models, names
from funnybone.models.layers import Dropout
from funnybone.skeletons import ALL, COCO17, NTU25
from funnybone.testing import check_victim, random_clips
from narrow_models import NARROW, narrow

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
def test_it_passes_the_exam_of_victims(name):
    clips = random_clips(4, frames=20, persons=2, absent=True, skeleton=NTU25)
    network = narrow(name, num_classes=len(clips.classes), frames=20)
    victim = fb.TorchVictim(network, skeleton=NTU25, classes=clips.classes, preprocess=Preprocess(centre="clip"))
    check_victim(victim, clips, options=NARROW.get(name, {}))


@every_model
def test_sizes_below_one_are_refused(name):
    hints = typing.get_type_hints(models[name].__init__)
    sizes = [key for key, kind in hints.items() if kind is int and key != "max_hop"]
    assert {"num_classes", "persons"} <= set(sizes)
    for key in sizes:
        for size in (0, -1):
            with pytest.raises(DataError, match=rf"^model '{name}': {key} is {size}; give at least 1$"):
                create(name, **{key: size})


@every_model
def test_an_input_of_another_type_is_refused(name):
    network, xyz = narrow(name), positions()
    with pytest.raises(DataError, match=r"input is torch\.float64, the network torch\.float32"):
        network(xyz)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert network(xyz.bfloat16()).shape == (3, 5)


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


def test_dropout_keeps_the_type_and_the_mean():
    ones = torch.ones(4, 50, 25, 8)
    for kind in (torch.float32, torch.bfloat16, torch.float64):
        dropped = Dropout(0.5).train()(ones.to(kind))
        assert dropped.dtype == kind
        assert set(dropped.unique().tolist()) == {0.0, 2.0}
        assert dropped.float().mean().item() == pytest.approx(1, abs=0.05)
