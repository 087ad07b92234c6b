"""Published preprocessing: step by step what its code does to one clip at a time, for many at once, with gradients.

Each ``alone`` below does to one clip what the published recipe says, frame by frame and person by person, in NumPy.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import funnybone as fb
from funnybone.errors import DataError
from funnybone.models import PREPROCESSINGS, Preprocess, create, import_checkpoint
from funnybone.models.published import published
from funnybone.models.steps import in_order, padded, present_of, sampled, to_the_front, turn_onto
from funnybone.skeletons import COCO17, HDM05_25, NTU25, Skeleton
from funnybone.testing import check_victim, random_clips
from test_readme import ROOT, blocks

STANDARDISATION = ROOT.parent / "shared" / "data" / "fixtures" / "smart_reference" / "preprocess_core.npz"


def clips(frames=40, persons=2):
    """Clips in which somebody comes late, leaves, is away for a while, is alone in the second place, or never comes."""
    generator = torch.Generator().manual_seed(3)
    xyz = torch.randn(7, persons, frames, 25, 3, generator=generator, dtype=torch.float64).cumsum(2) * 0.05
    xyz = xyz + torch.randn(7, 1, 1, 25, 3, generator=generator, dtype=torch.float64) + torch.tensor([1.0, 2.0, 3.0])
    xyz[1, :, 30:] = 0  # padding
    if persons > 1:
        xyz[2, 1] = xyz[3, 0] = 0
    xyz[4, 0, :5] = 0
    xyz[4, -1, :9] = 0
    xyz[5, -1, 10:14] = 0
    xyz[5, :, 35:] = 0
    xyz[6, :, 3:] = 0  # three frames
    return xyz


def one_by_one(alone, xyz):
    return torch.from_numpy(np.stack([alone(clip.numpy().copy()) for clip in xyz]))


def rotation(line, target):
    """Rodrigues' formula; none for lines that are parallel."""
    axis = np.cross(line, target)
    if np.abs(axis).sum() < 1e-6:
        return np.eye(3)
    angle = np.arccos(np.clip(line @ target / np.linalg.norm(line), -1, 1))
    x, y, z = axis / np.linalg.norm(axis)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def turned(clip):
    for start, end, target in ((0, 1, [0, 0, 1]), (4, 8, [1, 0, 0])):
        clip = clip @ rotation(clip[0, 0, end] - clip[0, 0, start], np.array(target, float)).T
    return clip


def by(clip, amount):
    return clip[np.argsort([-amount(person[person.any((1, 2))]) for person in clip], kind="stable")]


def deviation(frames):
    return frames.std((0, 1)).sum() if len(frames) else 0


def variance(frames):
    return frames.reshape(-1, 3).var(0).sum() if len(frames) else 0


def agcn(clip):
    clip = by(clip, deviation)
    long = np.zeros((len(clip), 300, 25, 3))
    for person, out in zip(clip, long, strict=True):
        if not person[0].any():
            kept = person[person.any((1, 2))]
            person = np.concatenate([kept, np.zeros((len(person) - len(kept), 25, 3))])
        if person.any():
            end = np.flatnonzero(person.any((1, 2)))[-1] + 1
            out[:] = np.concatenate([person[:end]] * 300)[:300]
    there = long.any((2, 3))
    long = long - long[:1, :, 1:2]
    long[~there] = 0
    return turned(long)


def sgn(clip):
    clip = by(clip, variance)
    kept = clip[:, clip.any((0, 2, 3))]
    first = next(person for person in kept if person.any())
    origin = first[first.any((1, 2))][0, 1]
    there = kept.any((2, 3))
    kept = kept - origin
    kept[~there] = 0
    return np.concatenate([kept, np.zeros((len(clip), clip.shape[1] - kept.shape[1], 25, 3))], 1)


