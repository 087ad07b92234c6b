"""Autoregression over time: exact on series whose coefficients are known, and silent where nothing can be told."""

import math

import pytest
import torch

from funnybone.errors import DataError
from funnybone.motion.autoregression import autoregression, motion_gradient

EVERYWHERE = torch.ones(1, 1, 60, dtype=torch.bool)


def one_series(values):
    """One coordinate of one joint of one person."""
    return values.float().view(1, 1, -1, 1, 1)


def grown(slope, push, first=1.0):
    """The series that starts somewhere and goes on by known coefficients."""
    values = [torch.tensor(first, dtype=torch.float64)]
    for t in range(1, len(slope)):
        values.append(slope[t] * values[-1] + push[t])
    return torch.stack(values)


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_an_oscillation_has_its_two_coefficients_wherever_it_is(offset):
    xyz = one_series(torch.sin(0.3 * torch.arange(60.0)) + offset)
    found = autoregression(xyz, EVERYWHERE, 2).view(60, 2)
    assert (found[:2] == 0).all()  # two frames before them are not there
    assert (found[2:] - torch.tensor([2 * math.cos(0.3), -1.0])).abs().max() < 1e-3


def test_coefficients_that_are_lines_in_time_are_found():
    time = torch.arange(60, dtype=torch.float64)
    slope, push = -0.9 + 0.02 * time, 1.0 - 0.01 * time
    found = autoregression(one_series(grown(slope, push, first=5.0)), EVERYWHERE, 1).flatten()
    assert (found[1:30] - slope[1:30]).abs().max() < 1e-3  # later on it has come to rest, and says nothing any more


def test_each_joint_axis_and_clip_has_its_own():
    rates = torch.linspace(0.4, 0.9, 12).view(2, 1, 1, 2, 3)
    xyz = torch.sin(rates * torch.arange(60.0).view(1, 1, 60, 1, 1))
    found = autoregression(xyz, EVERYWHERE.expand(2, 1, 60), 2)
    assert (found[:, :, 2:, ..., 0] - 2 * torch.cos(rates)).abs().max() < 1e-3
    alone = autoregression(xyz[1:], EVERYWHERE, 2)
    assert torch.allclose(found[1:], alone, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_what_stands_still_says_nothing(order):
    for value in (0.0, 1.7, -50.0):
        still = one_series(torch.full((60,), value))
        assert (autoregression(still, EVERYWHERE, order) == 0).all()
    rounding = one_series(50 + 1e-6 * torch.sin(torch.arange(60.0)))
    assert (autoregression(rounding, EVERYWHERE, order) == 0).all()


def test_frames_that_are_not_valid_are_left_out():
    xyz = one_series(torch.sin(0.3 * torch.arange(60.0)))
    valid = EVERYWHERE.clone()
    valid[..., 20:25] = False
    spoilt = torch.where(valid[..., None, None], xyz, torch.randn(1, 1, 60, 1, 1))
    found = autoregression(spoilt, valid, 2).view(60, 2)
    assert (found[20:27] == 0).all()  # not valid, or a frame before them is not
    rest = [*range(2, 20), *range(27, 60)]
    assert (found[rest] - torch.tensor([2 * math.cos(0.3), -1.0])).abs().max() < 1e-3
    assert (autoregression(xyz, torch.zeros_like(valid), 2) == 0).all()


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_the_shortest_clips(frames):
    xyz, valid = torch.rand(1, 1, frames, 2, 3), torch.ones(1, 1, frames, dtype=torch.bool)
    found = autoregression(xyz, valid, 2)
    assert found.shape == (1, 1, frames, 2, 3, 2)
    assert torch.isfinite(found).all()
    assert torch.isfinite(motion_gradient(xyz, found)).all()


@pytest.mark.parametrize("order", [1, 2])
def test_a_motion_gradient_is_that_of_what_follows(order):
    """Where frames follow from those before them, it is the gradient of the whole series, cut after so many frames."""
    generator = torch.Generator().manual_seed(0)
    coefficients, gradient = (torch.randn(1, 1, 6, 1, 1, n, generator=generator) for n in (order, 1))
    gradient = gradient[..., 0]
    moved = torch.zeros(6, 6)  # how far each frame (column) moves when one (row) does
    a = coefficients.view(6, order)
    for t in range(6):
        moved[t, t] = 1
        for later in range(t + 1, min(t + order, 5) + 1):
            moved[t, later] = sum(a[later, lag] * moved[t, later - 1 - lag] for lag in range(min(order, later - t)))
    assert torch.allclose(motion_gradient(gradient, coefficients).flatten(), moved @ gradient.flatten(), atol=1e-5)


def test_wrong_settings_are_named():
    xyz = torch.rand(1, 1, 60, 1, 3)
    with pytest.raises(DataError, match="order is 3"):
        autoregression(xyz, EVERYWHERE, 3)
    with pytest.raises(DataError, match="bandwidth is 0"):
        autoregression(xyz, EVERYWHERE, 1, bandwidth=0)
