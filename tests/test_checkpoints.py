"""Authors' checkpoints are recognised by their keys, loaded exactly, made into victims, and refused with the reason."""

import copy
import json
import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import funnybone as fb
from funnybone.cli import main
from funnybone.errors import DataError
from funnybone.models import create, import_checkpoint, load_checkpoint, load_weights, names
from funnybone.skeletons import COCO17, HDM05_25, NTU25, OPENPOSE18
from funnybone.testing import check_victim, random_clips
from narrow_models import NARROW as ALL_NARROW

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"
FILES = {
    "stgcn": ["st_gcn"],
    "agcn": ["agcn"],
    "asgcn": ["as_gcn_fullwidth_f16", "as_gcn_aim"],
    "dgnn": ["dgnn_fullwidth_f16"],
    "msg3d": ["ms_g3d"],
    "ctrgcn": ["ctr_gcn"],
    "sgn": ["sgn"],
}

# What constructors took is what their checkpoints must give back. FR-Head's keys are CTR-GCN's, HRNN has no authors'
# code, and community checkpoints of DGNN have bones in the order of joints.
NARROW = {name: options for name, options in ALL_NARROW.items() if name not in ("frhead", "hrnn")}
NARROW |= {"sgn": {"width": 16}, "dgnn": {"width": 4, "bones": "joint"}}


@pytest.mark.parametrize("family", FILES)
def test_the_authors_tensors_are_recognised_and_loaded(family, tmp_path):
    files = [GOLDEN / f"{name}.safetensors" for name in FILES[family]]
    if not all(file.exists() for file in files):
        pytest.skip(f"the authors' numbers are not here: {GOLDEN}")
    state = {}
    for file in files:
        found = load_file(file)
        own = {f"module.{key[3:]}": value for key, value in found.items() if key.startswith("sd/")}
        state |= {key: value.float() if value.is_floating_point() else value for key, value in own.items()}
    torch.save({"epoch": 7, "state_dict": state}, tmp_path / "epoch7.pt")
    network = load_checkpoint(tmp_path / "epoch7.pt")
    assert type(network) is type(create(family))
    assert not network.training
    assert network.num_classes == 60
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[f"module.{key}"].to(value.dtype)), key


@pytest.mark.parametrize("family", NARROW)
@pytest.mark.parametrize(
    ("skeleton", "persons", "channels"),
    [(NTU25, 2, 3), (COCO17, 1, 3), (OPENPOSE18, 2, 2)],
    ids=lambda value: getattr(value, "name", value),
)
def test_sizes_are_read_off_the_shapes(family, skeleton, persons, channels, tmp_path):
    sizes = {"skeleton": skeleton, "num_classes": 7, "persons": persons, "in_channels": channels}
    network = create(family, **sizes, **NARROW[family]).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    again = load_checkpoint(tmp_path / "w.pth", skeleton=skeleton, persons=persons)
    assert type(again) is type(network)
    xyz = torch.randn(2, persons, 32, len(skeleton.joints), channels)
    torch.testing.assert_close(again(xyz), network(xyz))


def test_heads_that_only_training_needs_are_left_out(tmp_path):
    state = create("ctrgcn", width=8).state_dict()
    torch.save({**state, "ren_low.weight": torch.zeros(3), "ren_fin.bias": torch.zeros(1)}, tmp_path / "w.pt")
    assert type(load_checkpoint(tmp_path / "w.pt")) is type(create("frhead", width=8))


def test_every_family_with_published_code_is_recognised():
    ours = {"hrnn"}  # no authors' code
    heads = {"frhead"}  # CTR-GCN's keys and some of its own, above
    assert set(names()) - ours - heads <= set(NARROW)


@pytest.fixture
def state():
    return create("stgcn", num_classes=5, width=4).state_dict()


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"net": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        lambda state: {f"module.model.{key}": value for key, value in state.items()},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
    ],
    ids=["bare", "net", "nested", "twice", "before counts"],
)
def test_wrappings(state, wrapped, tmp_path):
    torch.save(wrapped(state), tmp_path / "w.pt")
    again = load_checkpoint(tmp_path / "w.pt").state_dict()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_safetensors_too(state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    assert load_checkpoint(tmp_path / "w.safetensors").num_classes == 5


def bare(state):
    return OrderedDict(state)


def of_several_devices(state):
    return OrderedDict((f"module.{key}", value) for key, value in state.items())


def of_sgn(state):
    adam = {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3)}}
    groups = [{"lr": 0.001, "betas": (0.9, 0.999), "params": [0]}]
    best = torch.tensor([88.9])
    optimizer = {"state": adam, "param_groups": groups}
    return {"epoch": 105, "state_dict": state, "best": best, "monitor": "val_acc", "optimizer": optimizer}


