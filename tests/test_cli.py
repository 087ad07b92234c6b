"""The command line: what it prints, what it refuses, and that it leaves a user's files alone."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import funnybone as fb
from funnybone import auditing, models
from funnybone.attacks.basar import BASAR
from funnybone.cli import common, main
from funnybone.cli.config import typed
from funnybone.data import npz
from funnybone.errors import DataError
from funnybone.models.weights import DataRecord, SkeletonRecord
from funnybone.outcome import Outcome
from funnybone.skeletons import COCO17, NTU25
from funnybone.testing import linear_victim, random_clips

MAKE = "victims_for_tests:make"
TESTS = Path(__file__).parent


def run(*argv):
    return subprocess.run(
        [sys.executable, "-m", "funnybone.cli", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )


def contents(folder):
    """Every file of a folder, but for those that SQLite and locks leave and take away by being looked at."""
    passing = ("lock", "-wal", "-shm")
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.endswith(passing)}


def write_motion(path):
    """Twelve clips; those of the second class are two metres higher up."""
    clips = random_clips(12, frames=10)
    xyz = clips.xyz.clone()
    xyz[..., 1] += 2.0 * clips.labels[:, None, None, None]
    npz.write(path, clips.with_xyz(xyz))
    return path


@pytest.fixture
def motion(tmp_path):
    return write_motion(tmp_path / "motion.npz")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished audit."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_motion(folder / "motion.npz")
    assert main(["audit", MAKE, "--data", str(data), "--out", str(folder / "run"), "--frames", "10"]) == 0
    return folder / "run"


@pytest.fixture
def audit(finished, motion, tmp_path):
    """The command that did the audit whose folder, ``run``, lies in ``tmp_path``."""
    shutil.copytree(finished, tmp_path / "run")
    return ["audit", MAKE, "--data", str(motion), "--out", str(tmp_path / "run"), "--frames", "10"]


@pytest.fixture
def altered(motion):
    """A function that writes the motion file again with other arrays."""

    def write(**arrays):
        with np.load(motion) as file:
            found = {key: file[key] for key in file.files}
        np.savez(motion, **{**found, **arrays})
        return str(motion)

    return write


@pytest.fixture
def weights(tmp_path):
    """Weights of an untrained network on another skeleton than the motion file's."""
    path = tmp_path / "other.safetensors"
    record = models.WeightsRecord(
        model="stgcn",
        options={"width": 4, "frames": 10},
        skeleton=SkeletonRecord.of(NTU25),
        classes=("left", "right"),
        data=DataRecord(name="none", split=None, n=0, synthetic=True, sha256=""),
    )
    models.save_weights(path, models.create("stgcn", num_classes=2, width=4, frames=10), record)
    return path


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """A function that runs a command which must be refused in one line, without touching a file."""
    monkeypatch.chdir(tmp_path)

    def check(*argv, says=()):
        before = contents(tmp_path)
        status = main([str(token) for token in argv])
        out, err = capsys.readouterr()
        assert status == 2, err
        assert out == ""
        # Work that is refused only on its way has told how far it was.
        lines = [line for line in err.splitlines() if not line.startswith("training ")]
        assert len(lines) == 1, err
        assert lines[0].startswith("funnybone: "), err
        assert "Traceback" not in err
        for fragment in says:
            assert str(fragment) in err
        assert contents(tmp_path) == before, "a file was written or changed"

    return check


# Unusable input


def test_missing_file(refused):
    refused("data", "info", "nowhere.npz", says=["nowhere.npz", "neither a file nor a data set"])
    refused("attack", "pgd", "--victim", MAKE, "--data", "nowhere.npz", says=["nowhere.npz"])
    refused("train", "stgcn", "--data", "nowhere.npz", "--out", "w.safetensors", says=["nowhere.npz"])
    refused("report", "nowhere", says=["nowhere"])


