"""Metrics: closed forms, masks and units."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funnybone import metrics
from funnybone.motion.kinematics import joint_angles
from funnybone.skeletons import COCO17, NTU25, Skeleton
from funnybone.testing import random_clips


def test_nothing_changed_is_zero(clips):
    assert all((value == 0).all() for value in metrics.deviations(clips, clips.xyz).values())


def test_a_constant_shift_moves_and_does_nothing_else(clips):
    moved = clips.xyz + torch.tensor([0.03, 0.0, 0.04])
    changed = metrics.deviations(clips, moved)
    assert torch.allclose(changed["position_m"], torch.tensor(0.05), atol=1e-6)
    assert changed["velocity"].max() < 1e-4
    assert changed["acceleration"].max() < 1e-2
    assert changed["bone_length_change"].max() < 1e-5


def test_a_swing_has_the_derivatives_of_a_sine():
    clips = random_clips(1, frames=300)
    time = torch.arange(300) / 30
    swing = 0.01 * torch.sin(2 * math.pi * time)[:, None, None] * torch.tensor([1.0, 0, 0])
    changed = metrics.deviations(clips, clips.xyz + swing)
    mean = 2 / math.pi  # of |sin|
    assert changed["position_m"].item() == pytest.approx(0.01 * mean, rel=0.02)
    assert changed["velocity"].item() == pytest.approx(0.01 * mean * 2 * math.pi, rel=0.02)
    assert changed["acceleration"].item() == pytest.approx(0.01 * mean * (2 * math.pi) ** 2, rel=0.03)


def test_what_is_not_valid_does_not_count(clips):
    rubbish = torch.where(clips.valid[..., None, None], clips.xyz, clips.xyz + 7)
    assert all((value == 0).all() for value in metrics.deviations(clips, rubbish).values())


def test_longer_bones():
    clips = random_clips(2)
    change = metrics.bone_length_deviation(clips.xyz, 1.02 * clips.xyz, clips.valid, COCO17)
    assert torch.allclose(change, torch.tensor(0.02), atol=1e-5)


@given(seed=st.integers(0, 2**31), angle=st.floats(0.01, 3.1))
def test_joint_angles_do_not_see_rotation_or_scale(seed, angle):
    arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    bent = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0.3 + 0.2 * math.cos(angle), 0.2 * math.sin(angle), 0]])
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))
    assert joint_angles(1.7 * bent @ turn + 0.4, arm).item() == pytest.approx(angle, abs=2e-3)


def test_joint_angles_have_a_finite_gradient_when_straight():
    xyz = torch.zeros(1, 25, 3, requires_grad=True)
    straight = xyz + torch.arange(25)[None, :, None] * torch.tensor([0.1, 0.0, 0.0])
    joint_angles(straight, NTU25).sum().backward()
    assert torch.isfinite(xyz.grad).all()


@settings(deadline=None)  # the first call imports scipy
@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_holds_the_rate_and_solves_its_equation(n, share):
    k = round(share * n)
    low, high = metrics.wilson(k, n)
    assert -1e-12 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1 + 1e-12
    for bound in (low, high):  # each bound p satisfies |k/n - p| = z sqrt(p (1 - p) / n)
        assert abs(k / n - bound) == pytest.approx(1.959964 * math.sqrt(max(bound * (1 - bound), 0) / n), abs=1e-5)


def test_nothing_tried_has_no_interval():
    assert metrics.wilson(0, 0) is None