def ctrgcn(clip):
    prepared = sgn(clip)
    count = int(prepared.any((0, 2, 3)).sum())
    margin = int((1 - 0.95) * count / 2)
    cut = torch.from_numpy(prepared[:, margin : count - margin])
    rows = cut.permute(0, 2, 3, 1).reshape(1, 1, -1, cut.shape[1])
    resized = F.interpolate(rows, size=(rows.shape[2], 64), mode="bilinear", align_corners=False)
    return resized.reshape(len(cut), 25, 3, 64).permute(0, 3, 1, 2).numpy()


def pyskl(clip):
    clip = by(clip, len)
    clip = clip[:, clip[0].any((1, 2))]
    there = clip.any((2, 3))
    clip = clip - clip[0, 0, 1]
    clip[~there] = 0
    clip, count = turned(clip), clip.shape[1]
    picked = np.arange(100) % count if count < 100 else (2 * np.arange(100) + 1) * count // 200
    return clip[:, picked]


def hdm05(clip):
    path = PREPROCESSINGS["hdm05"].fields
    there = clip.any((2, 3))
    clip = (clip - clip[:1, :, 10:11] - np.array(path["mean"])) / path["std"]
    clip[~there] = 0
    return clip


ALONE = {
    "none": lambda clip: clip,
    "st-gcn": lambda clip: np.concatenate([clip, np.zeros((len(clip), 300 - clip.shape[1], 25, 3))], 1),
    "2s-agcn": agcn,
    "as-gcn": lambda clip: agcn(clip)[:, :290],
    "sgn": sgn,
    "ctr-gcn": ctrgcn,
    "pyskl": pyskl,
    "hdm05": hdm05,
}


