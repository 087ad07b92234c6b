"""Clips: what they refuse, what they keep, and how they are resampled."""

import dataclasses

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import funnybone as fb
from funnybone.testing import linear_victim, random_clips


@pytest.fixture
def untyped():
    """The type checks of the tests are off, as they are for users."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def changed(**fields):
    return dataclasses.replace(random_clips(3, frames=4), **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"xyz": torch.zeros(3, 4, 17, 3)}, r"\(N, M, T, V, C\)"),
        ({"xyz": torch.zeros(3, 1, 4, 16, 3)}, "16 joints"),
        ({"xyz": torch.zeros(3, 1, 4, 17, 3, dtype=torch.long)}, "float32"),
        ({"valid": torch.ones(3, 1, 5, dtype=torch.bool)}, "valid"),
        ({"valid": torch.zeros(3, 1, 4, dtype=torch.bool)}, "clip clip0 has no valid frame"),
        ({"labels": torch.tensor([0, 1, 2])}, "label 2"),
        ({"labels": torch.tensor([0, 1])}, "2 labels for 3 clips"),
        ({"ids": ("a", "b", "a")}, "twice"),
        ({"fps": torch.tensor([30.0, 0.0, 30.0])}, "frame rate"),
        ({"fps": torch.full((3, 1), 30.0)}, r"fps has shape \(3, 1\)"),
        ({"fps": torch.tensor(30.0)}, r"fps has shape \(\)"),
        ({"xyz": torch.zeros(3, 1, 4, 17, 1)}, "1 coordinates"),
        ({"xyz": torch.zeros(3, 1, 4, 17, 4)}, "4 coordinates"),
        ({"xyz": torch.full((3, 1, 4, 17, 3), 1e300, dtype=torch.float64)}, "not a finite number"),
        ({"xyz": torch.zeros(3, 1, 4, 17, 3).numpy()}, "xyz is a ndarray"),
        ({"up": "Y"}, "up is 'Y'; the axes are x, y, z"),
        ({"up": "z", "xyz": torch.zeros(3, 1, 4, 17, 2)}, "up is 'z'; the axes are x, y"),
        ({"unit": "inch"}, "unit is 'inch'; units are metre, pixel, normalised"),
        ({"classes": ("walk", "walk")}, "class 'walk' occurs twice"),
    ],
)
def test_what_clips_refuse(fields, said, untyped):
    with pytest.raises(fb.DataError, match=said):
        changed(**fields)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_found(value):
    xyz = random_clips(3, frames=4).xyz.clone()
    xyz[1, 0, 2, 5, 1] = value
    with pytest.raises(fb.DataError, match="clip clip1, person 0, frame 2, joint left_shoulder"):
        changed(xyz=xyz)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_all_clips_are_float32(dtype):
    clips = changed(
        xyz=random_clips(3, frames=4).xyz.to(dtype), fps=torch.full((3,), 30, dtype=dtype), labels=torch.zeros(3).int()
    )
    assert (clips.xyz.dtype, clips.fps.dtype, clips.labels.dtype) == (torch.float32, torch.float32, torch.int64)
    assert clips.with_xyz(clips.xyz.to(dtype)).xyz.dtype == torch.float32
    plane = linear_victim(clips)
    assert fb.create_attack("pgd", steps=2)(plane, clips, threat=fb.threat.Linf(0.01)).attacked.all()


def test_other_positions_are_checked(untyped):
    clips = random_clips(3, frames=4)
    for xyz, said in (
        (clips.xyz * torch.inf, "not a finite number"),
        (clips.xyz[:2], r"clips, persons and frames are \(3, 1, 4\)"),
        (clips.xyz[..., :1], "1 coordinates"),
        (clips.xyz[:, :, :, :5], "5 joints"),
        (clips.xyz.long(), "int64"),
    ):
        with pytest.raises(fb.DataError, match=said):
            clips.with_xyz(xyz)
    assert clips.with_xyz(clips.xyz[..., :2]).xyz.shape[-1] == 2


def test_values_with_commas():
    clips = changed(classes=("walk", "slow", "walk, slow"), labels=torch.arange(3))
    for split, labels in (
        ("class:walk, slow", [2]),
        ("class:slow,walk", [0, 1]),
        ("class:walk,walk, slow", [0, 2]),
        ("class: walk, slow , slow", [1, 2]),
        ("!class:walk, slow", [0, 1]),
    ):
        assert clips.select(split).labels.tolist() == labels, split
    with pytest.raises(fb.DataError, match="no clip has class slowly; there are"):
        clips.select("class:walk, slowly")
    with pytest.raises(fb.DataError, match="no clip has class"):
        clips.select("!class:")


def test_splits():
    clips = random_clips(6)
    assert clips.select("subject:s0,s1").groups["subject"] == ("s0", "s1", "s0", "s1")
    assert set(clips.select("!subject:s0,s1").groups["subject"]) == {"s2"}
    assert (clips.select("class:right").labels == 1).all()
    for wrong, said in (
        ("s0", "KEY:VALUE"),
        ("age:3", "KEY one of class, subject"),
        ("subject:s9", "no clip has subject s9"),
        ("!subject:s0,s1,s2", "is empty"),
    ):
        with pytest.raises(fb.DataError, match=said):
            clips.select(wrong)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(2, 40), frames=st.integers(2, 70), padding=st.integers(0, 5), fps=st.floats(10, 120))
def test_resampling_keeps_duration_and_velocity(length, frames, padding, fps):
    time = torch.arange(length) / fps
    speed = torch.tensor([1.0, -2.0, 0.5])
    line = time[:, None, None] * speed + torch.randn(17, 3, generator=torch.Generator().manual_seed(0))
    xyz = torch.cat([line, torch.zeros(padding, 17, 3)])[None, None]
    valid = (torch.arange(length + padding) < length)[None, None]
    clips = dataclasses.replace(
        random_clips(1), xyz=xyz, valid=valid, fps=torch.tensor([fps], dtype=torch.float32)
    ).resample(frames)
    assert clips.xyz.shape == (1, 1, frames, 17, 3)
    assert clips.valid.all()
    assert (frames - 1) / clips.fps[0].item() == pytest.approx((length - 1) / fps, rel=1e-5)
    velocity = torch.diff(clips.xyz, dim=2) * clips.fps
    assert torch.allclose(velocity, speed.expand_as(velocity), atol=2e-3)


def test_resampling_twice_changes_nothing():
    clips = random_clips(3, frames=9).resample(60)
    assert clips.resample(60) is clips


@pytest.mark.parametrize("frames", [8, 20])
def test_resampled_clips_are_zero_where_not_valid(frames):
    clips = random_clips(4, persons=2, absent=True)
    strayed = clips.with_xyz(clips.xyz + (~clips.valid[..., None, None]) * 3.9).resample(frames)
    assert torch.equal(strayed.xyz, clips.resample(frames).xyz)


def test_absent_persons_stay_absent():
    clips = random_clips(4, persons=2, absent=True).resample(20)
    assert not clips.valid[-1, 1].any()
    assert (clips.xyz[-1, 1] == 0).all()


def test_fingerprints_follow_content():
    clips = random_clips(3)
    first = clips.fingerprints()
    assert len(set(first)) == 3
    assert clips[1].fingerprints() == (first[1],)
    assert clips.with_xyz(clips.xyz + 1e-6).fingerprints()[0] != first[0]


def test_indexing():
    clips = random_clips(5)
    assert clips[clips.labels == 1].ids == ("clip1", "clip3")
    assert clips[[4, 0]].ids == ("clip4", "clip0")
    assert clips[-1].ids == ("clip4",)
    assert len(clips[:0]) == 0
    assert [clip.ids for clip in clips[3:]] == [("clip3",), ("clip4",)]
    part = clips[torch.tensor([4, 1])]
    assert torch.equal(part.xyz, clips.xyz[[4, 1]])
    assert part.groups["subject"] == ("s1", "s1")
    with pytest.raises(fb.DataError, match="clip clip2 is chosen twice"):
        clips[[2, 2]]
    part.xyz.zero_()
    assert (clips.xyz[4] != 0).any()
