"""A weights file rebuilds its victim exactly, or says in one line what is wrong with it."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from funnybone import skeletons
from funnybone.errors import DataError
from funnybone.models import (
    Preprocess,
    WeightsRecord,
    create,
    list_packaged,
    load_weights,
    packaged,
    save_weights,
)
from funnybone.models.weights import AccuracyRecord, DataRecord, SkeletonRecord, load_defense_tensors
from funnybone.skeletons import COCO17, NTU25, Skeleton

RECORD = WeightsRecord(
    model="stgcn",
    options={"persons": 1, "frames": 16, "in_channels": 3, "width": 4},
    skeleton=SkeletonRecord.of(NTU25),
    classes=("walk", "run", "fall"),
    up="z",
    preprocess=Preprocess.of(NTU25, align="hips", up="z").to_dict(),
    data=DataRecord(name="made_up", split="!subject:a", n=12, synthetic=True, sha256="0" * 64),
    recipe={"epochs": 3},
    seed=5,
    accuracy=AccuracyRecord(value=0.5, ci95=(0.2, 0.8), n=12, split="subject:a"),
    licence="Apache-2.0",
)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return RECORD.build()


@pytest.fixture
def file(tmp_path, module):
    save_weights(tmp_path / "stgcn.made_up.safetensors", module, RECORD)
    return tmp_path / "stgcn.made_up.safetensors"


def rewritten(file, change_record=None, change_tensors=None):
    """The same file with a changed record or changed tensors, its hash left out."""
    record = json.loads(RECORD.model_dump_json())
    tensors = load_file(file)
    if change_record:
        change_record(record)
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, file, {"funnybone": json.dumps(record)})
    return file


def test_round_trip(file, module):
    again, record = load_weights(file)
    assert not again.training
    xyz = torch.randn(2, 1, 16, 25, 3)
    assert torch.equal(again(xyz), module(xyz))
    assert record.model_copy(update={"sha256": None}) == RECORD
    assert record.build_preprocess() == Preprocess.of(NTU25, align="hips", up="z")
    assert again.skeleton is NTU25
    assert list(file.parent.iterdir()) == [file]


def test_an_existing_file_is_replaced_whole(file, module):
    before = file.read_bytes()
    with torch.no_grad():
        module.fcn.bias.add_(1)
    save_weights(file, module, RECORD)
    assert file.read_bytes() != before
    assert torch.equal(load_weights(file)[0].fcn.bias, module.fcn.bias)


@pytest.mark.parametrize("skeleton", skeletons.ALL, ids=lambda skeleton: skeleton.name)
def test_skeletons_survive(skeleton):
    assert SkeletonRecord.model_validate_json(SkeletonRecord.of(skeleton).model_dump_json()).build() is skeleton


def test_a_skeleton_of_ones_own_survives():
    own = Skeleton("mine", ("hip", "knee", "foot"), (-1, 0, 1), centre=1)
    assert SkeletonRecord.model_validate_json(SkeletonRecord.of(own).model_dump_json()).build() == own
    moved = Skeleton("COCO17", COCO17.joints, COCO17.parents, centre=3, pairs=COCO17.pairs)
    assert SkeletonRecord.of(moved).build().centre == 3


def test_tensors_of_a_defense(tmp_path, module):
    extra = {"members.0": torch.arange(3.0)}
    with pytest.raises(DataError, match="record names none"):
        save_weights(tmp_path / "a.b.safetensors", module, RECORD, extra)
    hardened = RECORD.model_copy(update={"defense": {"name": "beat"}})
    save_weights(tmp_path / "a.b.safetensors", module, hardened, extra)
    assert load_weights(tmp_path / "a.b.safetensors")[1].defense == {"name": "beat"}
    assert torch.equal(load_defense_tensors(tmp_path / "a.b.safetensors")["members.0"], extra["members.0"])
    rewritten(tmp_path / "a.b.safetensors")
    with pytest.raises(DataError, match="field 'defense' is null"):
        load_weights(tmp_path / "a.b.safetensors")


def refused(file, *words):
    with pytest.raises(DataError) as caught:
        load_weights(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_no_file(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "no such file")


def test_not_safetensors_cut_or_a_pickle(file, tmp_path):
    whole = file.read_bytes()
    for content in (b"", b"hello", whole[:4], whole[:100], whole[:-100], whole + b"x", b"\xff" * 64):
        file.write_bytes(content)
        refused(file, "not a safetensors file")

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    file.write_bytes(pickle.dumps(Trap()))
    refused(file, "not a safetensors file")
    assert not (tmp_path / "sprung").exists()


def test_a_flipped_bit(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    refused(file, "sha256", "damaged")


def test_no_metadata(file):
    save_file(load_file(file), file)
    refused(file, "metadata entry 'funnybone'")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.pop("classes"), ["field classes", "required"]),
        (lambda record: record.update(format_version=2), ["field format_version"]),
        (lambda record: record.update(colour="red"), ["field colour"]),
        (lambda record: record["accuracy"].update(value=1.5), ["field accuracy.value"]),
        (lambda record: record.update(model="stgcm"), ["no model is named 'stgcm'", "did you mean 'stgcn'"]),
        (lambda record: record["options"].update(depth=3), ["no option depth"]),
        (lambda record: record["options"].update(width="wide"), ["width is 'wide'", "whole number"]),
        (lambda record: record["options"].update(skeleton="abc"), ["options: skeleton"]),
        (lambda record: record["options"].update(num_classes=3), ["options: num_classes"]),
        (lambda record: record["options"].update(frames=60.5), ["frames is 60.5", "whole number"]),
        (lambda record: record["options"].update(frames=True), ["frames is True", "whole number"]),
        (lambda record: record["options"].update(persons="2"), ["persons is '2'", "whole number"]),
        (lambda record: record["options"].update(dropout="x"), ["dropout is 'x'", "finite number"]),
        (lambda record: record["options"].update(max_hop=10**9), ["max_hop is 1000000000", "0 to 25"]),
        (lambda record: record["options"].update(width=2**40), []),
        (
            lambda record: record["options"].update(width=700),
            ["it describes a network of more than 6", "holds 133 KiB"],
        ),
        (lambda record: record["preprocess"].update(spine=[99, 0]), ["preprocess: spine", "joint 99", "0 to 24"]),
        (lambda record: record["preprocess"].update(pad="replay", pad_to=10**9), ["pad_to is 1000000000", "10000"]),
        (lambda record: record["preprocess"].update(sample_to=True), ["sample_to is True"]),
        (lambda record: record["preprocess"].update(mean=[[0, 0, 0]]), ["mean has 1 joints", "NTU25 has 25"]),
        (lambda record: record["preprocess"].update(mean=[["x"]]), ["preprocess: mean"]),
        (lambda record: record["preprocess"].update(std=0), ["preprocess: std is 0"]),
        (lambda record: record["preprocess"].update(order="tallest"), ["preprocess", "'tallest'"]),
        (lambda record: record["preprocess"].update(hips=[99, 100]), ["preprocess: hips", "joint 99", "0 to 24"]),
        (lambda record: record["preprocess"].update(hips=[1, 2, 3]), ["preprocess: hips", "two joints"]),
        (lambda record: record["preprocess"].update(hips=5), ["preprocess"]),
        (lambda record: record["preprocess"].update(joint=99), ["preprocess: joint", "joint 99", "0 to 24"]),
        (lambda record: record["preprocess"].update(joint=-1), ["preprocess: joint is -1"]),
        (lambda record: record["preprocess"].update(joint=1.5), ["preprocess: joint is 1.5"]),
        (lambda record: record["skeleton"].update(centre=99), ["skeleton", "centre"]),
        (lambda record: record["preprocess"].update(centre="left"), ["preprocess", "left"]),
        (lambda record: record["preprocess"].update(shift=1), ["preprocess"]),
        (lambda record: record["classes"].append("sit"), ["fcn", "shape (3, 16, 1, 1)", "(4, 16, 1, 1)"]),
        (lambda record: record["options"].update(width=8), ["shape"]),
    ],
)
def test_a_wrong_record(file, change, words):
    refused(rewritten(file, change), *words)


def test_a_record_of_the_first_version_of_the_preprocessing(file, module):
    """Files that were written before there were published recipes load as they did, and are written as they were."""
    old = {"centre": "first_frame", "align": "hips", "joint": 20, "hips": [12, 16], "up": "y"}
    rewritten(file, lambda record: record.update(preprocess=old))
    _, record = load_weights(file)
    assert record.build_preprocess() == Preprocess.of(NTU25, centre="first_frame", align="hips")
    assert record.build_preprocess().to_dict() == old
    rewritten(file, lambda record: record.pop("preprocess"))
    assert load_weights(file)[1].build_preprocess() == Preprocess()


def test_a_record_that_is_not_json(file):
    save_file(load_file(file), file, {"funnybone": "{"})
    refused(file, "record")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("fcn.bias"), ["'fcn.bias' is missing"]),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), ["no tensor 'extra'"]),
        (lambda tensors: tensors.update({"fcn.bias": torch.zeros(4)}), ["'fcn.bias'", "shape (4,)"]),
        (lambda tensors: tensors["fcn.bias"].fill_(float("nan")), ["'fcn.bias'", "NaN"]),
        (lambda tensors: tensors.update({"fcn.bias": torch.zeros(3, dtype=torch.int64)}), ["int64"]),
        (lambda tensors: tensors.update({"fcn.bias": torch.zeros(3, dtype=torch.bool)}), ["bool", "float32"]),
        (lambda tensors: tensors.update({"fcn.bias": torch.zeros(3, dtype=torch.complex64)}), ["complex64"]),
        (lambda tensors: tensors.update({"fcn.bias": torch.zeros(3).to(torch.float8_e4m3fn)}), ["float8"]),
        (lambda tensors: tensors.update({"data_bn.num_batches_tracked": torch.tensor(True)}), ["bool", "int64"]),
    ],
)
def test_wrong_tensors(file, change, words):
    refused(rewritten(file, change_tensors=change), *words)


def test_a_place_that_cannot_be_written(tmp_path, module):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        save_weights(tmp_path / "taken" / "a.b.safetensors", module, RECORD)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_not_written(tmp_path, module, value):
    with torch.no_grad():
        module.fcn.bias[1] = value
    with pytest.raises(DataError, match=r"a\.b\.safetensors: not written: tensor 'fcn\.bias'.*--lr"):
        save_weights(tmp_path / "a.b.safetensors", module, RECORD)
    with torch.no_grad():
        module.fcn.bias[1] = 0
    hardened = RECORD.model_copy(update={"defense": {"name": "beat"}})
    with pytest.raises(DataError, match=r"not written: tensor 'defense\.members'"):
        save_weights(tmp_path / "a.b.safetensors", module, hardened, {"members": torch.tensor([value])})
    assert not list(tmp_path.iterdir())


def test_packaged_weights():
    for name in list_packaged():
        module, record = load_weights(packaged(name))
        assert name.split(".")[0] == record.model
        assert name.split(".")[1] == record.data.name
        assert record.licence != "unknown"
        assert record.accuracy is not None
        xyz = torch.randn(1, record.options["persons"], record.options["frames"], len(record.skeleton.joints), 3)
        assert module(record.build_preprocess()(xyz)).shape == (1, len(record.classes))
    with pytest.raises(DataError, match="no packaged weights"):
        packaged("stgcn.moon")


# Preprocess


def clip(persons=2, frames=6):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, persons, frames, 25, 3, generator=generator, dtype=torch.float64) + 4


def test_centring_takes_the_first_present_frame_of_the_first_present_person():
    xyz = clip()
    xyz[0, 0, :2] = 0  # comes in late
    xyz[1, 0] = 0  # only the second person is there
    xyz[2, :, 4:] = 0  # padding at the end
    origins = (xyz[0, 0, 2, 20], xyz[1, 1, 0, 20], xyz[2, 0, 0, 20])
    out = Preprocess.of(NTU25, centre="first_frame")(xyz)
    for i, origin in enumerate(origins):
        present = (xyz[i] != 0).flatten(2).any(2)
        torch.testing.assert_close(out[i][present], xyz[i][present] - origin)
        assert (out[i][~present] == 0).all()


def test_centring_on_the_clip_leaves_no_single_joint_to_pull_at():
    xyz = clip(persons=1)
    pulled = xyz.clone()
    pulled[:, 0, 0, 20] += 0.2
    for centre, shift in (("first_frame", 0.2), ("clip", 0.2 / (6 * 25))):
        preprocess = Preprocess.of(NTU25, centre=centre)
        assert (preprocess(pulled) - preprocess(xyz))[:, 0, 3].abs().max().item() == pytest.approx(shift, rel=1e-6)
    absent = torch.cat([xyz, torch.zeros_like(xyz)], 1)  # an absent person does not move the mean
    torch.testing.assert_close(Preprocess.of(NTU25)(absent)[:, :1], Preprocess.of(NTU25)(xyz))


def test_centring_takes_the_mean_of_who_and_when_is_present():
    xyz = clip()
    xyz[0, 0, :2] = 0
    xyz[1, 0] = 0
    xyz[2, :, 4:] = 0
    out = Preprocess.of(NTU25)(xyz)
    for i in range(3):
        present = (xyz[i] != 0).flatten(2).any(2)
        torch.testing.assert_close(out[i][present], xyz[i][present] - xyz[i][present].mean((0, 1)))
        assert (out[i][~present] == 0).all()


def test_no_joint_of_one_frame_moves_the_whole_clip():
    xyz, moved = clip(), clip()
    moved[:, 0, 0, NTU25.root, 0] += 0.2
    present = xyz[0, :, :, :, 0].numel()
    shift = (Preprocess.of(NTU25)(moved) - Preprocess.of(NTU25)(xyz))[:, 0, 1:].abs().max()
    assert shift.item() == pytest.approx(0.2 / present)


def test_where_the_clip_stands_and_faces_does_not_matter():
    preprocess = Preprocess.of(NTU25, align="hips", up="y")
    xyz, angle = clip(), torch.tensor(2.0, dtype=torch.float64)
    x, y, z = xyz.unbind(-1)
    turned = torch.stack([angle.cos() * x + angle.sin() * z, y, angle.cos() * z - angle.sin() * x], -1)
    out = preprocess(turned + torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(out, preprocess(xyz))
    assert out.mean((1, 2, 3)).abs().max() < 1e-12
    left, right = preprocess.hips
    line = out[:, 0, 0, left] - out[:, 0, 0, right]
    assert line[:, 0].min() > 0
    assert line[:, 2].abs().max() < 1e-12
    torch.testing.assert_close(NTU25.bone_lengths(out), NTU25.bone_lengths(xyz))


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_alignment_keeps_the_vertical(up):
    preprocess, axis = Preprocess.of(NTU25, centre="none", align="hips", up=up), "xyz".index(up)
    torch.testing.assert_close(preprocess(clip())[..., axis], clip()[..., axis])


def test_preprocessing_has_the_right_gradient():
    preprocess = Preprocess.of(NTU25, align="hips")
    xyz = clip(frames=3)[:1].clone()
    xyz[:, 1] = 0
    present = xyz[:, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda part: preprocess(torch.cat([part, xyz[:, 1:]], 1)), present)


def test_clips_without_persons_or_hips_stay_finite():
    preprocess = Preprocess.of(NTU25, align="hips")
    xyz = clip()
    xyz[0] = 0
    xyz[1, :, :, 12] = xyz[1, :, :, 16]
    xyz.requires_grad_()
    preprocess(xyz).square().sum().backward()
    assert torch.isfinite(xyz.grad).all()
    assert (preprocess(xyz)[0] == 0).all()


def test_preprocess_as_json_and_its_errors():
    for preprocess in (Preprocess(), Preprocess.of(NTU25, align="hips", up="z")):
        assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    xyz = clip()
    assert Preprocess(centre="none")(xyz) is xyz
    for fields in ({"centre": "mid"}, {"align": "knees"}, {"up": "w"}, {"align": "hips"}, {"colour": 1}):
        with pytest.raises(DataError, match="preprocess"):
            Preprocess.from_dict(fields)
    with pytest.raises(DataError, match="three coordinates"):
        Preprocess.of(COCO17, align="hips")(torch.randn(1, 1, 4, 17, 2))
    with pytest.raises(DataError, match="hips"):
        Preprocess.of(Skeleton("arm", ("shoulder", "elbow"), (-1, 0)), align="hips")


def test_hips_of_every_skeleton_lie_apart():
    for skeleton in skeletons.ALL:
        left, right = Preprocess.of(skeleton, align="hips").hips
        assert skeleton.joints[left].lower().replace("left", "l") != skeleton.joints[right]
    assert create("stgcn", width=4).persons == 2
