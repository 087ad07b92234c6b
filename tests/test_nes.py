"""NES: antithetic probes, what they say of the gradient, slow ones."""

import pytest
import torch

import funnybone as fb
from funnybone.attacks.nes import NES
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import Linf, Mask
from parts_for_tests import problem_of


def estimated(clips, *, threat=None, **settings):
    """The gradient of the loss of a linear victim, the estimate, and what was asked about, relative to the clips."""
    victim = linear_victim(clips, distance=0.05)
    problem = problem_of(victim, clips, threat=threat or Linf(0.02))
    attack = NES(loss="margin", **settings)
    attack.start(problem)
    seen, scores = [], problem.victim.scores
    problem.victim.scores = lambda xyz, rows: seen.append(xyz - clips.xyz[rows]) or scores(xyz, rows)
    estimate = attack.estimate(problem, problem.clean)
    true = problem.gradient(problem.clean, lambda logits, y: problem.goal.margin(logits, y))[2]
    return true, estimate, torch.cat(seen)


def alike(first, second):
    return torch.cosine_similarity(first.flatten(1), second.flatten(1))


def test_the_estimate_comes_close_to_the_gradient():
    clips = random_clips(2, frames=4)  # 204 coordinates
    true, estimate, _ = estimated(clips, samples=5_000, sigma=0.01)
    assert (alike(true, estimate) > 0.95).all()
    assert ((true * estimate).flatten(1).sum(1) / true.flatten(1).square().sum(1) - 1).abs().max() < 0.08
    _, few, _ = estimated(clips, samples=100, sigma=0.01)
    assert (abs(alike(true, few) - 0.45) < 0.2).all()  # about sqrt(50 / 254)


def test_probes_are_pairs_of_the_size_that_was_asked_for():
    clips = random_clips(2)
    for frequencies in (None, 3):
        _, _, asked = estimated(clips, samples=16, sigma=0.01, frequencies=frequencies)
        there, back = asked.view(2, 2, 8, *clips.xyz.shape[1:]).unbind(1)
        torch.testing.assert_close(there, -back, atol=1e-6, rtol=0)
        assert there.square().mean().sqrt() == pytest.approx(0.01, rel=0.05)


def test_slow_probes_are_slow_and_say_the_slow_part_of_the_gradient():
    clips = random_clips(2, frames=12)
    true, estimate, asked = estimated(clips, samples=4_000, sigma=0.01, frequencies=2)
    time = (torch.arange(12) + 0.5) * torch.pi / 12
    basis = torch.nn.functional.normalize(torch.cos(time[:, None] * torch.arange(2)), dim=0)
    slow = torch.einsum("tf,sf,nmsvc->nmtvc", basis, basis, true)
    assert (alike(slow, estimate) > 0.95).all()
    assert (slow.flatten(1).norm(dim=1) / estimate.flatten(1).norm(dim=1) - 1).abs().max() < 0.1
    left = asked - torch.einsum("tf,sf,nmsvc->nmtvc", basis, basis, asked)
    assert left.abs().max() < 1e-5


def test_what_cannot_move_is_not_probed():
    clips = random_clips(4, persons=2, absent=True)
    _, estimate, asked = estimated(clips, threat=Linf(0.02) & Mask(joints=(1, 2)), samples=4)
    owner = torch.arange(4).repeat_interleave(4)
    for change, whose in ((estimate, torch.arange(4)), (asked, owner)):
        assert not change[~clips.valid[whose]].any()
        assert not change[:, :, :, 3:].any()
        assert change.any()


def test_more_probes_than_are_asked_at_once_are_all_asked():
    clips = random_clips(2)
    _, _, asked = estimated(clips, samples=50)
    assert len(asked) == 2 * 50
    assert torch.unique(asked.flatten(1), dim=0).shape[0] == 100


def test_an_answer_that_is_no_number_gives_no_gradient():
    clips = random_clips(2)
    problem = problem_of(linear_victim(clips), clips, threat=Linf(0.02))
    attack = NES(samples=4)
    attack.start(problem)
    scores = problem.victim.scores
    problem.victim.scores = lambda xyz, rows: torch.where(rows[:, None] == 0, torch.nan, scores(xyz, rows))
    estimate = attack.estimate(problem, problem.clean)
    assert not estimate[0].any()
    assert estimate[1].any()


def test_a_step_is_a_share_of_the_radius_and_momentum_is_kept():
    clips = random_clips(2)
    problem = problem_of(linear_victim(clips), clips, threat=Linf(0.02))
    attack = NES(samples=4, step_size=0.25, momentum=0.5)
    xyz = attack.start(problem)
    moved = attack.step(problem, xyz, torch.zeros(2), 0)
    torch.testing.assert_close((moved - xyz).abs(), torch.full_like(xyz, 0.005), atol=1e-6, rtol=0)
    before = problem.state["momentum"].clone()
    again = NES(samples=4, momentum=0.5)
    again.step(problem, moved, torch.zeros(2), 1)
    news = problem.state["momentum"] - 0.5 * before
    assert news.any()
    assert (alike(problem.state["momentum"], before) > 0.3).all()


def test_a_step_that_cannot_be_paid_is_not_begun():
    clips = random_clips(2)
    victim = linear_victim(clips, distance=3.0)
    outcome = fb.create_attack("nes", queries=100, samples=10)(victim, clips, threat=Linf(0.02), budget=40)
    assert outcome.queries.tolist() == [34, 34]  # 1 + 3 * 11
    assert outcome.steps.tolist() == [3, 3]


@pytest.mark.parametrize(
    "settings",
    [{"samples": 3}, {"samples": 0}, {"sigma": 0.0}, {"step_size": -1.0}, {"momentum": 1.0}, {"frequencies": 0}],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"nes: {next(iter(settings))}"):
        fb.create_attack("nes", **settings)
