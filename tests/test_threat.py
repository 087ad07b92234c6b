"""Threat models: inside, idempotent, nearest where that is claimed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import funnybone as fb
from funnybone.chance import Chance
from funnybone.skeletons import COCO17
from funnybone.threat import L2, BoneLength, Linf, Mask, parse
from funnybone.threat.base import towards

RADII = st.floats(1e-4, 0.1)
SEEDS = st.integers(0, 2**31)


def pair(seed, spread, place=1.0):
    """A clean batch up to ``place`` metres away from the origin, and one that strays from it."""
    generator = torch.Generator().manual_seed(seed)
    clean = place * torch.randn(3, 2, 4, 17, 3, generator=generator)
    return clean, clean + spread * torch.randn(clean.shape, generator=generator)


def threats(radius):
    return [
        Linf(radius),
        L2(10 * radius),
        BoneLength(min(radius, 0.05), skeleton=COCO17),
        Mask(joints=(1, 4), frames=(1, 3), persons=(0,)),
        Linf(radius) & L2(10 * radius),
        Linf(radius) & BoneLength(0.05, skeleton=COCO17),
        L2(10 * radius) & Mask(joints=("nose", "left_wrist"), skeleton=COCO17),
        Linf(radius) & BoneLength(0.02, skeleton=COCO17) & Mask(joints=(9, 10)),
    ]


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, radius=RADII, place=st.sampled_from([0.1, 1.0, 5.0]))
def test_projections_are_inside_and_idempotent(seed, radius, place):
    clean, outside = pair(seed, 3 * radius, place)
    for threat in threats(radius):
        inside = threat.project(clean, outside)
        assert inside.dtype == torch.float32
        assert threat.violation(clean, inside).max() <= 1e-7, threat
        assert torch.equal(threat.project(clean, inside), inside), threat
        assert torch.equal(threat.project(clean, clean), clean), threat


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, radius=RADII)
def test_linf_projection_is_the_nearest_point(seed, radius):
    clean, outside = pair(seed, 3 * radius)
    inside = Linf(radius).project(clean, outside)
    assert torch.allclose(inside, clean + (outside - clean).clamp(-radius, radius), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, radius=RADII)
def test_l2_projection_is_the_nearest_point(seed, radius):
    clean, outside = pair(seed, radius)
    inside = L2(radius).project(clean, outside)
    nearest = (outside - clean).flatten(1).norm(dim=1) - radius  # along the straight line to the centre
    assert torch.allclose((outside - inside).flatten(1).norm(dim=1), nearest, rtol=1e-3, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, tolerance=st.floats(1e-3, 0.2))
def test_bones_keep_direction_and_root(seed, tolerance):
    clean, outside = pair(seed, 0.5)
    inside = BoneLength(tolerance, skeleton=COCO17).project(clean, outside)
    assert torch.equal(inside[..., COCO17.root, :], outside[..., COCO17.root, :])
    cosine = torch.cosine_similarity(COCO17.bone_vectors(outside), COCO17.bone_vectors(inside), dim=-1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("noise", [0.003, 0.01])
def test_composed_models_keep_the_move(noise, synthetic):
    clips = synthetic[:6]
    generator = torch.Generator().manual_seed(0)
    wild = torch.where(
        clips.valid[..., None, None], clips.xyz + noise * torch.randn(clips.xyz.shape, generator=generator), clips.xyz
    )
    budget = Linf(0.02)
    inside = (budget & BoneLength(0.01, skeleton=clips.skeleton)).project(clips.xyz, wild)
    kept, possible = ((xyz - clips.xyz).flatten(1).norm(dim=1) for xyz in (inside, budget.project(clips.xyz, wild)))
    assert (kept > 0.8 * possible).all()  # one stubborn bone in one frame must not shrink a whole clip


def test_rounding_never_leaves_the_budget():
    clean = torch.full((1, 1, 1, 17, 3), 4.0)  # one digit of float32 is half a micrometre here
    moved = towards(clean, torch.full_like(clean, 0.0100003))
    assert (moved.double() - clean.double()).max() <= 0.0100003


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, radius=RADII)
def test_steepest_and_samples_stay_in_the_ball(seed, radius):
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(3, 2, 4, 17, 3, generator=generator)
    clean = torch.randn(gradient.shape, generator=generator)
    for ball, dual in ((Linf(radius), gradient.abs().flatten(1).sum(1)), (L2(radius), gradient.flatten(1).norm(dim=1))):
        reached = (ball.steepest(gradient) * gradient).flatten(1).sum(1)
        assert torch.allclose(reached, radius * dual, rtol=1e-4)  # Hoelder's bound is met
        assert ball.violation(clean, ball.sample(clean, Chance(torch.arange(3) + seed))).max() == 0


def test_mask_measures_what_it_forbids():
    clean = torch.zeros(1, 1, 2, 17, 3)
    moved = clean.clone()
    moved[0, 0, 1, 5, 2] = 0.3
    assert Mask(joints=(5,)).violation(clean, moved) == 0
    assert Mask(joints=(4,)).violation(clean, moved) == pytest.approx(0.3)
    assert Mask(frames=(0, 1)).violation(clean, moved) == pytest.approx(0.3)


def test_zero_length_bones_have_finite_projection_and_gradient():
    clean = torch.zeros(1, 1, 1, 17, 3, requires_grad=True)
    COCO17.bone_lengths(clean).sum().backward()
    assert torch.isfinite(clean.grad).all()
    threat = BoneLength(0.01, skeleton=COCO17)
    inside = threat.project(clean.detach(), torch.randn(1, 1, 1, 17, 3))
    assert torch.isfinite(inside).all()
    assert threat.violation(clean.detach(), inside) <= 1e-6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("linf", "write for example"),
        ("linf:-1", "more than zero"),
        ("linf:nan", "more than zero"),
        ("ball:1", "no threat model is named 'ball'"),
        ("bones:2", "from 0 to 1"),
    ],
)
def test_threats_in_words_that_make_no_sense(text, said):
    with pytest.raises(fb.DataError, match=said):
        parse(text)


def test_what_is_unknown_is_said():
    clean = torch.zeros(1, 1, 2, 17, 3)
    with pytest.raises(fb.DataError, match="skeleton"):
        BoneLength(0.01).project(clean, clean)
    with pytest.raises(fb.DataError, match="no joint 'tail'"):
        Mask(joints=("tail",)).bind(COCO17)
    with pytest.raises(fb.DataError, match=r"not all of 0\.\.1"):
        Mask(frames=(0, 9)).project(clean, clean)
