"""C&W: confidence, the search for c, early ends."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks.cw import CW
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2


def ways(outcome, clips):
    return L2(1.0).distance(clips.xyz, outcome.adversarial.xyz)


@pytest.fixture
def few():
    clips = random_clips(2)
    return linear_victim(clips, distance=0.05), clips


def saturated(victim, clips):
    class Saturated(torch.nn.Module):
        def forward(self, xyz):
            return torch.tanh(2 * victim.module(xyz) / 0.05)

    return fb.TorchVictim(Saturated(), skeleton=clips.skeleton, classes=clips.classes)


def test_confidence_is_bought_with_way(few):
    victim, clips = few
    missing = float(victim.logits(clips.xyz).amax(1).detach().mean()) * 2  # the margin of every clip
    plain, sure = (CW(steps=40, binary_searches=2, kappa=kappa)(victim, clips) for kappa in (0.0, missing))
    assert torch.allclose(ways(sure, clips), 2 * ways(plain, clips), rtol=0.05)
    logits = victim.logits(sure.adversarial.xyz).detach()
    assert (logits.gather(1, 1 - clips.labels[:, None]) >= missing / 2).all()


@pytest.mark.parametrize(("first_c", "searches"), [(1e-3, 6), (1e3, 5)])
def test_c_is_found_however_wrong_the_first_is(first_c, searches, few):
    victim, clips = few
    outcome = CW(steps=40, binary_searches=searches, first_c=first_c)(victim, clips)
    assert outcome.success.all()
    assert (ways(outcome, clips) < 1.05 * 0.05).all()


def test_a_fall_by_a_step_that_was_too_long_does_not_count_for_c(few):
    """Of a saturated victim the first steps are seven times too long, and cross the border whatever c is."""
    outcome = CW(steps=40, binary_searches=5, first_c=1e-3)(saturated(*few), few[1])
    assert (ways(outcome, few[1]) < 1.1 * 0.05).all()


def test_steps_are_measured_by_the_nearest_fall(few):
    outcome = CW(steps=50, binary_searches=3)(saturated(*few), few[1])
    assert (ways(outcome, few[1]) < 1.01 * 0.05).all()


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
    outcome = CW(steps=40, binary_searches=4)(victim, clips)
    assert outcome.success.all()
    assert (ways(outcome, clips) < 1.05 * distances).all()


def test_a_search_whose_c_is_too_small_ends_early(few):
    victim, clips = few
    once = CW(steps=30, binary_searches=1)
    enough, little = once(victim, clips), dataclasses.replace(once, first_c=0.1)(victim, clips)
    patient = dataclasses.replace(once, first_c=0.1, abort_early=False)(victim, clips)
    assert enough.success.all()
    assert (enough.queries == 1 + 31).all()  # what has fallen is brought nearer to the last
    assert (little.queries < 25).all()
    assert (patient.queries == 1 + 31).all()
    assert not patient.success.any()
    assert torch.equal(patient.adversarial.xyz, little.adversarial.xyz)


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
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"cw: {next(iter(settings))}"):
        fb.create_attack("cw", **settings)
