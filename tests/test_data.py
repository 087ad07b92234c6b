"""Data: funnybone's npz layout, its errors, and real recordings."""

import contextlib
import dataclasses
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

import funnybone as fb
from funnybone.data import npz
from funnybone.data.npz import write
from funnybone.testing import random_clips


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "walks.npz"
    write(path, random_clips(6, persons=2, frames=9, absent=True))
    return path


def altered(path, **arrays):
    """The file with some arrays replaced, or removed where they are None."""
    with np.load(path) as file:
        whole = {**{key: file[key] for key in file.files}, **arrays}
    np.savez(path, **{key: value for key, value in whole.items() if value is not None})
    return path


def test_what_is_written_is_read(written):
    clips, back = random_clips(6, persons=2, frames=9, absent=True), fb.load_data(written, frames=None)
    assert torch.equal(back.valid, clips.valid)
    assert torch.equal(back.xyz, clips.xyz)
    for field in ("ids", "classes", "groups", "up", "unit", "synthetic"):
        assert getattr(back, field) == getattr(clips, field), field
    assert back.skeleton is fb.skeletons.COCO17
    assert torch.equal(back.labels, clips.labels)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"clips": None}, "no array 'clips'"),
        ({"parents": None}, "no array 'parents'"),
        ({"clips": np.zeros((40, 17), np.float32)}, r"'clips' is float32 of shape \(40, 17\)"),
        ({"clips": np.zeros((50, 2, 17, 3), np.int16)}, "'clips' is int16"),
        ({"lengths": np.array([9, 9], np.int32)}, "'lengths' sums to 18"),
        ({"lengths": np.array([9, 0, 9, 9, 9, 14], np.int32)}, "clip 1 is empty"),
        ({"labels": np.array([0, 1, 0, 1, 0, 7], np.int16)}, "label 7, there are 2 classes"),
        ({"labels": np.array([0, 1], np.int16)}, "2 labels for 6 clips"),
        ({"joint_names": np.array(["a", "b"])}, "names 2 joints, array 'clips' has 17"),
        ({"parents": np.array([1, 0, *[0] * 15], np.int16)}, "0 joints have parent -1"),
        ({"parents": np.array([-1, 2, 1, *[0] * 14], np.int16)}, "cycle"),
        ({"parents": np.array([-1, 99, *[0] * 15], np.int16)}, r"outside 0\.\.16"),
        ({"fps": np.array(0.0, np.float32)}, "frame rate"),
        ({"units": np.array("inch")}, "units is 'inch'"),
        ({"up_axis": np.array("up")}, "up_axis is 'up'"),
        ({"valid": np.ones(3, bool)}, "'valid'"),
        ({"valid": np.zeros((50, 2), bool)}, "no valid frame"),
        ({"fps": np.array([30.0, 30.0])}, "2 fps for 6 clips"),
        ({"fps": np.full((6, 1), 30.0)}, r"'fps' is float64 of shape \(6, 1\)"),
        ({"synthetic": np.array([True, False])}, r"'synthetic' is bool of shape \(2,\)"),
        ({"units": np.array(["metre"])}, "'units'"),
        ({"subject_names": np.array("s01")}, r"'subject_names' is <U3 of shape \(\)"),
        ({"file_names": np.array(["a", "b", "c", "a", "d", "e"])}, "'file_names': 'a' occurs twice"),
        ({"file_names": np.array(["a"])}, "1 names for 6 clips"),
        ({"classes": np.array(["left", "left"])}, "class 'left' occurs twice"),
        ({"clips": np.zeros((40, 0, 17, 3), np.float32)}, "'clips' is empty"),
        ({"notes": np.array([{"by": "me"}], object)}, "'notes' holds Python objects"),
    ],
)
def test_a_wrong_array_is_named(written, arrays, said):
    with np.load(written) as file:
        frames = len(file["clips"])
    if "valid" in arrays and len(arrays["valid"]) == 50:
        arrays = {"valid": np.zeros((frames, 2), bool)}
    if "lengths" in arrays and len(arrays["lengths"]) == 6:
        arrays = {"lengths": np.array([9, 0, 9, 9, 9, frames - 36], np.int32)}
    with pytest.raises(fb.DataError, match=said) as error:
        fb.load_data(altered(written, **arrays))
    assert str(written) in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_placed(written, value):
    with np.load(written) as file:
        frames = file["clips"].copy()
    frames[-1, 0, 3, 2] = value
    with pytest.raises(fb.DataError, match="clip clip5, person 0, frame 8, joint left_ear: not a finite number"):
        fb.load_data(altered(written, clips=frames))


