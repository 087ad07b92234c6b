"""C&W: confidence, the search for c, early ends."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks.border import length
from funnybone.attacks.cw import CW
from funnybone.testing import random_clips


def test_confidence_is_bought_with_way(clips, victim):
    missing = float(victim.logits(clips.xyz).amax(1).detach().mean()) * 2  # the margin of every clip
    plain, sure = (CW(kappa=kappa)(victim, clips) for kappa in (0.0, missing))
    ways = [length(outcome.adversarial.xyz - clips.xyz, "l2") for outcome in (plain, sure)]
    assert torch.allclose(ways[1], 2 * ways[0], rtol=0.05)
    logits = victim.logits(sure.adversarial.xyz).detach()
    assert (logits.gather(1, 1 - clips.labels[:, None]) >= missing / 2).all()


def test_c_is_found_however_wrong_the_first_is(clips, victim):
    for first_c in (1e-3, 1e3):
        outcome = CW(steps=60, binary_searches=9, first_c=first_c)(victim, clips)
        assert outcome.success.all()
        assert (length(outcome.adversarial.xyz - clips.xyz, "l2") < 1.05 * 0.05).all()


def test_each_clip_has_a_c_of_its_own():
    """Clips of very different distances, some of which fall in the first search, some late."""
    clips = random_clips(4)
    distances = torch.tensor([0.001, 0.01, 0.1, 1.0])

    class Plane(torch.nn.Module):
        normal = torch.nn.functional.normalize(
            torch.randn(clips.xyz[0].numel(), generator=torch.Generator().manual_seed(0)), dim=0
        )

        def forward(self, xyz):
            row = torch.cdist(xyz.detach().flatten(1), clips.xyz.flatten(1)).argmin(1)
            score = (xyz - clips.xyz[row]).flatten(1) @ self.normal + distances[row]
            score = torch.sinh(score / distances[row])  # far from linear, so that the first c is wrong
            return torch.stack([score, -score], 1)

    clips = dataclasses.replace(clips, labels=torch.zeros(4, dtype=torch.long))
    victim = fb.TorchVictim(Plane(), skeleton=clips.skeleton, classes=clips.classes)
    outcome = CW()(victim, clips)
    assert outcome.success.all()
    assert (length(outcome.adversarial.xyz - clips.xyz, "l2") < 1.05 * distances).all()


def test_a_search_that_gains_nothing_ends_early(clips, victim):
    early, full = (CW(steps=100, binary_searches=4, abort_early=early)(victim, clips) for early in (True, False))
    assert (full.queries == 1 + 4 * 101).all()
    assert (early.queries < 0.9 * full.queries).all()
    ways = [length(outcome.adversarial.xyz - clips.xyz, "l2") for outcome in (early, full)]
    assert torch.allclose(*ways, rtol=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"binary_searches": 0},
        {"step_size": 0.0},
        {"last_step": float("nan")},
        {"first_c": float("inf")},
        {"kappa": -1.0},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"cw: {next(iter(settings))}"):
        fb.create_attack("cw", **settings)
