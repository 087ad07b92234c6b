"""Rotations against another library, against finite differences, and where textbook formulas divide by zero."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from funnybone.motion.rotations import (
    best_fit,
    matrix,
    matrix_of,
    nearest_rotation,
    quaternion,
    quaternion_of,
    rotvec,
    rotvec_of,
    shortest,
    turned,
)
from funnybone.motion.unwrapping import held, nearest_turn, unwrapped

ANGLES = (
    0.0,
    1e-12,
    1e-6,
    1e-3,
    0.031,
    0.033,
    0.5,
    1.5,
    3.0,
    3.14159,
    torch.pi,
    3.2,
    5.0,
    6.28,
    2 * torch.pi,
    9.0,
    20.0,
)
seeds = st.integers(0, 2**31)


def vectors(*shape, seed=0):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def axes(count, seed=0):
    return torch.nn.functional.normalize(vectors(count, seed=seed), dim=-1)


def every_angle():
    """Rotation vectors of all the angles above about twenty axes each, and about the coordinate axes."""
    about = torch.cat([axes(20), torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    return (torch.tensor(ANGLES, dtype=torch.float64)[:, None, None] * about).reshape(-1, 3)


def test_matrices_and_quaternions_are_those_of_scipy():
    turns = every_angle()
    expected = Rotation.from_rotvec(turns.numpy())
    assert np.abs(matrix(turns).numpy() - expected.as_matrix()).max() < 1e-14
    assert np.abs(matrix_of(quaternion(turns)).numpy() - expected.as_matrix()).max() < 1e-14
    found, wanted = quaternion(turns), torch.from_numpy(expected.as_quat(scalar_first=True))
    assert (found - wanted * (found * wanted).sum(-1, keepdim=True).sign()).abs().max() < 1e-14


def test_a_vector_is_turned_as_by_the_matrix():
    generator = torch.Generator().manual_seed(0)
    turns = (
        torch.randn(5, 1, 3, generator=generator, dtype=torch.float64)
        * torch.tensor([0, 1e-9, 0.1, 1, 6])[:, None, None]
    )
    vectors = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    expected = (matrix(turns) @ vectors[..., None]).squeeze(-1)
    torch.testing.assert_close(turned(turns, vectors), expected, rtol=0, atol=1e-14)


def test_rotation_vectors_come_back():
    turns = every_angle()
    for back in (rotvec(matrix(turns)), rotvec_of(quaternion(turns)), rotvec_of(quaternion_of(matrix(turns)))):
        assert (matrix(back) - matrix(turns)).abs().max() < 1e-13
        assert back.norm(dim=-1).max() <= torch.pi + 1e-12
    short = turns[turns.norm(dim=-1) < 3.1]
    assert (rotvec(matrix(short)) - short).abs().max() < 1e-13
    assert (rotvec(matrix(short.float())) - short).abs().max() < 5e-6


@pytest.mark.parametrize("angle", ANGLES)
def test_derivatives_are_right_at_every_angle(angle):
    turns = (angle * axes(3)).requires_grad_(True)
    for function in (matrix, quaternion):
        assert torch.autograd.gradcheck(function, turns, eps=1e-6, atol=1e-7)
    for there in (lambda turns: rotvec(matrix(turns)), lambda turns: rotvec_of(quaternion(turns))):
        if angle < 3:  # where it is the identity
            slopes = [torch.autograd.grad(there(turns)[:, axis].sum(), turns)[0] for axis in range(3)]
            assert (torch.stack(slopes, 1) - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-7
        (slope,) = torch.autograd.grad(there(turns).square().sum(), turns)
        assert torch.isfinite(slope).all()


@given(
    seed=seeds,
    angle=st.sampled_from((0.0, 1e-15, 1e-9, 1e-5, 0.7, 2.0, 3.1, torch.pi - 1e-7, torch.pi - 1e-13, torch.pi)),
)
@settings(max_examples=40, deadline=None)
def test_the_shortest_rotation_turns_by_the_angle_between(seed, angle):
    source, across = vectors(2, seed=seed)
    across = torch.linalg.cross(source, across)
    target = matrix(angle * across / across.norm()) @ source
    found = shortest(source, 3 * target)
    assert (found @ source - target).norm() < 3e-8 * source.norm()
    assert (found.mT @ found - torch.eye(3)).abs().max() < 1e-14
    assert torch.linalg.det(found) > 0
    assert abs(float(rotvec(found).norm()) - angle) < 1e-7
    single = shortest(source.float(), target.float())
    assert (single @ source.float() - target).norm() < 1e-3 * source.norm()


def test_the_shortest_rotation_has_a_derivative_everywhere():
    up = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    for target in (up, vectors(), torch.tensor([1e-3, -1.0, 0.0], dtype=torch.float64)):
        both = (up.clone().requires_grad_(True), target.clone().requires_grad_(True))
        assert torch.autograd.gradcheck(shortest, both, eps=1e-7, atol=1e-4)
    for dtype in (torch.float32, torch.float64):
        for source, target in (
            (up, -up),
            (up, -up + 1e-9),
            (0 * up, up),
            (up, 0 * up),
            (0 * up, 0 * up),
            (up, 1e-30 * up),
        ):
            both = (source.to(dtype).requires_grad_(True), target.to(dtype).requires_grad_(True))
            found = shortest(*both)
            assert torch.isfinite(torch.stack(torch.autograd.grad((found * vectors(3)).sum(), both))).all()
    assert torch.equal(shortest(0 * up, up), torch.eye(3, dtype=torch.float64))


@given(seed=seeds, count=st.integers(2, 6), mirrored=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_best_fit_is_that_of_scipy(seed, count, mirrored):
    source, target = vectors(2, count, seed=seed)
    weights = vectors(count, seed=seed + 1)[:, 0].abs() + 0.1
    target = 0.2 * target + source @ matrix(vectors(seed=seed + 2)).mT * (-1 if mirrored else 1)
    expected, _ = Rotation.align_vectors(target.numpy(), source.numpy(), weights.numpy())
    found = best_fit(source, target, weights)
    assert torch.linalg.det(found) > 0

    def misfit(turn):
        return float((weights * (target - source @ turn.mT).square().sum(-1)).sum())

    best = misfit(torch.from_numpy(expected.as_matrix()))
    assert misfit(found) <= best * (1 + 1e-8) + 1e-12
    gap = np.linalg.svd((weights[:, None] * target).mT.numpy() @ source.numpy())[1]
    if gap[1] - gap[2] > 0.05 * gap[0]:  # the optimum is one point
        assert np.abs(found.numpy() - expected.as_matrix()).max() < 1e-5


def test_no_other_rotation_is_nearer():
    any_matrix = vectors(200, 3)  # half of them mirror
    found = nearest_rotation(any_matrix)
    others = matrix(3 * vectors(500, 1, seed=1))
    fit = (found * any_matrix).sum((-1, -2))
    assert ((others * any_matrix).sum((-1, -2)) <= fit + 1e-8).all()
    assert ((found @ matrix(1e-3 * vectors(50, 1, seed=2)) * any_matrix).sum((-1, -2)) <= fit + 1e-8).all()
    assert nearest_rotation(any_matrix.float()).dtype == torch.float32


def test_what_a_line_leaves_open_is_the_other_rotations():
    along, turn = axes(30), matrix(2 * vectors(30, seed=1))
    source = along[:, None] * torch.tensor([[1.0], [-0.5], [0.0]], dtype=torch.float64)
    target = source @ matrix(vectors(30, seed=2)).mT
    bent = best_fit(source, target)
    assert (bent - shortest(source[:, 0], target[:, 0])).abs().max() < 1e-6
    assert (best_fit(source, source @ turn.mT, near=turn) - turn).abs().max() < 1e-6
    assert (best_fit(0 * source, target, near=turn) - turn).abs().max() < 1e-12
    half = best_fit(source, -source)  # many are best; one of them it must be
    assert (half @ source[:, 0, :, None] + source[:, 0, :, None]).abs().max() < 1e-6


def test_the_best_fit_has_a_derivative_everywhere():
    source, target = vectors(2, 2, 4, seed=3)
    weights = vectors(2, 4, seed=4)[..., 0].abs()
    inputs = tuple(tensor.clone().requires_grad_(True) for tensor in (source, target, weights))
    assert torch.autograd.gradcheck(best_fit, inputs, eps=1e-6, atol=1e-6)
    # At the optimum itself, where eigenvalues of other kinds meet, and where vectors determine nothing.
    square = torch.eye(3, dtype=torch.float64)
    rest = (square.clone().requires_grad_(True), square.clone().requires_grad_(True))
    assert torch.autograd.gradcheck(best_fit, rest, eps=1e-6, atol=1e-6)
    for one, other in ((square[:1], square[:1]), (square[:1], -square[:1]), (0 * square, square), (square, -square)):
        both = (one.clone().requires_grad_(True), other.clone().requires_grad_(True))
        slopes = torch.autograd.grad((best_fit(*both) * vectors(3)).sum(), both)
        assert all(torch.isfinite(slope).all() for slope in slopes)
    # One vector: that of the shortest rotation.
    weigh, one, other = vectors(3), vectors(1, seed=5), vectors(1, seed=6)
    slopes = [
        torch.autograd.grad((function(leaf) * weigh).sum(), leaf)[0]
        for function in (lambda leaf: best_fit(one, leaf), lambda leaf: shortest(one, leaf))
        for leaf in (other.clone().requires_grad_(True),)
    ]
    assert torch.allclose(*slopes, atol=1e-3)


def shortened(turns):
    return rotvec(matrix(turns))


@pytest.mark.parametrize("turns", [3, -3, 0.4, 10])
def test_full_turns_are_a_ramp(turns):
    for axis in axes(5):
        ramp = torch.linspace(0, 2 * torch.pi * turns, 102, dtype=torch.float64)[:, None] * axis
        assert (unwrapped(shortened(ramp)) - ramp).abs().max() < 1e-9
        assert (unwrapped(shortened(ramp).float()) - ramp).abs().max() < 1e-4
    # Counted from the frame that turns least.
    middle = ramp - ramp[49] + 0.01 * axis
    assert (unwrapped(shortened(middle)) - middle).abs().max() < 1e-9


def test_a_path_across_the_half_turn_is_smooth():
    """A joint that nods about an axis that wanders, from 0.6 of half a turn to 1.2."""
    time = torch.linspace(0, 1, 80, dtype=torch.float64)
    angle = torch.pi * (0.9 + 0.3 * torch.sin(12 * time))
    axis = torch.stack([torch.cos(2 * time), torch.sin(2 * time), 0.3 * torch.sin(5 * time)], -1)
    path = angle[:, None] * torch.nn.functional.normalize(axis, dim=-1)
    assert shortened(path).diff(dim=0).norm(dim=-1).max() > 6
    assert (unwrapped(shortened(path)) - path).abs().max() < 1e-9


@given(seed=seeds, scale=st.sampled_from((0.01, 0.3, 2.0)))
@settings(max_examples=30, deadline=None)
def test_unwrapping_changes_no_rotation(seed, scale):
    turns = scale * vectors(5, 40, seed=seed).cumsum(1)
    found = unwrapped(turns)
    assert (matrix(found) - matrix(turns)).abs().max() < 1e-10
    assert (
        found.diff(dim=1).norm(dim=-1).amax(1) <= turns.diff(dim=1).norm(dim=-1).amax(1).clamp(min=7)
    ).all() or scale > 1
    assert torch.equal(unwrapped(found[2]), unwrapped(found)[2])


def test_a_lost_joint_counts_no_turns():
    """Each glitch of a tracker would add a turn, and the joint would never come back to where it was."""
    still = torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64).repeat(61, 1)
    still[10::10] = 3 * axes(6)
    found = unwrapped(still)
    assert (found[torch.arange(61) % 10 != 0] - still[0]).norm(dim=-1).max() < 1e-12
    # What is smooth before and after the glitch is so still, across the half turn.
    path = torch.linspace(2.5, 4, 31, dtype=torch.float64)[:, None] * axes(1)
    path = torch.cat([path, 3 * torch.linalg.cross(axes(1), axes(1, seed=1)), path.flip(0)])
    jumps = unwrapped(shortened(path)).diff(dim=0).norm(dim=-1)
    assert jumps[:30].max() < 0.1
    assert jumps[32:].max() < 0.1


def test_near_a_full_turn_the_axis_means_nothing():
    """All but a turn about one axis, and then a tremor about others: no continuous form is smooth there."""
    turn = torch.linspace(0, 6.2, 60, dtype=torch.float64)[:, None] * torch.tensor([0.0, 0.0, 1.0])
    tremor = 0.08 * torch.eye(3, dtype=torch.float64)[torch.arange(40) % 3]
    found = unwrapped(torch.cat([shortened(turn), tremor]))
    assert found[60:].norm(dim=-1).max() < 0.1
    assert found.diff(dim=0).norm(dim=-1).max() <= 2 * torch.pi


def test_frames_that_are_not_valid_disturb_nothing():
    ramp = torch.linspace(0, 20, 60, dtype=torch.float64)[:, None] * axes(1)
    valid = torch.ones(60, dtype=torch.bool)
    valid[[0, 1, 17, 30, 31, 58, 59]] = False
    spoilt = torch.where(valid[:, None], shortened(ramp), torch.nan).requires_grad_(True)
    found = unwrapped(spoilt, valid)
    shift = found[2] - ramp[2]
    assert (found[valid] - ramp[valid] - shift).abs().max() < 1e-9
    assert torch.equal(found[[0, 1, 17, 30, 31, 58, 59]], found[[2, 2, 16, 29, 29, 57, 57]])
    (slope,) = torch.autograd.grad(found.sum(), spoilt)
    assert torch.isfinite(slope).all()
    assert (slope[~valid] == 0).all()
    assert torch.equal(held(ramp, ~valid)[:3], ramp[[0, 1, 1]])


def test_the_derivative_of_a_form_with_more_turns():
    turns = shortened(7 * axes(4)).requires_grad_(True)
    to = 7 * axes(4)
    assert (nearest_turn(turns, to) - to).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda turns: nearest_turn(turns, to), turns, eps=1e-6, atol=1e-6)
    ramp = shortened(torch.linspace(0, 20, 30, dtype=torch.float64)[:, None] * axes(1)).requires_grad_(True)
    assert torch.autograd.gradcheck(unwrapped, ramp[1:], eps=1e-6, atol=1e-6)
    nothing = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    for function in (unwrapped, lambda turns: nearest_turn(turns, 7 * axes(5))):
        assert torch.isfinite(torch.autograd.grad(function(nothing).sum(), nothing)[0]).all()


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_no_form_is_nearer(seed):
    turns, to = vectors(50, seed=seed), 5 * vectors(50, seed=seed + 1)
    found = nearest_turn(turns, to)
    axis = torch.nn.functional.normalize(turns, dim=-1)
    forms = turns + 2 * torch.pi * torch.arange(-6.0, 7, dtype=torch.float64)[:, None, None] * axis
    assert (found - to).norm(dim=-1).sub((forms - to).norm(dim=-1).amin(0)).abs().max() < 1e-9
    assert (matrix(found) - matrix(turns)).abs().max() < 1e-12
