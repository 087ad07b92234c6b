"""Audits of victims whose robust accuracy is known: the number that is reported is the true one."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.auditing import Entry, Suite
from funnybone.goals import AnythingBut
from funnybone.testing import random_clips
from funnybone.testing.analytic import Linear
from funnybone.victims import TorchVictim

N = 40
RADII = {"linf": 0.004, "l2": 0.02}  # m
BALLS = {"linf": fb.threat.Linf, "l2": fb.threat.L2}


@pytest.fixture(scope="module")
def scene():
    """A plane, and clips at distances from it that straddle both radii; every eighth is on the wrong side."""
    generator = torch.Generator().manual_seed(3)
    clips = random_clips(N, frames=12, generator=generator)
    normal = torch.randn(clips.xyz.shape[1:], generator=generator)
    normal = normal / normal.norm()
    far = torch.linspace(0.05, 2.03, N)[torch.randperm(N, generator=generator)] * RADII["linf"] * normal.abs().sum()
    far[1::2] = torch.linspace(0.05, 2.03, N // 2) * RADII["l2"]
    far[::8] *= -1
    score = (clips.xyz * normal).flatten(1).sum(1)
    towards = torch.where(clips.labels == 0, far, -far) - score
    clips = dataclasses.replace(clips, xyz=clips.xyz + towards.view(-1, 1, 1, 1, 1) * normal)
    return clips, TorchVictim(Linear(normal), skeleton=clips.skeleton, classes=clips.classes, name="plane")


def true_robust_accuracy(victim, clips, family):
    """Share of the clips whose distance to the border exceeds the radius: of a plane behind a filter, another plane."""
    xyz = clips.xyz.clone().requires_grad_(True)
    margin = victim.logits(xyz).gather(1, clips.labels[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(margin.sum(), xyz)
    dual = {"linf": gradient.abs().flatten(1).sum(1), "l2": gradient.flatten(1).norm(dim=1)}[family]
    distance = margin.detach() / dual
    assert ((distance - RADII[family]).abs() > 1e-3 * RADII[family]).all(), "none is too near to call"
    return int((distance > RADII[family]).sum()) / len(clips)


def test_the_audit_reports_the_robust_accuracy_that_is_true(scene, tmp_path):
    clips, plane = scene
    victims = {"plane": plane, "filtered": fb.create_defense("lowpass", keep=0.5).fit(plane, clips)}
    entries = [
        Entry(fb.create_attack(name, steps=30), AnythingBut(), BALLS[family](RADII[family]), f"{name} {family}")
        for family in BALLS
        for name in ("pgd", "apgd")
    ]
    suite = Suite("known", tuple(entries), unit="metre")
    found = fb.audit(victims, clips, suite=suite, out=tmp_path).result
    told = set()
    for result in found.victims:
        true = {family: true_robust_accuracy(victims[result.name], clips, family) for family in BALLS}
        for attack in result.attacks:
            assert attack.robust_accuracy == pytest.approx(true[attack.name.split()[1]])
        assert result.worst_case.robust_accuracy == pytest.approx(min(true.values()))
        right = victims[result.name].logits(clips.xyz).argmax(1) == clips.labels
        assert result.clean.accuracy == pytest.approx(int(right.sum()) / N)
        assert all(0.05 < one < 0.95 for one in true.values())
        told |= {*true.values()}
    assert len(told) > 2, "the filter makes a difference"
