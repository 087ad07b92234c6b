"""``funnybone audit`` without arguments: it hardens the embedded victim first, keeps that, and attacks both."""

import json
from contextlib import contextmanager

import pytest

import funnybone as fb
from funnybone import auditing
from funnybone.auditing import Entry, Suite, suites
from funnybone.cli import audit as command
from funnybone.cli import demo, main
from funnybone.defenses.beat import BEAT
from funnybone.testing import linear_victim, random_clips

NAME = "stgcn.synthetic+beat"
FILE = f"{NAME}.safetensors"
SETTINGS = {"members": 2, "hidden": 4, "rounds": 2, "burn_in": 1, "steps": 2, "langevin_steps": 1, "negatives": 2}


def tiny(patch):
    """The demo with next to nothing to do."""
    patch.setattr(demo, "SETTINGS", {**SETTINGS, "buffer": 0})
    patch.setattr(demo, "TRAINING", 3)
    entry = Entry(fb.create_attack("pgd", steps=1), fb.goals.AnythingBut(), fb.threat.Linf(0.01), "pgd")
    patch.setitem(suites._SUITES, "quick", lambda: Suite("quick", (entry,), unit="metre"))


def run(folder, *more):
    return main(["audit", "--limit", "2", "--device", "cpu", "--out", str(folder), *more])


def never(*arguments, **options):
    raise AssertionError("fitted again")


@pytest.fixture
def small(monkeypatch):
    tiny(monkeypatch)


@pytest.fixture(scope="module")
def base():
    return fb.create_victim("stgcn.synthetic")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a finished demo."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        tiny(patch)
        assert run(folder) == 0
    return folder


@pytest.mark.usefixtures("small")
def test_both_victims_are_in_the_table_the_document_and_the_page(done, base, monkeypatch, capsys):
    before = (done / "audit.json").read_bytes()
    monkeypatch.setattr(BEAT, "fit", never)
    assert run(done) == 0
    printed = capsys.readouterr().out
    assert (done / "audit.json").read_bytes() == before
    document = json.loads(before)
    assert [(one["name"], one["defense"]) for one in document["victims"]] == [(base.name, None), (NAME, "beat")]
    hardening = document["victims"][1]["hardening"]
    assert hardening["base"] == base.name
    assert {key: hardening["settings"][key] for key in SETTINGS} == SETTINGS
    assert hardening["fitted"]["n"] == 3
    for name in (base.name, NAME):
        assert f"\n{name}, clean " in printed
    lines = printed.splitlines()
    assert lines[-len(document["meaning"]) :] == document["meaning"]
    assert any(line.startswith("beat ") and "points" in line for line in document["meaning"])
    assert any(line.startswith("fitted on 3 training clips of synthetic; members=2, hidden=4, ") for line in lines)
    page = (done / "report.html").read_text()
    assert f"How {NAME} was hardened" in page
    assert "What this means" in page


def test_the_hardened_victim_is_a_file_that_can_be_named(done, base):
    assert not list(done.glob("*.partial"))
    victim = fb.create_victim(str(done / FILE))
    assert (victim.name, victim.defense) == (NAME, "beat")
    assert victim.base.fingerprint == base.fingerprint
    assert (victim.fitted.data, victim.fitted.split, victim.fitted.seed) == ("synthetic", "train", 0)


@pytest.mark.usefixtures("small")
def test_what_was_killed_while_it_was_fitted_goes_on(done, base, monkeypatch, tmp_path):
    told = []

    def stopped(after):
        @contextmanager
        def progress(*_):
            def tell(number, rounds, text):
                told.append(number)
                if len(told) == after:
                    raise KeyboardInterrupt

            yield tell

        return progress

    monkeypatch.setattr(demo, "progress", stopped(1))
    with pytest.raises(KeyboardInterrupt):
        demo.harden(base, tmp_path / "run", frames=60, seed=0)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [f"{FILE}.partial"]
    demo.harden(base, tmp_path / "run", frames=60, seed=0)
    assert told == [1, 2]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [FILE]
    whole, resumed = (fb.create_victim(str(folder / FILE)) for folder in (done, tmp_path / "run"))
    assert resumed.fingerprint == whole.fingerprint
    assert whole.fit_seconds > 0
    assert resumed.fit_seconds is None  # the clock of the process that was killed is not known


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--seed", "1"], "hardened otherwise, or with another seed; choose another --out"),
        (["--no-resume"], "holds an audit; choose another --out"),
    ],
)
def test_a_victim_that_was_hardened_otherwise_is_not_taken(done, monkeypatch, capsys, more, says):
    before = {path: path.read_bytes() for path in done.rglob("*.safetensors")}
    monkeypatch.setattr(BEAT, "fit", never)
    assert run(done, *more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert {path: path.read_bytes() for path in done.rglob("*.safetensors")} == before


def test_a_folder_of_another_audit_is_refused_before_anything_is_fitted(monkeypatch, tmp_path, base):
    (tmp_path / "ledger.sqlite").touch()
    monkeypatch.setattr(BEAT, "fit", never)
    with pytest.raises(fb.DataError, match="holds another audit"):
        demo.harden(base, tmp_path, frames=60, seed=0)


@pytest.mark.parametrize("named", ["stgcn.synthetic", "--data=synthetic", "--split=class:wave", "--surrogate=sgn", ""])
def test_who_names_anything_gets_that_and_nothing_hardened(named, monkeypatch, tmp_path):
    clips = random_clips(2)
    victim, hard = linear_victim(clips), linear_victim(clips)
    hard.name = "hard"
    audited = []

    def audit(victims, *arguments, **options):
        audited.extend(victims)
        raise KeyboardInterrupt

    monkeypatch.setattr(auditing, "audit", audit)
    monkeypatch.setattr(command, "_load", lambda *_: ({"plain": victim}, {}, clips))
    monkeypatch.setattr(command, "natural_motion", lambda *_: None)
    monkeypatch.setattr(demo, "harden", lambda *arguments, **options: hard)
    assert main(["audit", *filter(None, [named]), "--out", str(tmp_path / "run")]) == 130
    assert audited == (["plain"] if named else ["plain", "hard"])


def test_it_is_fitted_on_clips_that_nobody_audits():
    splits = fb.data.datasets[demo.DATA].splits
    assert splits[demo.PART] == f"!{splits['test']}"