def of_openmmlab(state):
    meta = {"epoch": 16, "iter": 20_000, "mmcv_version": "1.5.0", "time": "now", "hook_msgs": {}, "seed": torch.ones(1)}
    return {"meta": meta, "state_dict": OrderedDict(state), "optimizer": {"state": {0: {"momentum": torch.zeros(2)}}}}


# How the released code of each saves; ST-GCN's lineage writes the state dict and nothing else.
AUTHORS = {
    "stgcn": bare,
    "agcn": bare,
    "dgnn": bare,
    "msg3d": bare,
    "ctrgcn": of_several_devices,
    "skateformer": bare,
    "sgn": of_sgn,
    "stgcnpp": of_openmmlab,
}


@pytest.mark.parametrize("family", AUTHORS)
def test_how_each_familys_code_saves(family, tmp_path):
    network = create(family, num_classes=5, **NARROW[family])
    torch.save(AUTHORS[family](network.state_dict()), tmp_path / "w.pth")
    again = load_checkpoint(tmp_path / "w.pth")
    assert type(again) is type(network)
    state = network.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


@pytest.fixture
def two_files(tmp_path):
    """AS-GCN's two networks, each in the file that the authors' code writes for it."""
    state = create("asgcn", num_classes=5, width=4).state_dict()
    paths = tmp_path / "epoch80_model1.pt", tmp_path / "epoch80_model2.pt"
    for links, path in enumerate(paths):
        torch.save(
            {key: value for key, value in state.items() if key.startswith(("encoder", "decoder")) == links}, path
        )
    return state, *paths


def test_a_network_in_two_files(two_files):
    state, recogniser, links = two_files
    for pair in ((recogniser, links), (links, recogniser)):
        again = load_checkpoint(*pair).state_dict()
        assert all(torch.equal(again[key], value) for key, value in state.items())


def test_the_file_that_is_missing_is_named(two_files):
    _, recogniser, links = two_files
    with pytest.raises(
        DataError, match=r"80_model1\.pt: the recogniser.* without the inference of links.*N_model2\.pt"
    ):
        load_checkpoint(recogniser)
    with pytest.raises(
        DataError, match=r"80_model2\.pt: the inference of links.* without the recogniser.*N_model1\.pt"
    ):
        load_checkpoint(links)
    with pytest.raises(DataError, match=r"model1\.pt: .* is in another of the files too"):
        load_checkpoint(recogniser, recogniser)
    with pytest.raises(DataError, match="no such file"):
        load_checkpoint(recogniser, links.with_name("epoch90_model2.pt"))


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_nothing_is_executed(state, tmp_path):
    torch.save({"state_dict": state, "config": Hostile(tmp_path / "pwned")}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"w\.pt: not tensors alone.*mkdir.*could run code"):
        load_checkpoint(tmp_path / "w.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if "tcn.2" not in k}, "tcn.2.* more are missing; stgcn needs them"),
        (lambda s: {**s, "attention.weight": torch.zeros(2)}, "stgcn has no tensor 'attention.weight'"),
        (lambda s: {**s, "fcn.bias": torch.zeros(9)}, r"'fcn.bias' has shape \(9,\), stgcn .* needs \(5,\)"),
        (lambda s: {**s, "fcn.bias": torch.full((5,), torch.nan)}, "'fcn.bias' holds NaN"),
        (lambda s: {**s, "fcn.bias": torch.full((5,), 1e300, dtype=torch.float64)}, "'fcn.bias' holds NaN or inf"),
        (lambda s: {**s, "fcn.bias": torch.zeros(5, dtype=torch.complex64)}, "'fcn.bias' is torch.complex64"),
        (lambda s: {**s, "fcn.bias": torch.zeros(5, dtype=torch.bool)}, "'fcn.bias' is torch.bool"),
        (lambda s: {**s, "fcn.bias": torch.zeros(5).to_sparse()}, "'fcn.bias' is sparse_coo"),
        (lambda s: {**s, "fcn.bias": torch.zeros(5, device="meta")}, "'fcn.bias' has no data"),
        (lambda s: {**s, "fcn.bias": quantised(5)}, "'fcn.bias' is quantised"),
        (lambda s: {**s, "fcn.weight": torch.tensor(1.0)}, r"no stgcn has tensors of such shapes: .*fcn.weight \(\)"),
        (lambda s: {**s, "A": torch.zeros(25, 25)}, r"no stgcn has tensors of such shapes: A \(25, 25\)"),
        (lambda s: {**s, "A": torch.zeros(0, 25, 25)}, r"'A' is empty, \(0, 25, 25\)"),
        (lambda s: {"conv1.weight": torch.zeros(3)}, "the keys conv1.weight, ... are those of no model; models are"),
        (lambda s: {"epoch": 3, "lr": 0.1}, r"no state dict \(entries epoch, lr\)"),
        (lambda s: [1, 2], r"no state dict \(list\)"),
    ],
)
def test_what_is_wrong_is_named(state, change, message, tmp_path):
    torch.save(change(state), tmp_path / "w.pt")
    with pytest.raises(DataError, match=message) as caught:
        load_checkpoint(tmp_path / "w.pt")
    assert str(caught.value).startswith(str(tmp_path / "w.pt"))
    assert "\n" not in str(caught.value)