def test_pickles_are_never_opened(tmp_path, written):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    path = tmp_path / "bomb.npz"
    with np.load(written) as file:
        np.savez(path, **{**{key: file[key] for key in file.files}, "labels": np.array([Bomb()], dtype=object)})
    with pytest.raises(fb.DataError, match="Python objects"):
        fb.load_data(path)


def test_damaged_files_are_named(tmp_path, written):
    whole = written.read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"hello",
        "zip": b"PK\x03\x04" + b"\0" * 60,
    }.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(fb.DataError, match=f"{name}.npz"):
            fb.load_data(path)


def test_no_damage_raises_anything_else(tmp_path, written):
    """Bytes changed or zeroed anywhere, in headers and in streams, packed and not."""
    with np.load(written) as file:
        np.savez(tmp_path / "plain.npz", **{key: file[key] for key in file.files})
    clean = fb.load_data(written, frames=None).xyz
    chance, path = np.random.default_rng(0), tmp_path / "damaged.npz"
    for whole in (written.read_bytes(), (tmp_path / "plain.npz").read_bytes()):
        for _ in range(150):
            damaged, at = bytearray(whole), chance.integers(len(whole) - 20)
            damaged[at : at + 20] = (
                bytes(20) if chance.random() < 0.5 else bytes(byte ^ 0xFF for byte in damaged[at : at + 20])
            )
            path.write_bytes(damaged)
            # Some bytes do not matter: dates, and what zip files say twice. Anything but DataError fails the test.
            with contextlib.suppress(fb.DataError):
                assert torch.equal(fb.load_data(path, frames=None).xyz, clean)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an npz file"),
        (b"\x80\x04K\x01.", "not an npz file"),
        (b"\x93NUMPY\x01\x00v\x00{", "one bare array"),
    ],
)
def test_what_is_no_archive_is_not_taken_for_a_pickle(tmp_path, content, said):
    path = tmp_path / "walk.npz"
    path.write_bytes(content)
    with pytest.raises(fb.DataError, match=said) as error:
        fb.load_data(path)
    assert "Python objects" not in str(error.value)


def test_archives_that_cannot_be_unpacked(written):
    """The flag for a password, and a compression that nobody knows, in each array's entry."""
    whole = written.read_bytes()
    for offset, value, said in ((8, 1, "password"), (10, 99, "compression")):
        odd, at = bytearray(whole), -1
        while (at := whole.find(b"PK\x01\x02", at + 1)) >= 0:
            odd[at + offset] = value
        written.write_bytes(odd)
        with pytest.raises(fb.DataError, match=said):
            fb.load_data(written)


def test_a_small_file_cannot_fill_the_memory(written, monkeypatch):
    """A hundred megabytes of zeros pack into a tenth of one: they are not unpacked unless needed."""
    with zipfile.ZipFile(written, "a", zipfile.ZIP_DEFLATED) as file, file.open("extra.npy", "w") as member:
        np.lib.format.write_array(member, np.zeros(100 * 2**20, np.uint8))
    assert written.stat().st_size < 2**18
    tracemalloc.start()
    assert len(fb.load_data(written)) == 6
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    monkeypatch.setattr(npz, "MOST_BYTES", 50 * 2**20)
    tracemalloc.reset_peak()
    with pytest.raises(fb.DataError, match="unpacked, the arrays take"):
        fb.load_data(written)
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


def test_lengths_are_checked_before_clips_are_padded_to_them(written):
    frames, n = 100_000, 50_000
    lengths = np.ones(n, np.int32)
    lengths[0] = frames - n + 1
    altered(written, clips=np.zeros((frames, 1, 17, 3), np.float32), lengths=lengths, valid=None)
    with pytest.raises(fb.DataError, match="padded to 50001 frames do not fit into memory"):
        fb.load_data(written)