def test_wrong_shape(refused, altered):
    file = altered(clips=np.zeros((120, 51), np.float32))
    refused("data", "info", file, says=[file, "'clips'", "(120, 51)", "npz"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(refused, altered, value):
    clips = np.ones((120, 1, 17, 3), np.float32)
    clips[25, 0, 3, 1] = value
    refused("data", "info", altered(clips=clips), says=["clip clip2", "frame 5", "not a finite number", "interpolate"])


def test_empty_clip(refused, altered):
    lengths = np.full(12, 10)
    lengths[4], lengths[5] = 0, 20
    refused("data", "info", altered(lengths=lengths), says=["'lengths'", "clip 4 is empty", "leave it out"])


def test_split_that_names_nothing(refused, motion):
    attack = ["attack", "pgd", "--victim", MAKE, "--data", motion]
    refused(*attack, "--split", "!subject:s0,s1,s2", says=["'!subject:s0,s1,s2' is empty"])
    refused(*attack, "--split", "class:fly", says=["no clip has class fly", "left, right"])
    refused(*attack, "--split", "subject:s9", says=["no clip has subject s9", "s0, s1, s2"])
    refused(*attack, "--split", "view:1", says=["cannot split by 'view:1'", "class, subject"])


def test_split_that_leaves_nothing_to_train_on(refused, motion):
    train = ["train", "stgcn", "--data", motion, "--out", "w.safetensors"]
    refused(*train, "--split", "subject:s0,s1,s2", says=["is empty"])


def test_parents_with_a_cycle(refused, altered):
    parents = np.arange(17) - 1
    parents[1] = 5
    refused("data", "info", altered(parents=parents), says=["'parents'"])


def test_joints_that_do_not_match(refused, altered):
    names = np.array([f"joint{i}" for i in range(16)])
    refused("data", "info", altered(joint_names=names), says=["16 joints", "17"])


def test_truncated_npz(refused, motion):
    motion.write_bytes(motion.read_bytes()[:-200])
    refused("data", "info", motion, says=[motion, "damaged"])


def test_npz_with_python_objects(refused, altered):
    refused("data", "info", altered(classes=np.array(["left", {"a": 1}], object)), says=["Python objects"])


def test_victim_of_another_skeleton(refused, motion, weights):
    refused("attack", "pgd", "--victim", weights, "--data", motion, says=["NTU25 (25 joints)", "COCO17 (17 joints)"])
    refused("audit", weights, "--data", motion, "--out", "run", says=["NTU25 (25 joints)"])


def test_damaged_weights(refused, motion, weights):
    attack = ["attack", "pgd", "--victim", weights, "--data", motion]
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-40])
    refused(*attack, says=[weights, "damaged"])
    weights.write_bytes(whole[:-40] + bytes(40))
    refused(*attack, says=[weights])
    weights.write_bytes(b"not at all")
    refused(*attack, says=[weights])


def test_victim_that_cannot_be_found(refused, motion):
    attack = ["attack", "pgd", "--data", motion, "--victim"]
    refused(*attack, "stgcm", says=["'stgcm'", "neither a packaged victim nor a file"])
    refused(*attack, "no_such_module:make", says=["no_such_module:make", "package.module:function"])
    refused(*attack, "victims_for_tests:nothing", says=["victims_for_tests:nothing"])
    refused(*attack, "..x:make", says=["'..x:make'", "package.module:function"])


def test_victim_whose_function_is_of_no_use(refused, motion, tmp_path, capsys, monkeypatch):
    (tmp_path / "odd_victims.py").write_text(
        "def broken():\n    raise RuntimeError('my model file is missing')\n\n\nnumber = 3\n"
    )
    (tmp_path / "odd_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    attack = ["attack", "pgd", "--data", motion, "--victim"]
    refused(*attack, "odd_victims:broken", says=["'odd_victims:broken'", "RuntimeError: my model file is missing"])
    refused(*attack, "odd_victims:number", says=["'odd_victims:number'", "int, not a function"])
    refused(*attack, "odd_module:make", says=["'odd_module:make'", "ZeroDivisionError"])
    assert main([*map(str, attack), "odd_victims:broken", "--debug"]) == 2
    assert "in broken" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["garbage", "cut"])
