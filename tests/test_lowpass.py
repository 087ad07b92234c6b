"""The filter in front of a victim: which frequencies pass, and that nothing but them decides."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct, idct

import funnybone as fb
from funnybone.errors import DataError
from funnybone.testing import linear_victim, random_clips
from funnybone.victims.adapted import Adapted
from funnybone.victims.filtered import Filter, Filtered, gaussian_weights
from tiny_victim import tiny_victim

MODES = [{"keep": 0.3}, {"mode": "gaussian", "sigma": 1.5, "taps": 7}]


def wave(hertz, frames=60, fps=30):
    """One coordinate that swings as a vector of the cosine basis does."""
    time = (torch.arange(frames) + 0.5) / fps
    return torch.cos(2 * torch.pi * hertz * time).reshape(1, 1, frames, 1, 1) + 3


@pytest.mark.parametrize(
    ("taps", "published"),
    [(5, (0.06136, 0.24477, 0.38774)), (7, (0.006, 0.061, 0.242, 0.383))],
)
def test_the_taps_are_the_published_ones(taps, published):
    weights = gaussian_weights(torch.ones(1, 1, 20, dtype=torch.bool), 1.0, taps, torch.float64)[0, 0, 10]
    found = weights[10 - taps // 2 : 11]
    assert torch.allclose(found, torch.tensor(published, dtype=torch.float64), atol=6e-6 if taps == 5 else 6e-4)
    assert int((weights > 0).sum()) == taps


@pytest.mark.parametrize("keep", [0.04, 0.25, 0.5, 1.0])
def test_cosines_are_those_of_scipy(keep):
    xyz = random_clips(2, frames=20).xyz
    coefficients = dct(xyz.double().numpy(), norm="ortho", axis=2)
    coefficients[:, :, max(1, round(keep * 20)) :] = 0
    assert np.allclose(Filter(keep=keep)(xyz).numpy(), idct(coefficients, norm="ortho", axis=2), atol=1e-5)


@pytest.mark.parametrize(("hertz", "passes"), [(3.5, True), (4.0, False), (15 * 0.9, False)])
def test_the_cut_off_is_a_share_of_half_the_frame_rate(hertz, passes):
    xyz = wave(hertz)
    left = Filter(keep=0.25)(xyz) - 3  # 3.75 Hz of 15
    assert torch.allclose(left, xyz - 3 if passes else torch.zeros(()), atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), mode=st.sampled_from(MODES))
def test_filtering_is_of_each_present_person_alone(seed, mode):
    generator = torch.Generator().manual_seed(seed)
    clips = random_clips(3, persons=2, frames=12, generator=generator)
    valid = torch.rand(clips.valid.shape, generator=generator) < 0.7
    xyz = torch.where(valid[..., None, None], clips.xyz, 0)
    found = Filter(**mode)(xyz)
    assert not bool(found[~valid].any()), "who is absent was moved"
    # What one person does in one clip changes nothing for the others, wherever the gaps are.
    other = xyz.clone()
    other[0, 0] *= 2
    assert torch.equal(Filter(**mode)(other)[1:], found[1:])
    assert torch.equal(Filter(**mode)(other)[0, 1], found[0, 1])
    # Nobody is drawn to the origin by frames in which nobody is: who stands still stays, also beside a gap.
    still = torch.where(valid[..., None, None], xyz.new_tensor([1.0, -2.0, 3.0]), 0)
    assert torch.allclose(Filter(**mode)(still), still, atol=1e-5)
    if mode.get("mode") != "gaussian":
        assert torch.allclose(Filter(**mode)(found), found, atol=1e-5), "a projection is itself when it is repeated"


def test_all_coefficients_are_the_clip_itself():
    clips = random_clips(4, persons=2, absent=True)
    assert torch.allclose(Filter(keep=1.0)(clips.xyz), clips.xyz, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_exact(mode):
    xyz = random_clips(1, frames=6).xyz[..., :2, :].double()
    xyz[0, 0, 2] = 0  # a gap
    free = (xyz != 0).double()
    assert torch.autograd.gradcheck(lambda x: Filter(**mode)(x * free), xyz.requires_grad_())


def test_trembling_is_taken_away_and_an_attack_through_the_filter_is_not():
    clips = random_clips(6, frames=20)
    base = linear_victim(clips, distance=0.3)
    filtered = fb.create_defense("lowpass", keep=0.25).fit(base, clips)
    tremor = 0.02 * (-1.0) ** torch.arange(20).reshape(1, 1, 20, 1, 1)
    left = Filter(keep=0.25)(clips.xyz + tremor) - Filter(keep=0.25)(clips.xyz)
    assert float(left.square().mean().sqrt()) < 0.15 * 0.02

    # Known to the attacker, the filter costs no more than what of the way it takes: the border's distance through it.
    normal = base.module.plane.normal.detach()[None]
    through = Filter(keep=0.25)
    seen = torch.linalg.vector_norm(through(normal + 1) - through(torch.ones_like(normal)))
    margin = filtered.logits(clips.xyz)[:, 0] * torch.where(clips.labels == 0, 1, -1)
    right = margin > 0
    radius = 1.05 * float((margin[right] / seen).max())
    outcome = fb.create_attack("pgd", steps=20)(filtered, clips, threat=fb.threat.L2(radius))
    assert bool(right.any())
    assert torch.equal(outcome.success, right)


def test_the_frozen_base_of_a_corrected_network_is_met_behind_the_filter():
    clips = random_clips(3)
    base = tiny_victim(clips)
    adapted = Adapted(base, {"last.bias.by": torch.ones(2)}, defense="trades")
    ways = Filtered(adapted, Filter(keep=0.2), defense="lowpass").ways_in()
    assert list(ways) == ["base", "filtered base", "innermost base"]
    assert ways["base"] is adapted
    assert ways["innermost base"] is base
    assert torch.equal(ways["filtered base"].logits(clips.xyz), base.logits(Filter(keep=0.2)(clips.xyz)))
    assert not torch.allclose(ways["filtered base"].logits(clips.xyz), base.logits(clips.xyz), atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"keep": 0.0}, "lowpass: keep is 0.0"),
        ({"keep": 1.5}, "lowpass: keep is 1.5"),
        ({"keep": float("nan")}, "lowpass: keep is nan"),
        ({"sigma": 0.0}, "lowpass: sigma is 0.0"),
        ({"taps": 4}, "lowpass: taps is 4"),
        ({"mode": "high"}, "mode is 'high'"),
    ],
)
def test_settings_that_there_are_not(setting, says):
    with pytest.raises(DataError, match=says):
        fb.create_defense("lowpass", **setting)
