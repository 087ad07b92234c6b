"""FR-Head is CTR-GCN with another objective, which separates classes and leaves no trace in the network."""

import pytest
import torch
import torch.nn.functional as F

from funnybone.models import create
from funnybone.models.frhead import FeatureRefinement, _Contrast
from funnybone.models.objective import Objective
from funnybone.skeletons import COCO17
from textbook import frhead


def network(**options):
    torch.manual_seed(0)
    return create("frhead", **{"skeleton": COCO17, "num_classes": 4, "persons": 1, "frames": 8, "width": 4, **options})


def clips(count=8, frames=8, persons=1, classes=4):
    """Clips whose class is where they are, and their labels."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % classes
    xyz = torch.randn(count, persons, frames, 17, 3, generator=generator) * 0.3
    xyz[..., 0] += labels[:, None, None, None]
    return xyz, labels


def contrast(classes=3, positions=2):
    torch.manual_seed(0)
    return _Contrast(4, positions, classes)


def test_the_network_is_ctrgcn():
    net, other = network().eval(), create("ctrgcn", skeleton=COCO17, num_classes=4, persons=1, width=4).eval()
    other.load_state_dict(net.state_dict(), strict=True)
    xyz, _ = clips()
    assert torch.equal(net(xyz), other(xyz))
    torch.testing.assert_close(net(xyz), frhead.forward(net, xyz), rtol=1e-4, atol=1e-5)


def test_training_leaves_the_networks_keys_as_they_are():
    net = network().train()
    keys = set(net.state_dict())
    objective = net.objective(0.1).train()
    objective(net, *clips(), 0.0).backward()
    assert set(net.state_dict()) == keys
    assert isinstance(objective, FeatureRefinement)


def test_gradients_reach_every_part_of_network_and_head():
    net = network().train()
    for index in range(1, 11):  # the refinement's scalars start at zero, where what they multiply has no gradient
        torch.nn.init.constant_(net.get_submodule(f"l{index}").gcn1.alpha, 0.5)
        torch.nn.init.ones_(net.get_submodule(f"l{index}").gcn1.bn.weight)
    objective = net.objective(0.0).train()
    (objective(net, *clips(), 0.0) - Objective()(net, *clips(), 0.0)).backward()  # the head's own part
    parts = [*net.named_parameters(), *objective.named_parameters()]
    # The classifier sees the cross-entropy only: what the network says is taken as given by the head.
    assert [name for name, part in parts if part.grad is None or not torch.isfinite(part.grad).all()] == []
    assert all(part.grad.abs().max() > 0 for name, part in parts if "conv3.weight" in name or "project" in name)
    assert net.fc.weight.grad.abs().max() < 1e-6


def test_it_is_cross_entropy_plus_a_positive_share():
    net = network().eval()
    xyz, labels = clips()
    objective = net.objective(0.1).eval()
    assert objective(net, xyz, labels, 0.0) > Objective(0.1)(net, xyz, labels, 0.0)


def test_the_loss_falls():
    net = network().train()
    xyz, labels = clips(8)
    objective = net.objective(0.0).train()
    optimiser = torch.optim.AdamW([*net.parameters(), *objective.parameters()], lr=1e-2)
    losses = []
    for _ in range(15):
        loss = objective(net, xyz, labels, 0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


def test_prototypes_follow_right_answers_only():
    head = contrast().train()
    before = head.prototypes.clone()
    samples = torch.randn(3, 256)
    labels = torch.tensor([0, 1, 1])
    logits = 9.0 * F.one_hot(torch.tensor([0, 1, 2]), 3)  # the last is taken for class 2
    head.contrast(samples, labels, logits)
    torch.testing.assert_close(head.prototypes[0], 0.9 * before[0] + 0.1 * samples[0])
    torch.testing.assert_close(head.prototypes[1], 0.9 * before[1] + 0.1 * samples[1])
    assert torch.equal(head.prototypes[2], before[2])


def test_prototypes_rest_in_evaluation_and_are_part_of_the_state():
    head = contrast().eval()
    before = head.prototypes.clone()
    head.contrast(torch.randn(3, 256), torch.tensor([0, 1, 1]), torch.eye(3))
    assert torch.equal(head.prototypes, before)
    names = network().objective(0.1).state_dict()
    assert sum(name.endswith("prototypes") for name in names) == 8


def test_a_resumed_objective_gives_the_same_loss():
    net = network().train()
    first = net.objective(0.1).train()
    first(net, *clips(), 0.0)
    torch.manual_seed(5)
    second = net.objective(0.1)
    second.load_state_dict(first.state_dict())
    net.eval()
    assert torch.equal(first.eval()(net, *clips(), 0.0), second.eval()(net, *clips(), 0.0))


def test_without_errors_it_is_twice_the_contrast_with_prototypes():
    head = contrast().eval()
    samples, labels = torch.randn(3, 256), torch.tensor([0, 1, 2])
    found = head.contrast(samples, labels, 2.0 * torch.eye(3))
    moved = 0.9 * head.prototypes + 0.1 * samples
    cosines = torch.cosine_similarity(samples[:, None], moved[None], 2)
    torch.testing.assert_close(found, 2 * F.cross_entropy(cosines / 0.125, labels))


def test_ambiguous_clips_calibrate_the_right_ones_by_the_papers_formula():
    head = contrast().eval()
    samples, labels = torch.randn(4, 256), torch.tensor([0, 0, 1, 2])
    logits = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.2], [0.1, 2.0, 0.0], [0.0, 0.0, 1.0]])
    # Clip 1, of class 0, is taken for class 1: a loss to class 0 (clip 0 is right), an intruder in class 1 (clip 2 is).
    moved = head.prototypes.clone()
    for clip, label in ((0, 0), (2, 1), (3, 2)):
        moved[label] = 0.9 * moved[label] + 0.1 * samples[clip]

    def cosine(a, b):
        return torch.cosine_similarity(a, b, 0)

    doubt = 1 - logits.softmax(1)
    expected = 0.0
    for missed, intruder in ((True, False), (False, True)):
        scores = torch.stack([torch.stack([cosine(sample, row) for row in moved]) for sample in samples]) / 0.125
        if missed:
            scores[0, 0] -= doubt[0, 0] * (1 - cosine(samples[0], samples[1]))
        if intruder:
            scores[2, 1] -= doubt[2, 1] * (1 + cosine(samples[2], samples[1]))
        expected = expected + F.cross_entropy(scores, labels)
    torch.testing.assert_close(head.contrast(samples, labels, logits), expected)


@pytest.mark.parametrize("labels", [[3, 3], [0, 3], [1, 2]])
def test_classes_may_be_absent_and_batches_small(labels):
    net = network(num_classes=60).train()
    objective = net.objective(0.1).train()
    loss = objective(net, clips(2)[0], torch.tensor(labels), 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(part.grad).all() for part in objective.parameters())


@pytest.mark.parametrize(("frames", "given"), [(8, 5), (5, 8), (1, 3), (300, 7)])
def test_other_lengths_are_averaged_to_the_networks(frames, given):
    net = network(frames=frames).train()
    assert torch.isfinite(net.objective(0.1).train()(net, *clips(4, given), 0.0))


def test_two_persons_of_whom_one_is_absent():
    net = network(persons=2).train()
    xyz, labels = clips(4, persons=2)
    xyz[1:, 1] = 0
    assert torch.isfinite(net.objective(0.1).train()(net, xyz, labels, 0.0))


def test_it_trains_in_bfloat16():
    net = network().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net.objective(0.1).train()(net, *clips(), 0.0)
    loss.backward()
    assert torch.isfinite(net.l1.gcn1.convs[0].conv3.weight.grad).all()