def test_damaged_ledger(refused, audit, tmp_path, damage):
    ledger = tmp_path / "run" / "ledger.sqlite"
    whole = ledger.read_bytes()
    ledger.write_bytes(b"garbage" * 1000 if damage == "garbage" else whole[: len(whole) // 2])
    refused(*audit, says=[ledger])


def test_finished_audit_without_resuming(refused, audit):
    refused(*audit, "--no-resume", says=("holds an audit", "--out"))


def test_folder_of_another_audit(refused, audit, tmp_path):
    refused(*audit, "--seed", "1", says=[tmp_path / "run"])


# Unknown names, wrong usage


@pytest.mark.parametrize("text", ["({[1]: 2},)", "[1", "(" * 300])
def test_a_tuple_that_is_none_is_refused(text):
    with pytest.raises(DataError, match="setting caps is"):
        typed("attack basar", BASAR, [f"caps={text}"])
    assert typed("attack basar", BASAR, ["caps=((0.02, 0.1),)"]) == {"caps": ((0.02, 0.1),)}


def test_unknown_names(refused, motion):
    attack = ["attack", "pgd", "--victim", MAKE, "--data", motion]
    refused("attack", "pgdd", "--victim", MAKE, "--data", motion, says=["'pgdd'", "did you mean 'pgd'"])
    refused("train", "stgcm", "--data", motion, "--out", "w.safetensors", says=["'stgcm'", "did you mean 'stgcn'"])
    refused("models", "list", "nothing*", says=["nothing*"])
    refused("audit", MAKE, "--data", motion, "--suite", "slow", says=["'slow'", "quick, standard, full"])
    refused(*attack, "--set", "stepz=3", says=["'stepz'", "step_size"])
    refused(*attack, "--set", "steps=2.5", says=["steps is '2.5'", "integer"])
    refused(*attack, "--set", "steps", says=["key=value"])
    refused(*attack, "--goal", "xy", says=["'xy'", "ab, ab3, ab5, sa or sa:CLASS"])
    refused(*attack, "--goal", "sa:fly", says=["'fly'", "left, right"])
    refused(*attack, "--goal", "ab9", says=["2 classes"])
    refused(*attack, "--threat", "l7:0.1", says=["'l7'", "linf"])
    refused(*attack, "--threat", "linf:far", says=["'linf:far'"])
    refused(*attack, "--threat", "", says=["threat model"])
    refused(*attack, says=["ball"])  # PGD needs one
    refused("train", "stgcn", "--data", motion, "--out", "w", "--set", "epoch=1", says=["'epoch'", "epochs"])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["attac"], ["attac", "Did you mean"]),
        (["attack"], ["NAME"]),
        (["attack", "pgd"], ["--victim"]),
        (["attack", "pgd", "--victim"], ["--victim"]),
        (["attack", "pgd", "--victims", "x"], ["--victims", "Did you mean --victim"]),
        (["attack", "pgd", "--victim", "x", "--limit", "many"], ["--limit", "many"]),
        (["audit", "--executor", "cloud"], ["--executor", "inline", "process", "ray"]),
        (["audit", "--device", "tpu"], ["--device", "cuda"]),
        (["data", "inof", "x"], ["inof"]),
        (["attack", "pgd", "--victim", "x", "--limit", "0"], ["--limit", ">= 1"]),
        (["attack", "pgd", "--victim", "x", "--batch-size", "0"], ["--batch-size", ">= 1"]),
        (["attack", "pgd", "--victim", "x", "--batch-size=-3"], ["--batch-size", ">= 1"]),
        (["attack", "pgd", "--victim", "x", "--budget", "0"], ["--budget", ">= 1"]),
        (["attack", "pgd", "--victim", "x", "--frames", "1"], ["--frames", ">= 2"]),
        (["attack", "pgd", "--victim", "x", "--seed", "-1"], ["--seed", ">= 0"]),
        (["audit", "--limit", "0"], ["--limit", ">= 1"]),
        (["audit", "--seed", str(2**70)], ["--seed", str(2**63 - 1)]),
        (["train", "stgcn", "--data", "x", "--out", "y", "--seed", "-1"], ["--seed", ">= 0"]),
        (["train", "stgcn", "--data", "x", "--out", "y", "--seed", str(2**63)], ["--seed", str(2**63 - 1)]),
    ],
)
def test_wrong_usage(refused, argv, says):
    refused(*argv, says=[*says, "--help"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_that_is_not_there(refused, motion):
    refused("attack", "pgd", "--victim", MAKE, "--data", motion, "--device", "cuda", says=["--device cuda", "cpu"])


def test_nothing_is_overwritten(refused, motion, tmp_path):
    for name in ("w.safetensors", "o.json"):
        (tmp_path / name).write_text("mine")
    refused("train", "stgcn", "--data", motion, "--out", "w.safetensors", says=["w.safetensors: exists"])
    attack = ["attack", "pgd", "--victim", MAKE, "--data", motion, "--threat", "linf:0.1", "--out"]
    refused(*attack, "w.safetensors", says=["w.safetensors: exists"])
    refused(*attack, "o", says=["o.json: exists"])


def never(*arguments, **options):
    raise AssertionError("work was begun whose result cannot be kept")


@pytest.mark.parametrize("place", ["file/below", "/proc/nope/x", "/proc/x"])
def test_places_that_cannot_be_written_are_refused_before_the_work(refused, motion, tmp_path, monkeypatch, place):
    if place.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("no /proc")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("funnybone.attacks.gradient.GradientAttack.__call__", never, raising=False)
    monkeypatch.setattr("funnybone.training.train", never)
    monkeypatch.setattr("funnybone.report.folder.write_report", never)
    attack = ["attack", "pgd", "--victim", MAKE, "--data", motion, "--threat", "linf:0.1"]
    refused(*attack, "--out", place, says=[place, "cannot write", "--out"])
    refused("train", "stgcn", "--data", motion, "--out", place, says=[place, "cannot write", "--out"])
    refused("report", "run", "--out", place, says=[place, "cannot write", "--out"])


def test_an_audit_needs_a_folder_it_can_write(refused, motion, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused("audit", MAKE, "--data", motion, "--out", "file/below", says=["file"])


def test_output_without_a_name(refused, motion):
    attack = ["attack", "pgd", "--victim", MAKE, "--data", motion, "--threat", "linf:0.1"]
    refused(*attack, "--out", ".", says=["names a folder"])


def test_checkpoint_of_something_else(refused, motion, tmp_path):
    (tmp_path / "w.partial").write_bytes(b"mine")
    train = ["train", "stgcn", "--data", motion, "--frames", "10", "--out", "w"]
    refused(*train, says=["w.partial", "remove w.partial", "choose another --out"])


def test_training_that_diverges(refused, motion):
    train = ["train", "stgcn", "--data", motion, "--frames", "10", "--out", "w"]
    refused(*train, "--lr", "inf", says=["max_lr is inf", "finite"])
    refused(*train, "--set", "rotation=nan", says=["rotation is nan", "finite"])
    refused(*train, "--lr", "1e30", "--set", "batch=4", "--epochs", "6", says=["diverged", "--lr"])


# Settings files


def test_settings_file_says_what_options_say(motion, tmp_path, capsys):
    options = ["--victim", MAKE, "--data", str(motion), "--threat", "linf:0.1", "--limit", "4"]
    assert main(["attack", "pgd", *options, "--set", "steps=3", "--set", "random_start=false", "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    file = tmp_path / "attack.toml"
    file.write_text(
        f'name = "pgd"\nvictim = "{MAKE}"\ndata = "{motion}"\nthreat = "linf:0.1"\nlimit = 4\njson = true\n'
        "[set]\nsteps = 3\nrandom_start = false\n"
    )
    assert main(["attack", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == wanted
    assert main(["attack", str(file), "--limit", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 2, "the command line wins"


def test_settings_file_that_cannot_be_used(refused, tmp_path):
    (tmp_path / "unknown.toml").write_text("limits = 4\n")
    (tmp_path / "wrong.toml").write_text("limit = \n")
    (tmp_path / "type.toml").write_text('limit = "many"\n')
    (tmp_path / "switch.toml").write_text("limit = true\n")
    refused("audit", "unknown.toml", says=["unknown.toml", "'limits'", "limit, out"])
    refused("audit", "wrong.toml", says=["wrong.toml", "line 1"])
    refused("audit", "type.toml", says=["type.toml", "many"])
    refused("audit", "switch.toml", says=["switch.toml", "'limit'"])
    refused("audit", "nowhere.toml", says=["nowhere.toml", "no such file"])


# What is printed


def test_attack_prints_one_line_and_saves(motion, tmp_path, capsys):
    out = tmp_path / "deep" / "outcome.safetensors"
    options = ["--victim", MAKE, "--data", str(motion), "--split", "subject:s0,s1", "--out", str(out)]
    assert main(["attack", "pgd", *options, "--threat", "linf:1.5"]) == 0
    printed, _ = capsys.readouterr()
    outcome = Outcome.load(out)
    assert printed == f"{outcome}\n"
    assert len(outcome) == 8
    assert bool((outcome.violation <= 1e-6).all())


@pytest.mark.parametrize("failing", ["write", "first", "second"])
def test_outcome_is_saved_whole_or_not_at_all(tmp_path, monkeypatch, failing):
    clips = random_clips(4)
    victim = linear_victim(clips)
    outcome = fb.create_attack("pgd", steps=1)(victim, clips, threat=fb.threat.Linf(0.01))
    replace, calls = os.replace, []

    def full(*arguments, **options):
        calls.append(arguments)
        if len(calls) == {"write": 2, "first": 1, "second": 2}[failing]:
            raise OSError(28, "No space left on device")
        return (write if failing == "write" else replace)(*arguments, **options)

    write = Path.write_bytes
    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr(Path, "write_bytes", lambda path, content: full(path, content))
        else:
            patch.setattr(os, "replace", full)
        with pytest.raises(DataError, match="cannot write: No space left"):
            outcome.save(tmp_path / "run")
    assert calls
    assert not list(tmp_path.iterdir()), "something blocks the retry"
    outcome.save(tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "run.safetensors"]
    assert torch.equal(Outcome.load(tmp_path / "run").success, outcome.success)


def test_attack_is_repeated_by_its_seed(motion, capsys):
    attack = ["attack", "pgd", "--victim", MAKE, "--data", str(motion), "--threat", "linf:1.0", "--json"]
    documents = []
    for seed in ("0", "0", "1"):
        assert main([*attack, "--seed", seed, "--limit", "6"]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0] == documents[1]
    assert documents[0]["position_m"] != documents[2]["position_m"]


def test_figures_that_json_cannot_write_are_null(capsys):
    common.emit_json({"a": float("inf"), "b": [1.5, float("nan"), (float("-inf"), 2)], "c": "inf"})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None, [None, 2]], "c": "inf"}


def test_audit_again_prints_the_same(audit, tmp_path, capsys):
    recorded = {name: (tmp_path / "run" / name).read_bytes() for name in ("ledger.sqlite", "audit.json")}
    for _ in range(2):
        assert main(audit) == 0
        printed = capsys.readouterr().out
        assert {name: (tmp_path / "run" / name).read_bytes() for name in recorded} == recorded
    document = json.loads(recorded["audit.json"])
    for victim in document["victims"]:
        for attack in victim["attacks"]:
            (line,) = [line for line in printed.splitlines() if line.startswith(f"  {attack['name']}, ")]
            assert f"{100 * attack['success_rate']:.1f}" in line
            assert len(line) <= 100
    for warning in document["warnings"]:
        assert warning["code"] in printed
    assert f"report: {tmp_path / 'run' / 'report.html'}" in printed
    assert main([*audit, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "run" / "audit.json").read_text())


def test_audit_of_two_victims_one_of_which_hides_its_gradient(motion, tmp_path, capsys):
    victims = [MAKE, "victims_for_tests:answers_labels"]
    out = ["--out", str(tmp_path / "run"), "--frames", "10", "--json"]
    assert main(["audit", *victims, "--data", str(motion), *out]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [victim["name"] for victim in document["victims"]] == ["make", "labels-only"]
    assert "ENTRY_SKIPPED" in {warning["code"] for warning in document["warnings"]}


def test_audit_with_a_surrogate(motion, tmp_path, capsys):
    command = ["audit", "victims_for_tests:answers_labels", "--surrogate", MAKE, "--data", str(motion)]
    command += ["--out", str(tmp_path / "run"), "--frames", "10"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert [victim["name"] for victim in document["victims"]] == ["labels-only"]
    assert [surrogate["name"] for surrogate in document["surrogates"]] == ["make"]
    names = ["mifgsm-linf-10mm", "dim-linf-10mm", "smart-linf-10mm"]
    assert [attack["name"] for attack in document["transfer"]] == names
    for attack in document["transfer"]:
        assert [(cell["target"], cell["n"]) for cell in attack["cells"]] == [("labels-only", 12), ("make", 12)]
        assert f"transfer of {attack['name']}, goal ab, Linf(radius=0.01): % fooled of the n clips that " in printed
    assert "surrogate and target both get right" in printed
    assert printed.count("n=12*") == 3
    page = (tmp_path / "run" / "report.html").read_bytes()
    recorded = (tmp_path / "run" / "ledger.sqlite").read_bytes()
    assert main(command) == 0
    assert capsys.readouterr().out == printed
    assert (tmp_path / "run" / "ledger.sqlite").read_bytes() == recorded
    assert main(["report", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").read_bytes() == page


def test_audit_of_a_packaged_victim_through_another(tmp_path, monkeypatch, capsys):
    suite = auditing.create_suite("quick")
    attacks = {"entries": ("pgd", {}), "transfer": ("mifgsm", {"early_stop": False})}
    one_step = {
        name: (dataclasses.replace(getattr(suite, name)[0], attack=fb.create_attack(attack, steps=1, **settings)),)
        for name, (attack, settings) in attacks.items()
    }
    quick = dataclasses.replace(suite, **one_step)
    monkeypatch.setattr("funnybone.auditing.suites._SUITES", {"quick": lambda: quick})
    file = tmp_path / "audit.toml"
    file.write_text('victims = ["stgcn.synthetic"]\nsurrogate = ["sgn.synthetic"]\nlimit = 4\n')
    told = []
    monkeypatch.setattr("funnybone.cli.common.lines", lambda *_: lambda *now: told.append(now))
    assert main(["audit", str(file), "--out", str(tmp_path / "run"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (found,) = document["transfer"]
    assert (found["surrogates"], found["targets"]) == (["sgn.synthetic"], ["stgcn.synthetic", "sgn.synthetic"])
    assert [cell["white_box"] for cell in found["cells"]] == [False, True]
    for cell in found["cells"]:
        assert cell["fooled_both"] <= min(cell["fooled"], cell["fooled_surrogate"]) <= cell["n"] <= 4
    done, total, _ = told[-1]
    assert done == total == 4 * (1 + 1 + 2)


def test_surrogates_that_cannot_be_used(refused, motion, weights):
    command = ["audit", MAKE, "--data", motion, "--out", "run", "--surrogate"]
    refused(*command, "nowhere.safetensors", says=["nowhere.safetensors"])
    refused(*command, weights, says=["surrogate 'other'", "NTU25 (25 joints)", "COCO17 (17 joints)"])
    refused(*command, "victims_for_tests:answers_labels", says=["surrogate 'labels-only' offers labels", "gradients"])
    refused(*command, MAKE, "--surrogate", MAKE, says=[f"surrogate '{MAKE}' is named twice"])


@pytest.mark.usefixtures("audit")
def test_report_is_written_anew(tmp_path, capsys):
    page = tmp_path / "run" / "report.html"
    whole = page.read_bytes()
    page.unlink()
    assert main(["report", str(tmp_path / "run")]) == 0
    assert page.read_bytes() == whole
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").is_file()
    assert page.is_file()
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "other.html")]) == 2
    assert "exists" in capsys.readouterr().err


def test_train_writes_a_victim(motion, tmp_path, capsys):
    out = tmp_path / "victim.safetensors"
    train = ["train", "stgcn", "--data", str(motion), "--split", "subject:s0", "--frames", "10"]
    recipe = ["--epochs", "1", "--lr", "0.001", "--set", "batch=8"]
    assert main([*train, *recipe, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["accuracy"]["n"] == 4
    assert document["accuracy"]["split"] == "subject:s0"
    assert document["data"]["n"] == 8
    assert document["data"]["split"] == "!subject:s0"
    assert not list(tmp_path.glob("*.partial*"))
    attack = ["attack", "pgd", "--victim", str(out), "--data", str(motion), "--threat", "linf:0.1", "--set", "steps=1"]
    assert main(attack) == 0
    assert "n=12" in capsys.readouterr().out


def test_data_info(motion, capsys):
    assert main(["data", "info", str(motion), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["n"] == 12
    assert facts["classes"] == {"left": 6, "right": 6}
    assert facts["groups"]["subject"] == {"s0": 4, "s1": 4, "s2": 4}
    assert facts["frames"] == {"min": 10, "median": 10, "max": 10}
    assert facts["synthetic"]
    assert main(["data", "info", str(motion), "--split", "subject:s1"]) == 0
    text = capsys.readouterr().out
    assert "4 clips" in text
    assert "no person was recorded" in text
    assert "COCO17" in text


def test_lists(capsys):
    for command in (["data", "list"], ["models", "list"]):
        assert main(command) == 0
        assert capsys.readouterr().out
        assert main([*command, "--json"]) == 0
        json.loads(capsys.readouterr().out)
    assert main(["models", "list", "st*"]) == 0
    assert "stgcn" in capsys.readouterr().out


def test_version(capsys):
    import funnybone

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == funnybone.__version__


# What fails


def test_failure_is_one_line_and_debug_shows_where(motion, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("the sky fell")

    monkeypatch.setattr("funnybone.data.registry.find", fail)
    assert main(["data", "info", str(motion)]) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "the sky fell" in err
    assert "--debug" in err
    assert main(["data", "info", str(motion), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_says_that_the_command_continues(motion, monkeypatch, capsys):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("funnybone.auditing.audit", stop)
    assert main(["audit", MAKE, "--data", str(motion)]) == 130
    assert "same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "place", "says"),
    [
        (["audit", MAKE], "funnybone.auditing.audit", "; the same command continues where it stopped"),
        (["attack", "smart", "--victim", MAKE], "funnybone.attacks.base.Attack.__call__", ""),
    ],
)
def test_where_a_victim_raises_what_continues_says_so(motion, monkeypatch, capsys, command, place, says):
    def fail(*arguments, **options):
        raise TimeoutError("the victim did not answer")

    monkeypatch.setattr(place, fail)
    assert main([*command, "--data", str(motion)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"funnybone: failed: TimeoutError: the victim did not answer (--debug shows where){says}"


# Real processes


def test_progress_of_streams_is_that_of_all_of_them():
    from funnybone.cli.train import _reporter
    from funnybone.training import Progress

    told = []
    report = _reporter(lambda *said: told.append(said), ["joint", "bone"])
    for stream, step in (("joint", 1), ("joint", 10), ("bone", 1), ("bone", 10)):
        report(Progress(stream=stream, epoch=0, epochs=1, step=step, steps=10, loss=0.5, last=None))
    assert [said[:2] for said in told] == [(1, 20), (10, 20), (11, 20), (20, 20)]
    assert told[2][2].startswith("bone, epoch 1 of 1")


def test_process_status_and_streams(motion):
    done = run("attack", "pgd", "--victim", MAKE, "--data", str(motion), "--threat", "linf:1.5", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 12
    assert "Traceback" not in done.stderr
    wrong = run("attack", "nothing", "--victim", MAKE, "--data", str(motion))
    assert (wrong.returncode, wrong.stdout, len(wrong.stderr.splitlines())) == (2, "", 1)


def test_reader_that_leaves():
    """As in ``funnybone models list | head -n 0``."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "funnybone.cli", "models", "list"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    _, err = process.communicate(timeout=120)
    assert err == ""
    assert process.returncode == 0


def test_progress_begins_after_two_seconds_and_goes_on_every_five(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr("funnybone.cli.common.time.monotonic", lambda: now)
    tell = common.lines("work", "clips")
    told = []
    for tenth in range(201):
        now = 100 + tenth / 10
        tell(tenth, 400, "well")
        if capsys.readouterr().err:
            told.append(tenth / 10)
    assert told == [2, 7, 12, 17]
    now = 130.0
    tell(201, 400, "well")
    assert capsys.readouterr().err == "work: 201 of 400 clips, well, 30 s left\n"


def test_long_work_tells_how_far_it_is(motion, monkeypatch, capsys):
    monkeypatch.setattr("funnybone.cli.common.FIRST", 0.0)
    monkeypatch.setattr("funnybone.cli.common.EVERY", 0.0)
    assert main(["attack", "pgd", "--victim", MAKE, "--data", str(motion), "--threat", "linf:0.001"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "of 12 clips, 0 successes" in err


def test_two_lengths_of_victims(refused, motion, tmp_path, weights):
    other = tmp_path / "longer.safetensors"
    module, record = models.load_weights(weights)
    models.save_weights(other, module, record.model_copy(update={"options": {"width": 4, "frames": 20}}))
    refused("audit", weights, other, "--data", motion, "--out", "run", says=["10 and 20 frames", "--frames"])


def test_clips_are_resampled_to_what_the_victim_takes(motion):
    (victim,), clips = common.load([MAKE], str(motion), split=None, frames=None, device="cpu")
    assert clips.xyz.shape[2] == 60
    assert dataclasses.asdict(clips)["name"] == "motion"
    assert victim == "make"


def test_natural_motion_is_that_of_the_clips_that_a_split_leaves(motion, tmp_path, capsys):
    clips = fb.load_data(motion, split="subject:s0", frames=10)
    others = fb.load_data(motion, split="!subject:s0", frames=10)
    learned = common.natural_motion(None, str(motion), "subject:s0", clips)
    assert learned.clips == len(others)
    assert learned.digest() == fb.metrics.learn_natural_motion(others).digest()
    assert common.natural_motion(None, str(motion), None, clips) is None  # nothing is left to learn from
    learned.save(tmp_path / "own.safetensors")
    assert common.natural_motion(tmp_path / "own.safetensors", str(motion), None, clips).digest() == learned.digest()
    everyone = ",".join(sorted({*fb.load_data(motion).groups["subject"]}))
    assert common.natural_motion(None, str(motion), f"subject:{everyone}", clips) is None
    assert "natural motion is not judged" in capsys.readouterr().err


def test_natural_motion_of_the_embedded_data_is_packaged():
    clips = fb.load_data("synthetic", split="test")[:2]
    assert common.natural_motion(None, "synthetic", "test", clips).clips == 840
    assert common.natural_motion(None, "synthetic", "class:wave", clips.resample(20)).frames == 20


# Persons


@pytest.fixture
def trained_on(tmp_path):
    """A function that writes weights of an untrained network on the motion file's skeleton, for so many persons."""

    def write(persons):
        path = tmp_path / f"of{persons}.safetensors"
        options = {"width": 4, "frames": 10, "persons": persons}
        record = models.WeightsRecord(
            model="stgcn",
            options=options,
            skeleton=SkeletonRecord.of(COCO17),
            classes=("left", "right"),
            data=DataRecord(name="none", split=None, n=0, synthetic=True, sha256=""),
        )
        module = models.create("stgcn", skeleton=COCO17, num_classes=2, **options)
        models.save_weights(path, module, record)
        return str(path)

    return write


def loaded(victims, data):
    return common.load(victims, str(data), split=None, frames=None, device="cpu")


def test_victim_of_two_persons_gets_an_absent_one(motion, trained_on):
    (victim,), clips = (
        list(part.values()) if isinstance(part, dict) else part for part in loaded([trained_on(2)], motion)
    )
    assert clips.xyz.shape[:3] == (12, 2, 10)
    assert not clips.valid[:, 1].any()
    assert not clips.xyz[:, 1].any()
    assert torch.equal(clips.xyz[:, :1], fb.load_data(motion, frames=10).xyz)
    assert victim.logits(clips.xyz).shape == (12, 2)


def test_slots_that_are_always_empty_are_left_out(tmp_path, trained_on):
    clips = random_clips(4, persons=3, frames=10)
    present = torch.tensor([True, False, True])
    xyz, valid = (torch.where(present.view(1, 3, *[1] * (part.ndim - 2)), part, 0) for part in (clips.xyz, clips.valid))
    some = dataclasses.replace(clips, xyz=xyz, valid=valid.bool())
    npz.write(tmp_path / "three.npz", some)
    _, two = loaded([trained_on(2)], tmp_path / "three.npz")
    assert torch.equal(two.xyz, xyz[:, present])
    assert torch.equal(two.valid, some.valid[:, present])
    four = common.with_persons(some, 4)
    assert torch.equal(common.with_persons(four, 3).xyz[:, :2], xyz[:, present])  # slots close up, padding follows
    assert common.with_persons(some, 3) is some


def test_persons_that_do_not_fit(refused, tmp_path, trained_on):
    npz.write(tmp_path / "two.npz", random_clips(4, persons=2, frames=10))
    one, two = trained_on(1), trained_on(2)
    attack = ["attack", "pgd", "--threat", "linf:0.1", "--data", "two.npz", "--victim"]
    refused(*attack, one, says=["'of1'", "1 person", "data 'two' have 2"])
    refused("audit", one, two, "--data", "two.npz", "--out", "run", says=["1 and 2 persons", "apart"])