def quantised(count):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch is about to forget them; files keep them
        return torch.quantize_per_tensor(torch.zeros(count), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("agcn", {"data_bn.weight": None}, "tensor 'data_bn.weight' is missing; agcn needs it"),
        ("msg3d", {"sgcn1.0.A_res": (5, 0)}, r"'sgcn1.0.A_res' is empty, \(5, 0\)"),
        ("msg3d", {"sgcn1.0.A_res": (5, 25)}, r"no msg3d has tensors of such shapes: .*sgcn1.0.A_res \(5, 25\)"),
        ("dgnn", {"l1.dgn.H_v.weight": (4, 2)}, r"no dgnn has tensors of such shapes: .*H_v.weight \(4, 2\)"),
        ("skateformer", {"stages.0.blocks.0.transformer.mlp.fc1.weight": None}, "fc1.weight' is missing; skateformer"),
        ("stgcnpp", {"backbone.gcn.x.y": (1,)}, "stgcnpp has no tensor 'backbone.gcn.x.y'"),
        ("stgcnpp", {"backbone.gcn.20000000.y": (1,)}, "stgcnpp of 20000001 stages; funnybone's have 1 to 64"),
        ("stgcnpp", {f"backbone.gcn.{'1' * 5000}.y": (1,)}, "no stgcnpp has tensors of such shapes"),
        ("ctrgcn", {"l1.gcn1.convs.0.conv3.weight": (12, 3, 1, 1)}, "'.*' has shape"),
        ("ctrgcn", {"l1.gcn1.convs.0.conv3.weight": (1000, 3, 1, 1)}, "it describes a network of more than 65 MiB"),
    ],
)
def test_files_that_are_odd_in_one_tensor(family, change, message, tmp_path):
    state = create(family, num_classes=5, **NARROW[family]).state_dict()
    for key, shape in change.items():
        state = {**state, key: torch.zeros(shape)} if shape else {k: v for k, v in state.items() if k != key}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match=message) as caught:
        load_checkpoint(tmp_path / "w.pt")
    assert str(caught.value).startswith(str(tmp_path / "w.pt"))
    assert "\n" not in str(caught.value)


def test_options_that_no_network_of_the_family_has(state, tmp_path):
    torch.save(state, tmp_path / "w.pt")
    for options in ({"graph": "circle"}, {"depth": 3}, {"persons": "2"}, {"width": 2**40}):
        with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'w.pt'}: ")):
            load_checkpoint(tmp_path / "w.pt", **options)


