"""``funnybone harden``: one file that every other command takes, or one line that says why not."""

import json
import re
from pathlib import Path

import pytest
import torch

import funnybone as fb
from funnybone.cli import main
from funnybone.data import npz
from funnybone.models import load_weights
from funnybone.testing import random_clips
from funnybone.victims import save_victim
from hardened_for_tests import small_base

VICTIMS = "victims_for_tests:answers_labels"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A motion file of three subjects and a weights file for it."""
    monkeypatch.chdir(tmp_path)
    clips = random_clips(12, frames=10)
    npz.write(tmp_path / "motion.npz", clips)
    save_victim(tmp_path / "base.safetensors", small_base(clips))
    return tmp_path


@pytest.fixture
def onnx_file(tmp_path):
    """A network in ONNX that says two of its input's numbers."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    weight = helper.make_tensor("w", numbers, [510, 2], [float(k < 2) for k in range(1020)])
    nodes = [helper.make_node("Flatten", ["xyz"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    given = helper.make_tensor_value_info("xyz", numbers, ["n", 1, 10, 17, 3])
    told = helper.make_tensor_value_info("logits", numbers, ["n", 2])
    model = helper.make_model(
        helper.make_graph(nodes, "net", [given], [told], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def harden(*options, name="lowpass", out="hard.safetensors", split="subject:s0"):
    command = ["harden", name, "--victim", "base.safetensors", "--data", "motion.npz", "--out", out]
    return main([*command, *(["--split", split] if split else []), *options])


def test_the_file_is_the_victim_that_was_made_and_measured(files, capsys):
    assert harden("--set", "keep=0.5", "--seed", "3", "--json") == 0
    said, remarks = capsys.readouterr()
    document = json.loads(said)
    base, clips = fb.create_victim("base.safetensors"), npz.read(files / "motion.npz")
    victim = fb.create_victim("hard.safetensors")
    part, test = clips.select("!subject:s0"), clips.select("subject:s0")
    assert victim.fingerprint == fb.create_defense("lowpass", keep=0.5).fit(base, part).fingerprint
    for key, one in (("before", base), ("after", victim)):
        right = int((one.labels(test.xyz) == test.labels).sum())
        assert document[key]["value"] == right / len(test)
        assert (document[key]["n"], document[key]["split"]) == (len(test), "subject:s0")
    assert document["accuracy"] == document["after"]
    assert document["fitted"] == len(part)
    assert document["defense"]["settings"] == {"mode": "dct", "keep": 0.5, "sigma": 1.0, "taps": 5}
    assert not remarks
    assert sorted(path.name for path in files.iterdir()) == ["base.safetensors", "hard.safetensors", "motion.npz"]


def test_what_it_says(files, capsys):
    assert harden("--set", "sigma=0.002", "--validate", "subject:s1", name="smoothing") == 0
    said, _ = capsys.readouterr()
    assert said.startswith("smoothing on base: accuracy ")
    assert said.count(" %") == 2
    assert "on the 4 clips of subject:s0, fitted on 4 clips of motion in" in said
    assert fb.create_victim("hard.safetensors").noise.sigma == 0.002


def test_without_a_split_nothing_is_measured(files, capsys):
    assert harden(split=None) == 0
    said, remarks = capsys.readouterr()
    assert "accuracy" not in said
    assert "accuracy was not measured" in remarks
    assert load_weights("hard.safetensors")[1].accuracy is None


@pytest.mark.parametrize("more", [(), ("rank=1",)])
def test_a_defense_that_trains_leaves_its_learning_curves_as_train_does(files, capsys, more):
    settings = [token for pair in ("epochs=2", *more) for token in ("--set", pair)]
    assert harden(*settings, "--json", name="gaussian") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["curves"] == "hard.curves.json"
    curves = json.loads((files / "hard.curves.json").read_text())
    assert [row["epoch"] for row in curves["streams"]["joint"]["epochs"]] == [1, 2]
    assert curves["streams"]["joint"]["kept_epoch"] in (1, 2)
    assert (curves["defense"]["name"], curves["precision"]) == ("gaussian", "fp32")
    assert curves["data"]["n"] == 8
    assert curves["accuracy"] == document["after"]
    assert "<svg" in (files / "hard.curves.svg").read_text()
    names = ["base.safetensors", "hard.curves.json", "hard.curves.svg", "hard.safetensors", "motion.npz"]
    assert sorted(path.name for path in files.iterdir()) == names


def test_learning_curves_are_never_overwritten(files, capsys):
    Path("hard.curves.svg").write_text("of another training")
    assert harden("--set", "epochs=1", name="gaussian") == 2
    assert "hard.curves.svg: exists" in capsys.readouterr().err
    assert Path("hard.curves.svg").read_text() == "of another training"


def test_it_trains_in_half_precision(files):
    pytest.importorskip("accelerate")
    assert harden("--set", "epochs=1", "--precision", "bf16", name="gaussian") == 0
    assert load_weights("hard.safetensors")[1].precision == "bf16"
    assert harden("--set", "epochs=1", "--precision", "fp32", name="gaussian", out="full.safetensors") == 0
    assert load_weights("full.safetensors")[1].precision == "fp32"


def test_what_another_training_left_is_neither_removed_nor_written_over(files, capsys):
    left = Path("hard.safetensors.partial")
    left.write_text("hours of work")
    assert harden() == 2
    assert "hard.safetensors.partial" in capsys.readouterr().err
    assert left.read_text() == "hours of work"
    assert not Path("hard.safetensors").exists()


def test_clips_that_the_victim_may_have_been_trained_on_are_pointed_out(files, capsys):
    assert harden(split="subject:s1") == 0
    assert "base was trained on !subject:s0 of random, not on !subject:s1" in capsys.readouterr().err


def test_attack_and_harden_take_the_file(files, capsys):
    assert harden(name="smoothing") == 0
    capsys.readouterr()
    common = ["--victim", "hard.safetensors", "--data", "motion.npz", "--split", "subject:s0"]
    attack = ["attack", "pgd", *common, "--set", "steps=2", "--threat", "linf:0.01", "--draws", "2", "--json"]
    assert main(attack) == 0
    attacked = json.loads(capsys.readouterr().out)
    victim = fb.create_victim("hard.safetensors")
    assert attacked["victim"] == {"name": "hard", "fingerprint": victim.fingerprint}
    assert main(["harden", "lowpass", *common, "--out", "twice.safetensors"]) == 0
    assert fb.create_victim("twice.safetensors").base.fingerprint == victim.fingerprint


def test_audit_takes_the_file_beside_its_base(files):
    assert harden() == 0
    common = ["--data", "motion.npz", "--split", "subject:s0", "--limit", "1", "--out", "run"]
    assert main(["audit", "base.safetensors", "hard.safetensors", *common]) == 0
    audited = json.loads((files / "run" / "audit.json").read_text())
    assert [one["defense"] for one in audited["victims"]] == [None, "lowpass"]
    plain, hard = (one["hardening"] for one in audited["victims"])
    assert plain is None
    assert (hard["base"], hard["settings"]["mode"], hard["fitted"]["n"], hard["fitted"]["seed"]) == (
        "base",
        "dct",
        8,
        0,
    )
    assert any(line.startswith("lowpass neither helped nor hurt beyond chance") for line in audited["meaning"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "lowpas"}, "did you mean 'lowpass'"),
        ({"set": "keep=2"}, "lowpass: keep is 2"),
        ({"preset": "published"}, "defense lowpass has no preset 'published'; leave it out"),
        ({"set": "kept=2"}, "has no setting 'kept'"),
        ({"set": "keep=much"}, "defense lowpass: setting keep is 'much'"),
        ({"victim": VICTIMS}, "cannot be saved as one file: CallableVictim 'labels-only' is no network"),
        ({"out": "base.safetensors"}, "base.safetensors: exists"),
        ({"precision": "fp32"}, "--precision fp32: defense lowpass, as it is set, trains no network of the victim"),
        ({"name": "beat", "precision": "bf16"}, "defense beat, as it is set, trains no network of the victim"),
        ({"split": "subject:s9"}, "s9"),
        ({"validate": "subject:s9"}, "s9"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_and_writes_nothing(files, capsys, options, says):
    before = {path: path.read_bytes() for path in files.iterdir()}
    given = {"victim": "base.safetensors", "out": "hard.safetensors", "split": "subject:s0", **options}
    name = given.pop("name", "lowpass")
    pairs = [token for key, value in given.items() for token in (f"--{key}", value)]
    assert main(["harden", name, "--data", "motion.npz", *pairs]) == 2
    said, remarks = capsys.readouterr()
    assert says in remarks.splitlines()[-1]
    assert not said
    assert {path: path.read_bytes() for path in files.iterdir()} == before


@pytest.mark.parametrize("command", ["harden", "audit"])
def test_an_onnx_network_is_named_as_such_and_can_be_wrapped(files, onnx_file, command, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    named = ["harden", "lowpass", "--victim"] if command == "harden" else ["audit"]
    assert main([*named, "net.onnx", "--data", "motion.npz", "--out", "out.safetensors"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "net.onnx: an ONNX network, which cannot be loaded as a victim; write a function that returns "
        "fb.CallableVictim around onnxruntime's session.run, access='scores', and name it: package.module:function"
    )
    session, clips = onnxruntime.InferenceSession(onnx_file), npz.read(files / "motion.npz")
    victim = fb.CallableVictim(
        lambda xyz: torch.from_numpy(session.run(None, {"xyz": xyz.numpy()})[0]),
        skeleton=clips.skeleton,
        classes=clips.classes,
        access="scores",
    )
    assert torch.allclose(victim.logits(clips.xyz), clips.xyz.flatten(1)[:, :1].expand(-1, 2))


def test_the_same_command_gives_the_same_file_but_for_the_time_it_took(files):
    victims = []
    for name in ("a.safetensors", "b.safetensors"):
        assert harden("--set", "space=joint_angles", name="smoothing", out=name) == 0
        victims.append(fb.create_victim(name))
        assert victims[-1].fit_seconds > 0
        victims[-1].fit_seconds = None
        fb.save_victim(name, victims[-1])
    assert (files / "a.safetensors").read_bytes() == (files / "b.safetensors").read_bytes()
    assert torch.equal(*(victim.rest for victim in victims))


def test_the_time_of_a_fit_is_that_of_all_that_was_fitted_and_stands_in_audits(files, capsys):
    assert harden(name="lowpass", out="low.safetensors") == 0
    others = ["--data", "motion.npz", "--out", "both.safetensors"]
    assert main(["harden", "smoothing", "--victim", "low.safetensors", *others]) == 0
    low, both = (fb.create_victim(name).fit_seconds for name in ("low.safetensors", "both.safetensors"))
    assert 0 < low < both
    for name, after in (("low", 20.0), ("both", None)):  # a base that says nothing leaves nothing to be said
        victim = fb.create_victim(f"{name}.safetensors")
        victim.fit_seconds = after
        fb.save_victim(f"{name}.safetensors", victim)
    assert fb.create_victim("both.safetensors").base.fit_seconds == low
    victims = {name: fb.create_victim(f"{name}.safetensors") for name in ("low", "both")}
    found = fb.audit(victims, npz.read(files / "motion.npz"), suite="quick", limit=1, out="run").result
    assert [victim.fit_seconds for victim in found.victims] == [20.0, None]
    assert main(["compare", "run"]) == 0
    said = capsys.readouterr().out
    assert "fit s" in said
    assert re.search(r"low +lowpass +20 ", said)
    assert re.search(r"both +smoothing +- ", said)
