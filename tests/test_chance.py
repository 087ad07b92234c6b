"""Random numbers that belong to a clip."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from funnybone.chance import Chance
from funnybone.testing import random_clips


def test_moments_and_independence():
    chance = Chance(torch.arange(400))
    first, second = chance.uniform(500), chance.uniform(500)
    assert 0 <= first.min() < 1e-4
    assert 1 - 1e-4 < first.max() < 1
    assert abs(first.mean() - 0.5) < 3e-3
    assert abs(first.var() - 1 / 12) < 1e-3
    normal = chance.normal(500)
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert abs(normal.pow(4).mean() - 3) < 0.1
    # Between neighbouring keys, neighbouring places and successive draws: correlations of 2e5 numbers are below 0.01.
    for one, other in ((first[1:], first[:-1]), (first[:, 1:], first[:, :-1]), (first, second)):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.01


def test_every_number_below_a_bound_is_drawn_equally_often():
    counts = torch.bincount(Chance(torch.arange(70_000)).below(7), minlength=7)
    assert (counts - 10_000).abs().max() < 500  # five standard deviations


@given(seed=st.integers(0, 2**31), kept=st.permutations(range(6)).map(lambda order: order[:4]))
def test_a_clip_is_given_the_same_in_any_company(seed, kept):
    clips, kept = random_clips(6), torch.tensor(kept)
    everyone = Chance.of(clips, torch.Generator().manual_seed(seed))
    part = Chance.of(clips[kept], torch.Generator().manual_seed(seed))
    assert torch.equal(everyone.uniform(3)[kept], part.uniform(3))
    assert torch.equal(everyone.normal(2)[kept], part.normal(2))
    assert torch.equal(everyone[kept].uniform(4), part.uniform(4))
    assert not torch.equal(everyone.uniform(3), everyone.uniform(3))
