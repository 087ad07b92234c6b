"""Shared fixtures. Real recordings and golden numbers live beside the project, not in it."""

from pathlib import Path

import pytest
import torch

import funnybone as fb
from funnybone.testing import linear_victim, random_clips

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("real recordings and golden numbers are not here: no folder ../shared")
    return SHARED


@pytest.fixture
def clips():
    return random_clips(6, persons=2, absent=True)


@pytest.fixture
def victim(clips):
    return linear_victim(clips, distance=0.05)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def synthetic():
    return fb.load_data("synthetic", split="test")


@pytest.fixture(scope="session")
def stgcn():
    return fb.create_victim("stgcn", data="synthetic")
