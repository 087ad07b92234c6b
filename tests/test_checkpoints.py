"""Authors' checkpoints are recognised by their keys, loaded exactly, and refused with the reason."""

import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from funnybone.errors import DataError
from funnybone.models import create, load_checkpoint, names
from funnybone.skeletons import COCO17, HDM05_25, NTU25, OPENPOSE18
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
        state |= {f"module.{key[3:]}": value.float() for key, value in found.items() if key.startswith("sd/")}
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
        (lambda s: {k: v for k, v in s.items() if "tcn.2" not in k}, "a stgcn without .*tcn.2.* more"),
        (lambda s: {**s, "attention.weight": torch.zeros(2)}, "stgcn has no attention.weight"),
        (lambda s: {**s, "fcn.bias": torch.zeros(9)}, r"fcn.bias has shape \(9,\), expected \(5,\)"),
        (lambda s: {**s, "fcn.bias": torch.full((5,), torch.nan)}, "fcn.bias holds NaN"),
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