@pytest.mark.parametrize("value", [3.9, np.nan])
@pytest.mark.parametrize("frames", [9, 20, None])
def test_positions_that_are_not_valid_are_zero(written, value, frames):
    with np.load(written) as file:
        positions, valid = file["clips"].copy(), np.ones(file["clips"].shape[:2], bool)
    valid[12:, 1] = False
    positions[~valid] = value
    clips = fb.load_data(altered(written, clips=positions, valid=valid), frames=frames)
    assert not clips.valid.all()
    assert (clips.xyz[~clips.valid] == 0).all()
    assert (clips.xyz[clips.valid] != 0).any()


def test_what_is_not_there_or_not_known(tmp_path):
    with pytest.raises(fb.DataError, match=r"neither a file nor a data set; data sets are .*synthetic"):
        fb.load_data("syntetic")
    (tmp_path / "walk.xyz").write_text("")
    with pytest.raises(fb.DataError, match="not a motion file; formats are npz"):
        fb.load_data(tmp_path / "walk.xyz")
    with pytest.raises(fb.DataError, match="not a motion file"):
        fb.load_data(tmp_path)


def test_millimetres_become_metres(written):
    before = fb.load_data(written).xyz
    assert torch.allclose(fb.load_data(altered(written, units=np.array("millimetre"))).xyz, before / 1000)


def test_zero_frames_are_absent_unless_said_otherwise(written):
    with np.load(written) as file:
        frames = file["clips"].copy()
    frames[3, 0] = 0
    clips = fb.load_data(altered(written, clips=frames, valid=None), frames=None)
    assert not clips.valid[0, 0, 3]
    assert clips.valid[1, 0].all()


def test_a_skeleton_of_ones_own(tmp_path):
    arm = fb.Skeleton("arm", ("shoulder", "elbowL", "elbowR"), (-1, 0, 0))
    clips = dataclasses.replace(random_clips(2), xyz=torch.randn(2, 1, 8, 3, 3), skeleton=arm)
    write(tmp_path / "arm.npz", clips)
    back = fb.load_data(tmp_path / "arm.npz")
    assert back.skeleton.same_layout(arm)
    assert back.skeleton.pairs == ((1, 2),)


def test_hdm05(shared):
    clips = fb.load_data(shared / "data/hdm05/hdm05_11.npz")
    assert clips.xyz.shape == (287, 1, 60, 31, 3)
    assert clips.skeleton is fb.skeletons.HDM05
    assert sorted(set(clips.groups["subject"])) == ["bd", "bk", "dg", "mm", "tr"]
    whole = fb.load_data(shared / "data/hdm05/hdm05_11.npz", frames=None)
    lengths = whole.valid.sum((1, 2))
    assert (int(lengths.min()), int(lengths.max()), int(lengths.sum())) == (56, 901, 70996)
    # Each clip keeps its duration and so gets its own frame rate.
    assert torch.allclose(59 / clips.fps, (lengths - 1) / 120, rtol=1e-4)
    # Recorded bones are rigid; resampled ones shorten by the chord of their arc, a little.
    rigid = clips.skeleton.bone_lengths(whole.xyz[:, 0])[whole.valid[:, 0]]
    assert rigid.min() > 0.01
    before = clips.skeleton.bone_lengths(whole.xyz[:, 0, :1])
    assert ((clips.skeleton.bone_lengths(clips.xyz[:, 0]) - before).abs() / before).mean() < 2e-3
    assert len(fb.load_data(shared / "data/hdm05/hdm05_11.npz", split="subject:mm,tr")) == 99


@pytest.mark.parametrize(
    ("file", "n", "skeleton"),
    [
        ("utd_mhad/utd_mhad.npz", 861, "UTD20"),
        ("nw_ucla/nw_ucla.npz", 1482, "KINECT20"),
        ("utkinect/utkinect.npz", 199, "KINECT20"),
        ("fixtures/csv_berkeley_mhad/berkeley_mhad_sample.npz", 4, "MHAD"),
    ],
)
def test_other_recordings_open(shared, file, n, skeleton):
    clips = fb.load_data(shared / "data" / file)
    assert (len(clips), clips.skeleton.name, clips.xyz.shape[2]) == (n, skeleton, 60)
    assert "subject" in clips.groups
