"""Metrics: closed forms, masks and units."""

import dataclasses
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
    assert changed["jerk"].max() < 0.1  # 5 mm of noise give a thousand: the rounding of positions, times 30^3
    assert changed["bone_length_change"].max() < 1e-5
    assert changed["npss"].max() < 1e-5
    assert torch.allclose(changed["max_position_m"], torch.tensor(0.05), atol=1e-6)


def test_a_swing_has_the_derivatives_of_a_sine():
    clips = random_clips(1, frames=300)
    time = torch.arange(300) / 30
    swing = 0.01 * torch.sin(2 * math.pi * time)[:, None, None] * torch.tensor([1.0, 0, 0])
    changed = metrics.deviations(clips, clips.xyz + swing)
    mean = 2 / math.pi  # of |sin|
    assert changed["position_m"].item() == pytest.approx(0.01 * mean, rel=0.02)
    assert changed["velocity"].item() == pytest.approx(0.01 * mean * 2 * math.pi, rel=0.02)
    assert changed["acceleration"].item() == pytest.approx(0.01 * mean * (2 * math.pi) ** 2, rel=0.03)
    assert changed["jerk"].item() == pytest.approx(0.01 * mean * (2 * math.pi) ** 3, rel=0.03)
    assert changed["max_position_m"].item() == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("rubbish", [7.0, math.nan])
def test_what_is_not_valid_does_not_count(clips, rubbish):
    moved = torch.where(clips.valid[..., None, None], clips.xyz, clips.xyz + rubbish)
    assert all((value == 0).all() for value in metrics.deviations(clips, moved).values())


def test_the_largest_displacement_is_of_one_joint_of_one_person_in_one_frame(clips):
    moved = clips.xyz.clone()
    moved[2, 1, 3, 5] += torch.tensor([0.0, 0.06, 0.08])
    largest = metrics.max_joint_displacement(clips.xyz, moved, clips.valid)
    assert torch.allclose(largest, torch.tensor([0, 0, 0.1, 0, 0, 0]), atol=1e-6)
    _, persons, frames, joints, _ = clips.xyz.shape
    mean = metrics.joint_displacement(clips.xyz, moved, clips.valid)
    assert mean[2].item() == pytest.approx(0.1 / (persons * frames * joints), rel=1e-4)


def trembling(clips, generator):
    """The clips with 5 mm of noise."""
    noise = 0.005 * torch.randn(clips.xyz.shape, generator=generator)
    return clips.xyz + torch.where(clips.valid[..., None, None], noise, 0)


def test_a_figure_belongs_to_its_clip(clips, generator):
    moved = trembling(clips, generator)
    together = metrics.deviations(clips, moved)
    for place in range(len(clips)):
        alone = metrics.deviations(clips[place], moved[place : place + 1])
        for name, value in alone.items():
            assert torch.allclose(value, together[name][place], rtol=1e-6), name


def test_too_few_valid_frames_have_no_figure(clips, generator):
    """One frame has a place, two a velocity, three an acceleration, four a jerk."""
    valid = torch.zeros_like(clips.valid)
    for frames in range(5):
        valid[frames, 0, 1 : 1 + frames] = True
    moved = trembling(clips, generator)
    given = (clips.xyz, moved, valid)
    for order, figure in enumerate(
        (
            lambda: metrics.joint_displacement(*given),
            lambda: metrics.velocity_deviation(*given, clips.fps),
            lambda: metrics.acceleration_deviation(*given, clips.fps),
            lambda: metrics.jerk_deviation(*given, clips.fps),
        )
    ):
        assert figure()[:5].isnan().tolist() == [frames <= order for frames in range(5)]
    assert metrics.max_joint_displacement(*given)[:5].isnan().tolist() == [True, False, False, False, False]
    assert metrics.npss(*given)[:5].isnan().tolist() == [True, True, False, False, False]


def test_single_precision_is_enough(clips, generator):
    moved = trembling(clips, generator)
    single = metrics.deviations(clips, moved)
    given, fps = (clips.xyz.double(), moved.double(), clips.valid), clips.fps.double()
    double = {
        "position_m": metrics.joint_displacement(*given),
        "max_position_m": metrics.max_joint_displacement(*given),
        "velocity": metrics.velocity_deviation(*given, fps),
        "acceleration": metrics.acceleration_deviation(*given, fps),
        "jerk": metrics.jerk_deviation(*given, fps),
        "joint_angle_acceleration": metrics.joint_angle_acceleration_deviation(*given, fps, clips.skeleton),
        "bone_length_change": metrics.bone_length_deviation(*given, clips.skeleton),
        "npss": metrics.npss(*given),
    }
    assert single.keys() == double.keys()
    for name, value in double.items():
        assert value.dtype == torch.float64, name
        assert single[name].dtype == torch.float32, name
        assert torch.allclose(single[name].double(), value, rtol=1e-4), name


def moving(fps, seconds=2):
    """Clips of one smooth motion and of a smoothly changed one, sampled at a frame rate."""
    still = random_clips(2, frames=round(fps * seconds))
    generator = torch.Generator().manual_seed(5)
    swing, shift = torch.randn(2, 2, 1, 1, *still.xyz.shape[3:], generator=generator)
    time = (torch.arange(still.xyz.shape[2]) / fps)[:, None, None]
    rest = still.xyz[:, :, :1]
    clean = rest + 0.2 * swing * torch.sin(2 * math.pi * (1.5 * time + shift))
    moved = clean + 0.02 * shift * torch.sin(2 * math.pi * (4 * time + swing))
    return dataclasses.replace(still, xyz=clean, fps=torch.full((2,), float(fps))), moved


def test_figures_do_not_depend_on_the_frame_rate():
    slow, fast = (metrics.deviations(*moving(fps)) for fps in (60, 120))
    for name, value in slow.items():
        assert torch.allclose(value, fast[name], rtol=0.03), (name, value, fast[name])
    assert slow["npss"].min() > 0.01


def turned(seed):
    """A rotation and a shift."""
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    return turn, torch.randn(3, generator=generator)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_figures_do_not_depend_on_where_the_clips_are_seen_from(seed):
    """One rigid motion of the clean and of the adversarial clip changes nothing."""
    clips = random_clips(3, persons=2, frames=12, absent=True)
    moved = trembling(clips, torch.Generator().manual_seed(seed))
    turn, shift = turned(seed)
    here = metrics.deviations(clips, moved)
    there = metrics.deviations(clips.with_xyz(clips.xyz @ turn + shift), moved @ turn + shift)
    for name, value in here.items():
        assert torch.allclose(there[name], value, rtol=1e-3), name


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_bones_and_angles_do_not_see_where_a_clip_is(seed):
    """Even if only the adversarial clip is moved as a whole."""
    clips = random_clips(3)
    turn, shift = turned(seed)
    changed = metrics.deviations(clips, clips.xyz @ turn + shift)
    assert changed["bone_length_change"].max() < 1e-4
    assert changed["joint_angle_acceleration"].max() < 0.01  # 5 mm of noise give ten
    assert changed["npss"].max() < 1e-4
    assert changed["position_m"].min() > 0.01


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