LITTLE = """
import json, resource, sys
from funnybone.errors import DataError
from funnybone.models import create, load_checkpoint, load_weights

create("stgcn", width=4)  # whatever is loaded for the first network
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))  # so that a test that fails spares the machine
said = []
for path in sys.argv[1:]:
    try:
        (load_weights if path.endswith(".safetensors") else load_checkpoint)(path)
        said.append("loaded")
    except DataError as error:
        said.append(str(error))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"said": said, "MiB": (after - before) / 1024}))
"""


def test_small_files_take_little_memory(state, tmp_path):
    """What a file of a few kilobytes says of itself is not believed before it is compared with its size."""
    files = {}

    def save(name, content):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    files[save("wide.pt", {**state, "fcn.weight": torch.zeros(1).expand(10**12)})] = "hold 3.6 TiB"
    files[save("repeated.pt", {**state, "fcn.weight": torch.zeros(1).expand(2**31)})] = "hold 8.0 GiB"
    pyskl = create("stgcnpp", width=12).state_dict()
    files[save("stages.pt", {**pyskl, "backbone.gcn.20000000.y": torch.zeros(1)})] = "20000001 stages"
    # Sizes that multiply: a first layer of 9 MB belongs to a network of some hundred gigabytes.
    first = {**state, "st_gcn_networks.0.gcn.conv.weight": torch.zeros(750_000, 3, 1, 1)}
    files[save("first.pt", first)] = "it describes a network of more than"

    inflating = tmp_path / "inflating.pt"
    with (
        zipfile.ZipFile(save("flat.pt", {**state, "x": torch.zeros(2**27)})) as flat,
        zipfile.ZipFile(inflating, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for member in flat.infolist():
            archive.writestr(member.filename, flat.read(member))
    (tmp_path / "flat.pt").unlink()
    assert inflating.stat().st_size < 5e6
    files[inflating] = "is compressed"

    repeating = save("repeating.pt", {"x": torch.zeros(2**20)})
    with zipfile.ZipFile(repeating, "a") as archive:
        (large,) = [member for member in archive.filelist if member.file_size > 2**20]
        for number in range(1000):
            again = copy.copy(large)
            again.filename = f"{large.filename}{number}"
            archive.filelist.append(again)
        archive._didModify = True
    files[repeating] = "not a checkpoint"

    record = {"model": "stgcn", "options": {"width": 700}, "skeleton": skeleton_record(), "classes": ["a", "b"]}
    record |= {"data": {"name": "none", "split": None, "n": 0, "synthetic": True, "sha256": ""}}
    save_file({"x": torch.zeros(3)}, tmp_path / "w.safetensors", {"funnybone": json.dumps(record)})
    files[tmp_path / "w.safetensors"] = "it describes a network of more than 64 MiB"
    several = {**record, "options": {"width": 200}, "streams": list(fb.models.STREAMS), "fusion": [1, 1, 1, 1]}
    save_file({"x": torch.zeros(3)}, tmp_path / "v.safetensors", {"funnybone": json.dumps(several)})
    files[tmp_path / "v.safetensors"] = "it describes a network of more than 64 MiB"

    done = subprocess.run([sys.executable, "-c", LITTLE, *map(str, files)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    for (path, message), said in zip(files.items(), answer["said"], strict=True):
        assert message in said, said
        assert said.startswith(str(path))
        assert "\n" not in said
    assert answer["MiB"] < 200


def skeleton_record():
    return json.loads(fb.models.weights.SkeletonRecord.of(NTU25).model_dump_json())


def test_archives_that_two_readers_could_read_differently(state, tmp_path):
    torch.save(state, tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    at = whole.rindex(b"PK\6\6")
    moved = bytearray(whole)
    moved[at + 48] ^= 1  # where the list of contents begins
    for content in (whole + b"\0", whole[:4] + bytes(8) + whole[4:], whole[:-1] + b"\1x", whole[:-22], bytes(moved)):
        (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(DataError, match=r"w\.pt: not a checkpoint"):
            load_checkpoint(tmp_path / "w.pt")


def test_entries_that_go_in_circles(state, tmp_path):
    circle = {"epoch": 3}
    circle["state_dict"] = circle["model"] = circle
    torch.save(circle, tmp_path / "w.pt")
    with pytest.raises(DataError, match="no state dict"):
        load_checkpoint(tmp_path / "w.pt")


def test_the_form_of_old_pytorch(state, tmp_path):
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert load_checkpoint(tmp_path / "w.pt").num_classes == 5


def test_another_skeleton_or_family(state, tmp_path):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError, match="a stgcn of 25 joints, skeleton COCO17 has 17"):
        load_checkpoint(tmp_path / "w.pt", skeleton=COCO17)
    assert load_checkpoint(tmp_path / "w.pt", skeleton=HDM05_25).skeleton is HDM05_25
    with pytest.raises(DataError, match="not a checkpoint of agcn"):
        load_checkpoint(tmp_path / "w.pt", family="agcn")
    with pytest.raises(DataError, match="did you mean 'stgcn'"):
        load_checkpoint(tmp_path / "w.pt", family="stgcnn")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut", b"\x80\x02."])
def test_damaged_files(content, tmp_path):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'w.pt'}: not")):
        load_checkpoint(tmp_path / "w.pt")
    with pytest.raises(DataError, match="no such file"):
        load_checkpoint(tmp_path / "v.pt")


# From a checkpoint to a victim


@pytest.fixture
def agcn(tmp_path):
    torch.manual_seed(0)
    torch.save(create("agcn", num_classes=2, width=8).state_dict(), tmp_path / "joint.pt")
    return tmp_path / "joint.pt"


def test_an_imported_checkpoint_is_a_victim(agcn, tmp_path):
    out = tmp_path / "agcn.safetensors"
    record = import_checkpoint(agcn, out=out, skeleton=NTU25, preprocess="2s-agcn", classes=("left", "right"))
    victim = fb.create_victim(out)
    clips = random_clips(4, persons=2, frames=12, skeleton=NTU25, absent=True)
    check_victim(victim, clips)
    network = load_checkpoint(agcn)
    expected = network(fb.models.Preprocess.named("2s-agcn", NTU25)(clips.xyz))
    torch.testing.assert_close(victim.logits(clips.xyz), expected)
    assert (victim.classes, victim.frames, victim.persons) == (("left", "right"), None, 2)
    assert record.accuracy is None
    assert list(record.recipe["imported_from"]) == ["joint.pt"]
    assert load_weights(out)[1] == record


def test_two_streams_become_one_victim(agcn, tmp_path):
    torch.save(create("agcn", num_classes=2, width=8).state_dict(), tmp_path / "bone.pt")
    torch.save(create("agcn", num_classes=2, width=12).state_dict(), tmp_path / "other.pt")
    shared = {"out": tmp_path / "w.safetensors", "skeleton": NTU25, "preprocess": "none", "streams": ("joint", "bone")}
    import_checkpoint(agcn, tmp_path / "bone.pt", fusion=(0.6, 0.4), **shared)
    xyz = torch.randn(2, 2, 8, 25, 3)
    both = [load_checkpoint(agcn)(xyz), load_checkpoint(tmp_path / "bone.pt")(fb.models.shown("bone", xyz, NTU25))]
    torch.testing.assert_close(fb.create_victim(tmp_path / "w.safetensors").logits(xyz), 0.6 * both[0] + 0.4 * both[1])
    with pytest.raises(DataError, match="1 files for 2 streams"):
        import_checkpoint(agcn, **shared)
    with pytest.raises(DataError, match=r"other.pt: agcn .*'width': 12.*networks of one kind"):
        import_checkpoint(agcn, tmp_path / "other.pt", **shared)


def test_two_files_become_one_victim(two_files, tmp_path):
    import_checkpoint(*two_files[1:], out=tmp_path / "w.safetensors", skeleton=NTU25, preprocess="as-gcn")
    assert len(fb.create_victim(tmp_path / "w.safetensors").classes) == 5


def test_what_is_not_imported(agcn, tmp_path):
    given = {"out": tmp_path / "w.safetensors", "skeleton": NTU25, "preprocess": "2s-agcn"}
    for change, message in [
        ({"classes": 3}, "a network of 2 classes, 3 were given"),
        ({"classes": ("a", "a")}, "class 'a' is named twice"),
        ({"preprocess": "2s-agnc"}, "no preprocessing is named '2s-agnc'; did you mean '2s-agcn'"),
        ({"preprocess": "hdm05"}, "stated for the joints of HDM05_25, not for NTU25"),
        ({"preprocess": fb.models.Preprocess(joint=25)}, "joint names joint 25"),
        ({"streams": ("skin",)}, "no stream is named 'skin'"),
        ({"skeleton": COCO17, "preprocess": "none"}, "an? agcn of 25 joints, skeleton COCO17 has 17"),
    ]:
        with pytest.raises(DataError, match=message):
            import_checkpoint(agcn, **{**given, **change})
    torch.save(create("stgcn", num_classes=2, width=4, in_channels=2).state_dict(), tmp_path / "flat.pt")
    with pytest.raises(DataError, match=r"flat.pt: a clip does not come through: .*three coordinates"):
        import_checkpoint(tmp_path / "flat.pt", **given)
    assert not (tmp_path / "w.safetensors").exists()


def test_import_on_the_command_line(agcn, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("left\nright\n")
    given = ["models", "import", agcn, "--skeleton", "ntu25", "--preprocess", "ctr-gcn", "--classes"]
    out = tmp_path / "w.safetensors"
    run = [str(token) for token in [*given, tmp_path / "classes.txt", "--option", "dropout=0.1", "--out", out]]
    assert main([token for token in run if token not in ("--option", "dropout=0.1")]) == 0
    said = capsys.readouterr()
    assert "agcn, 2 classes, NTU25, prepared as ctr-gcn" in said.out
    assert "nothing says on how many frames it was trained" in said.err
    assert main(list(map(str, [*given, "2", "--frames", "64", "--out", tmp_path / "long.safetensors"]))) == 0
    assert not capsys.readouterr().err
    assert fb.create_victim(tmp_path / "long.safetensors").frames == 64
    assert fb.create_victim(out).classes == ("left", "right")
    before = out.read_bytes()
    for argv, says in [
        ([*given, "2", "--out", out], "exists"),
        ([*given, "3", "--out", tmp_path / "v.safetensors"], "a network of 2 classes, 3 were given"),
        ([*given, tmp_path / "none.txt", "--out", tmp_path / "v.safetensors"], "none.txt"),
        ([*given, "2", "--option", "depth=3", "--out", tmp_path / "v.safetensors"], "no option depth"),
        ([*given, "2", "--option", "depth", "--out", tmp_path / "v.safetensors"], "write key=value"),
        ([*given, "2", "--fusion", "a", "--out", tmp_path / "v.safetensors"], "not numbers"),
        ([*given[:3], "--skeleton", "NTU", *given[5:], "2", "--out", tmp_path / "v.safetensors"], "there are NTU25"),
    ]:
        assert main(list(map(str, argv))) == 2
        out_text, err = capsys.readouterr()
        assert says in err
        assert len(err.splitlines()) == 1
        assert out_text == ""
    assert out.read_bytes() == before
    assert not (tmp_path / "v.safetensors").exists()


def test_a_checkpoint_named_as_a_victim_is_told_the_way(agcn, tmp_path):
    agcn.rename(tmp_path / "anything")
    with pytest.raises(
        DataError, match=r"anything: a checkpoint does not say .*funnybone models import .*anything --sk"
    ):
        fb.create_victim(tmp_path / "anything")
    (tmp_path / "w.pt").write_bytes(b"cut")
    with pytest.raises(DataError, match="funnybone models import"):
        fb.create_victim(tmp_path / "w.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="funnybone models import"):
        fb.create_victim(tmp_path / "w.safetensors")


def test_weights_files_may_be_called_as_one_likes(agcn, tmp_path):
    import_checkpoint(agcn, out=tmp_path / "w.pt", skeleton=NTU25, preprocess="none")
    assert len(fb.create_victim(tmp_path / "w.pt").classes) == 2


def test_a_model_without_packaged_weights_is_told_the_way():
    with pytest.raises(
        DataError, match=r"no weights of msg3d .*only .*stgcn\.synthetic.*funnybone train msg3d.*models imp"
    ):
        fb.create_victim("msg3d")
    with pytest.raises(DataError, match=r"no weights of stgcn for data 'moon' .*, only .*stgcn\.synthetic"):
        fb.create_victim("stgcn", data="moon")
    with pytest.raises(DataError, match=r"'stgcn': the data .*packaged are .*stgcn\.synthetic.*models import"):
        fb.create_victim("stgcn")