def skeleton_of(name):
    return PREPROCESSINGS[name].skeleton or NTU25


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("frames", [40, 130])
def test_many_clips_at_once_as_one_by_one(name, frames):
    xyz = clips(frames)
    torch.testing.assert_close(published(name, skeleton_of(name))(xyz), one_by_one(ALONE[name], xyz))


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_what_every_recipe_keeps_to(name):
    preprocess, xyz = published(name, skeleton_of(name)), clips()
    preprocess.check(skeleton_of(name))
    out = preprocess(xyz)
    assert torch.equal(xyz, clips()), "the clips were changed in place"
    for index in range(len(xyz)):
        torch.testing.assert_close(preprocess(xyz[index : index + 1])[0], out[index])
    assert (present_of(out).any(2).sum(1) == present_of(xyz).any(2).sum(1)).all(), "an absent person appeared"
    empty = torch.zeros(1, 2, 9, 25, 3, requires_grad=True)
    preprocess(empty).sum().backward()
    assert (preprocess(empty) == 0).all()
    assert torch.isfinite(empty.grad).all()
    assert preprocess(xyz[:0]).shape[0] == 0
    assert preprocess(xyz.float()).dtype == torch.float32
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    assert preprocess.sets_length == (out.shape[2] in (64, 100, 290, 300))


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_gradients(name):
    preprocess = published(name, skeleton_of(name))
    xyz = clips(frames=4)[[0, 2, 4]].clone()  # the last of them has nobody
    there = present_of(xyz)
    weights = torch.randn(preprocess(xyz).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moving = xyz[there].requires_grad_()

    def answer(poses):
        return (preprocess(torch.zeros_like(xyz).masked_scatter(there[..., None, None], poses)) * weights).sum()

    assert torch.autograd.gradcheck(answer, moving, fast_mode=True)


def test_the_first_frame_stands_upright_and_faces_one_way():
    for name in ("2s-agcn", "pyskl"):
        out = published(name, NTU25)(clips())[[0, 1, 2, 3, 4, 5]]
        assert out[:, 0, 0, 1].abs().max() < 1e-12, "the middle of the spine is at the origin"
        across = out[:, 0, 0, 8] - out[:, 0, 0, 4]
        assert across[:, 1:].abs().max() < 1e-12
        assert across[:, 0].min() > 0


@pytest.mark.parametrize("name", ["2s-agcn", "as-gcn", "sgn", "ctr-gcn", "pyskl", "hdm05"])
def test_where_a_clip_stands_makes_no_difference(name):
    xyz = clips()[[0, 1, 2, 6]]  # in which the first person is always there
    moved = torch.where(present_of(xyz)[..., None, None], xyz + torch.tensor([4.0, -2.0, 1.0]), 0)
    preprocess = published(name, skeleton_of(name))
    torch.testing.assert_close(preprocess(moved), preprocess(xyz))


@pytest.mark.parametrize("name", ["2s-agcn", "sgn", "pyskl"])
def test_bones_keep_their_lengths(name):
    out = published(name, NTU25)(clips(frames=100, persons=1)[:1])
    torch.testing.assert_close(NTU25.bone_lengths(out[:, :, :100]), NTU25.bone_lengths(clips(100, 1)[:1]))


def test_turns_at_their_limits():
    one = torch.eye(3, dtype=torch.float64)
    lines = torch.stack([one[2], -one[2], 0 * one[2], 1e-9 * one[0], 5 * one[0], -one[2] + 1e-5 * one[0]])
    turns = turn_onto(lines, 2)
    torch.testing.assert_close(turns[:4], one.expand(4, 3, 3))  # there already, no smallest turn, no direction
    torch.testing.assert_close((turns @ lines[..., None])[4:, :, 0], lines[4:].norm(dim=1, keepdim=True) * one[2])
    torch.testing.assert_close(turns @ turns.transpose(1, 2), one.expand(6, 3, 3))
    # In single precision too, for a line that points nearly the other way.
    nearly = torch.tensor([[1e-4, 2e-4, -1.0]])
    torch.testing.assert_close((turn_onto(nearly, 2) @ nearly[..., None])[..., 0], torch.tensor([[0.0, 0.0, 1.0]]))
    lines.requires_grad_()
    turn_onto(lines, 2).sum().backward()
    assert torch.isfinite(lines.grad).all()


def test_the_steps_by_themselves():
    xyz = clips()
    assert torch.equal(in_order(xyz[:, :1], "variance"), xyz[:, :1])
    assert torch.equal(in_order(xyz, "frames")[3, 0], xyz[3, 1]), "who is never there comes last"
    assert torch.equal(to_the_front(xyz, "each")[5, 1, 10:14], xyz[5, 1, 10:14]), "a gap stays a gap"
    assert torch.equal(to_the_front(xyz, "anyone")[4, :, :35], xyz[4, :, 5:])
    assert torch.equal(padded(xyz, 10, "replay")[0], xyz[0, :, :10]), "longer clips are cut"
    assert torch.equal(padded(xyz, 300, "replay")[1, :, 30:60], xyz[1, :, :30])
    assert torch.equal(sampled(xyz, 20, "segments")[0], xyz[0, :, 1::2])
    one = sampled(xyz[6:, :, :1], 5, "resize")
    assert torch.equal(one, xyz[6:, :, :1].expand_as(one))


def test_a_recipe_is_of_its_joints():
    with pytest.raises(
        DataError, match=r"'ctr-gcn' is stated for the joints of NTU25, not for COCO17; .*none, clip, st"
    ):
        Preprocess.named("ctr-gcn", COCO17)
    with pytest.raises(DataError, match=r"no preprocessing is named 'ctrgcn'; did you mean 'ctr-gcn'\? Known: none, "):
        Preprocess.named("ctrgcn", NTU25)
    other_tree = Skeleton("other", NTU25.joints, (-1, *range(24)))
    assert Preprocess.named("sgn", other_tree) == Preprocess.named("sgn", NTU25)
    assert Preprocess.named("clip", COCO17) == Preprocess.of(COCO17)


def test_fields_that_make_no_preprocessing():
    for fields, message in [
        ({"align": "spine"}, "needs two lines"),
        ({"align": "spine", "spine": (0, 1)}, "needs two lines"),
        ({"pad": "mirror"}, "'mirror'"),  # where types are checked, as here, in other words
        ({"sample": "all"}, "'all'"),
        ({"trim": "both"}, "'both'"),
        ({"order": "tallest"}, "'tallest'"),
        ({"pad_to": 0}, "pad_to is 0; give 1 to 10000 frames"),
        ({"sample_to": 2.5}, "2.5"),
        ({"std": float("nan")}, "std is nan"),
        ({"std": -1.0}, "std is -1.0"),
        ({"shoulders": [1]}, "shoulders are"),
        ({"mean": [[0.0, float("inf")]]}, "mean is"),
        ({"mean": 3}, "mean is 3"),
    ]:
        with pytest.raises(DataError, match=f"preprocess: .*{message}"):
            Preprocess.from_dict(fields)
    with pytest.raises(DataError, match="different coordinates"):
        Preprocess(mean=((0.0, 0.0, 0.0), (0.0,))).check(Skeleton("two", ("a", "b"), (-1, 0)))
    with pytest.raises(DataError, match=r"mean is of \(25, 2\), the clips of \(25, 3\)"):
        Preprocess(mean=((0.0, 0.0),) * 25)(torch.ones(1, 1, 2, 25, 3))


def test_the_mean_pose_of_hdm05_is_that_of_the_published_file():
    if not STANDARDISATION.exists():
        pytest.skip(f"the published standardisation is not here: {STANDARDISATION}")
    file = np.load(STANDARDISATION, allow_pickle=False)
    preprocess, unit = published("hdm05", HDM05_25), 0.0254 / 0.45
    assert np.abs(np.array(preprocess.mean) / unit - file["Xmean"].reshape(25, 3)).max() < 0.0051
    assert preprocess.std / unit == pytest.approx(float(file["Xstd"].flat[0]), rel=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "name"),
    [
        ("stgcn", {"width": 4}, "st-gcn"),
        pytest.param("agcn", {"width": 8}, "2s-agcn", marks=pytest.mark.slow),
        pytest.param("asgcn", {"width": 4}, "as-gcn", marks=pytest.mark.slow),
        ("sgn", {"width": 16}, "sgn"),
        pytest.param("ctrgcn", {"width": 8}, "ctr-gcn", marks=pytest.mark.slow),
        pytest.param("stgcnpp", {"width": 12}, "pyskl", marks=pytest.mark.slow),
        ("stgcn", {"width": 4, "skeleton": HDM05_25}, "hdm05"),
    ],
)
def test_a_victim_with_published_preprocessing_passes_its_exam(model, options, name, tmp_path):
    torch.manual_seed(0)
    skeleton = options.get("skeleton", NTU25)
    torch.save(create(model, num_classes=2, **options).state_dict(), tmp_path / "w.pt")
    out = tmp_path / "w.safetensors"
    import_checkpoint(tmp_path / "w.pt", out=out, skeleton=skeleton, preprocess=name, classes=("left", "right"))
    victim = fb.create_victim(out)
    assert victim.frames == PREPROCESSINGS[name].frames
    check_victim(victim, random_clips(4, persons=2, frames=44, skeleton=skeleton, absent=True))


@pytest.mark.parametrize("document", ["README.md", "docs/models.md"])
def test_the_preprocessing_that_the_documents_show_is_right(document):
    """Whatever else is in a batch, an answer is that of the clip."""
    (block,) = [block for block in blocks(Path(ROOT / document), "python") if "preprocess=" in block]
    made: dict = {}
    exec(block.split("\nprint(")[0], made)
    victim = made["victim"]
    shown = random_clips(4, persons=2, frames=60, skeleton=victim.skeleton)
    check_victim(victim, dataclasses.replace(shown, classes=victim.classes))
