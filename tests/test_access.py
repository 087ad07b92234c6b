"""Access: a view gives what it should and no more, and counts it."""

import os
import subprocess
import sys

import pytest
import torch

import funnybone as fb
from funnybone.testing import check_victim, linear_victim, random_clips
from funnybone.victims import BudgetError, Meter, view
from funnybone.victims.fingerprint import fingerprint


def reachable(thing, depth=3):
    """Everything that attribute access leads to, private names included."""
    if depth == 0:
        return
    for name in vars(thing) if hasattr(thing, "__dict__") else ():
        value = getattr(thing, name)
        yield value
        yield from reachable(value, depth - 1)


def test_a_label_only_view_cannot_give_a_gradient(clips, victim):
    meter = Meter(len(clips))
    asked = view(victim, "labels", meter)
    xyz = clips.xyz.clone().requires_grad_(True)
    answer = asked.labels(xyz, torch.arange(len(clips)))
    assert not answer.requires_grad
    assert answer.dtype == torch.long
    for name in ("scores", "logits", "gradient", "module", "victim"):
        assert not hasattr(asked, name)
    assert not any(isinstance(value, fb.Victim | torch.nn.Module) for value in reachable(asked))


def test_a_view_of_nothing_has_no_question(clips, victim):
    asked = view(victim, "nothing", Meter(len(clips), budget=3))
    assert [name for name in dir(asked) if not name.startswith("__")] == ["remaining"]
    assert asked.remaining(torch.tensor([0, 1])).tolist() == [3, 3]
    assert not any(isinstance(value, fb.Victim | torch.nn.Module) for value in reachable(asked))


def test_a_score_view_gives_numbers_without_a_graph(clips, victim):
    asked = view(victim, "scores", Meter(len(clips)))
    scores = asked.scores(clips.xyz.clone().requires_grad_(True), torch.arange(len(clips)))
    assert not scores.requires_grad
    assert not hasattr(asked, "logits")


def test_a_victim_that_offers_labels_gives_no_more(clips):
    blind = fb.CallableVictim(lambda xyz: torch.zeros(len(xyz)), skeleton=clips.skeleton, classes=clips.classes)
    for access in ("scores", "gradients"):
        with pytest.raises(fb.DataError, match="offers labels"):
            view(blind, access, Meter(1))
    with pytest.raises(fb.DataError, match="attack needs gradients"):
        fb.create_attack("pgd")(blind, clips, threat=fb.threat.Linf(0.01))


def test_every_query_is_counted_and_the_budget_is_hard(clips, victim):
    meter = Meter(len(clips), budget=2)
    asked = view(victim, "gradients", meter)
    rows = torch.tensor([0, 0, 3])
    asked.logits(clips.xyz[rows], rows)
    assert meter.queries.tolist() == [2, 0, 0, 1, 0, 0]
    assert meter.gradients.tolist() == [2, 0, 0, 1, 0, 0]
    with pytest.raises(BudgetError):
        asked.labels(clips.xyz[:1], torch.tensor([0]))
    assert asked.remaining(torch.tensor([0, 3, 1])).tolist() == [0, 1, 2]
    asked.labels(clips.xyz[3:4], torch.tensor([3]))
    assert meter.gradients.tolist() == [2, 0, 0, 1, 0, 0]


def test_torch_victims_are_frozen_copies(clips):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(2 * 8 * 17 * 3, 2)).train()
    victim = fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes)
    before, answer = victim.fingerprint, victim.logits(clips.xyz)
    with torch.no_grad():
        module[2].weight += 1
    assert torch.equal(victim.logits(clips.xyz), answer)
    assert victim.fingerprint == before
    assert module.training
    assert module[2].weight.requires_grad
    victim.logits(clips.xyz.clone().requires_grad_(True)).sum().backward()
    assert all(parameter.grad is None for parameter in victim.module.parameters())


def test_fingerprints_tell_victims_apart(clips):
    def make(scale=1.0, preprocess=None, classes=("left", "right")):
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        torch.nn.init.constant_(module[1].weight, scale)
        torch.nn.init.zeros_(module[1].bias)
        return fb.TorchVictim(module, skeleton=clips.skeleton, classes=classes, preprocess=preprocess).fingerprint

    assert make() == make()
    assert len({make(), make(2.0), make(preprocess=torch.tanh), make(classes=("a", "b"))}) == 4


def test_fingerprints_follow_code_and_what_it_closes_over():
    def scaled(by):
        return lambda xyz: by * xyz

    class Plain(torch.nn.Module):
        def forward(self, xyz):
            return xyz

    first = Plain

    class Plain(torch.nn.Module):
        def forward(self, xyz):
            return -xyz

    hidden = Plain()
    hidden.register_buffer("table", torch.ones(2), persistent=False)
    parts = [scaled(1.0), scaled(2.0), lambda xyz: xyz, lambda xyz: -xyz, first(), Plain(), hidden, torch.tanh]
    assert len({fingerprint(part) for part in parts}) == len(parts)
    assert fingerprint(scaled(1.0)) == fingerprint(scaled(1.0))


def test_fingerprints_are_the_same_in_another_process():
    # Nor may a victim's making, or its fingerprint, import torch's compiler: that takes longer than all the rest.
    code = """import sys; import funnybone as fb; print(fb.create_victim('stgcn', data='synthetic').fingerprint)
assert "torch._dynamo" not in sys.modules"""
    # Two fresh ones, with other hash seeds; this process checks shapes in every function and so runs other code.
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for environment in ({**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2"))
    }
    assert len(said) == 1


@pytest.mark.parametrize("answer", [torch.zeros(3), torch.zeros(6, 5)])
def test_wrong_answers_are_named(clips, answer):
    victim = fb.CallableVictim(lambda xyz: answer, skeleton=clips.skeleton, classes=clips.classes, access="scores")
    with pytest.raises(fb.DataError, match="must return shape"):
        victim.logits(clips.xyz)


def test_other_skeletons_and_classes_are_refused(clips, victim):
    with pytest.raises(fb.DataError, match="expects skeleton COCO17"):
        victim.check(random_clips(2, skeleton=fb.skeletons.NTU25))
    other = fb.TorchVictim(victim.module, skeleton=clips.skeleton, classes=("left", "up"))
    with pytest.raises(fb.DataError, match="differ in right, up"):
        other.check(clips)


def test_the_exam_finds_liars(clips):
    class Noisy(torch.nn.Module):
        def forward(self, xyz):
            return xyz.flatten(1)[:, :2] + torch.randn(len(xyz), 2)

    with pytest.raises(AssertionError, match="stochastic"):
        check_victim(fb.TorchVictim(Noisy(), skeleton=clips.skeleton, classes=clips.classes), clips)

    class WrongGradient(torch.nn.Module):
        def forward(self, xyz):
            score = xyz.flatten(1).sum(1)
            return torch.stack([score, -score], 1).detach() - 5 * torch.stack([score - score.detach(), score * 0], 1)

    with pytest.raises(AssertionError, match="finite differences"):
        check_victim(fb.TorchVictim(WrongGradient(), skeleton=clips.skeleton, classes=clips.classes), clips)


def test_the_exam_passes_the_honest(clips, victim):
    check_victim(victim, clips)
    check_victim(linear_victim(random_clips(4)), random_clips(4))
    check_victim(
        fb.CallableVictim(lambda xyz: xyz.flatten(1)[:, :2], skeleton=clips.skeleton, classes=2, access="scores"),
        clips,
    )
