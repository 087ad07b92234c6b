"""The ledger: nothing is lost, nothing is half there, nothing is overwritten."""

import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

import audits_for_tests
import funnybone as fb
from funnybone.auditing import audit, executors, files, run
from funnybone.auditing.folder import CLIPS, LEDGER, LOCK, REPORT, RESULT, SHARDS, readable
from funnybone.auditing.ledger import Ledger
from funnybone.errors import DataError
from funnybone.report.folder import write_report


def everything(folder):
    """All rows of a folder, timings aside, and the adversarial clips themselves."""
    connection = sqlite3.connect(folder / LEDGER)
    connection.row_factory = sqlite3.Row
    rows = [{**row, "seconds": 0} for row in connection.execute("SELECT * FROM results ORDER BY key")]
    rest = {
        table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()
        for table in ("clean", "shards", "answers")
    }
    connection.close()
    figures = json.loads((folder / RESULT).read_text())
    for victim in figures["victims"]:
        for attack in victim["attacks"]:
            attack["seconds"] = 0
    shards = {path.name: path.read_bytes() for path in (folder / SHARDS).iterdir()}
    return rows, {name: list(map(tuple, found)) for name, found in rest.items()}, figures, shards


def again(folder, **settings):
    """The same audit as in ``folder``, on a victim that does not take its time."""
    settings = {"suite": audits_for_tests.small_suite(), "out": folder, **settings}
    return audit(audits_for_tests.victim(), audits_for_tests.clips(), **settings)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pattern") / "audit"
    again(folder)
    return folder


@pytest.fixture
def folder(tmp_path, pattern):
    return shutil.copytree(pattern, tmp_path / "audit")


def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_rows(tmp_path):
    program = Path(audits_for_tests.__file__)
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, timeout=120, check=True)
    report = json.loads(done.stdout)
    assert all(report["killed"])
    whole = everything(tmp_path / "whole")
    assert len(whole[0]) == 2 * audits_for_tests.CLIPS
    assert everything(tmp_path / "pieces") == whole
    assert everything(tmp_path / "timed") == whole
    with_surrogates = everything(tmp_path / "shown-whole")
    assert everything(tmp_path / "shown-pieces") == with_surrogates
    assert len(with_surrogates[0]) == 4 * 40  # the victim, two surrogates, their ensemble
    assert len(with_surrogates[1]["answers"]) == 3 * 3 * 2  # surrogates, targets, chunks
    assert not list(tmp_path.glob("**/*.partial"))
    # While one process was at work, another one was refused.
    assert report["refused"] == [
        f"{tmp_path / 'timed'}: another process is auditing into it; wait for it, or choose another --out"
    ]


class Failing(fb.TorchVictim):
    """Answers so many questions, then raises."""

    def __init__(self, answers, error, pause):
        plain = audits_for_tests.victim()
        super().__init__(plain.module, skeleton=plain.skeleton, classes=plain.classes, name=plain.name)
        self.answers, self.error, self.pause = answers, error, pause

    def logits(self, xyz):
        time.sleep(self.pause)
        self.answers -= 1
        if self.answers < 0:
            raise self.error
        return super().logits(xyz)


# The audit asks some 65 times, 5 of them before the first of its six chunks.
@pytest.mark.parametrize(
    ("answers", "finished", "error", "executor"),
    [
        (30, 1, RuntimeError("CUDA error: out of memory"), "inline"),
        (50, 3, TimeoutError("no answer"), "inline"),
        (63, 5, RuntimeError("nearly done"), "inline"),
        (45, 2, TimeoutError("no answer"), "process"),
    ],
)
def test_a_victim_that_fails_midway_loses_no_finished_chunk(
    tmp_path, pattern, monkeypatch, answers, finished, error, executor
):
    folder = tmp_path / "audit"
    failing = Failing(answers, error, 0.01 if executor == "process" else 0)  # the parent has time to write
    assert failing.fingerprint == audits_for_tests.victim().fingerprint
    clips, suite = audits_for_tests.clips(), audits_for_tests.small_suite()
    with pytest.raises(type(error), match=str(error)):
        audit(failing, clips, suite=suite, out=folder, executor=executor, workers=1)
    assert not (folder / RESULT).exists()
    with Ledger.read(folder) as ledger:
        done = ledger.done()
        kept = [row for entry in ("tight", "wide") for row in ledger.rows("slow", entry)]
    shards = {path.name: path.read_bytes() for path in (folder / SHARDS).iterdir()}
    assert len(done) == len(shards) == finished
    attack, attacked = executors.attack, []

    def remember(chunk, *arguments):
        attacked.append(chunk.key)
        return attack(chunk, *arguments)

    monkeypatch.setattr(executors, "attack", remember)
    again(folder)
    assert len(attacked) == 6 - finished
    assert not done & set(attacked)
    with Ledger.read(folder) as ledger:
        after = [row for entry in ("tight", "wide") for row in ledger.rows("slow", entry)]
    assert [row for row in after if row.key in {row.key for row in kept}] == kept  # timings as well
    assert everything(folder) == everything(pattern)
    assert shards.items() <= everything(folder)[3].items()


def test_a_finished_audit_attacks_nothing_again(folder, monkeypatch):
    before = everything(folder)
    monkeypatch.setattr("funnybone.auditing.executors.attack", None)
    calls = []
    done = again(folder, progress=lambda *told: calls.append(told))
    assert everything(folder) == before
    assert calls == [("tight", 70, 13, 70), ("wide", 70, 70, 70)]
    assert done.result.victims[0].attacks[1].succeeded == 70


@pytest.fixture(scope="module")
def shown_pattern(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown") / "audit"
    audits_for_tests.run_shown(folder)
    return folder


@pytest.fixture
def shown(tmp_path, shown_pattern):
    return shutil.copytree(shown_pattern, tmp_path / "shown")


def test_a_finished_audit_with_surrogates_attacks_and_asks_nothing_again(shown, monkeypatch):
    before = everything(shown)
    monkeypatch.setattr("funnybone.auditing.executors.attack", None)
    monkeypatch.setattr("funnybone.auditing.asking.judge", None)
    calls = []
    done = audits_for_tests.run_shown(shown, progress=lambda *told: calls.append(told))
    assert everything(shown) == before
    assert [told for told in calls if told[0] == "a: far"] == [("a: far", 40, 40, 40)]
    assert calls[-1] == ("a+b: far, shown to b", 40, calls[-1][2], 40)
    assert [len(attack.cells) for attack in done.result.transfer] == [9]
    with pytest.raises(DataError, match=r"holds another audit \(other surrogates\)"):
        audit(audits_for_tests.victim(), audits_for_tests.clips()[:40], suite=audits_for_tests.shown_suite(), out=shown)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("DELETE FROM answers WHERE target = 'b' AND shard LIKE 'a-far-0001-%'", "32 answers of b to far on a, though"),
        ("UPDATE answers SET said = '[]'", "table answers, '.*' to .*: said has 0 answers to (32|8) clips"),
        ("UPDATE answers SET said = replace(said, ', 0]', ', 2]')", "table answers, .*: said is no list of answers"),
        ("UPDATE answers SET target = 'c' WHERE target = 'b'", "table answers: of 'c' to .*, which is no part of this"),
        (
            "UPDATE answers SET shard = (SELECT shard FROM results WHERE entry = 'tight' AND clip_index < 8 LIMIT 1)"
            " WHERE rowid = 1",
            "table answers: of 'slow' to slow-tight-0000-.*, which is no part of this audit",
        ),
    ],
)
def test_damaged_answers_are_named(shown, change, what):
    in_ledger(change)(shown)
    before = everything_there(shown)
    with pytest.raises(DataError, match=what) as error:
        write_report(shown)
    assert "\n" not in str(error.value)
    if "though" not in what:  # which is work to be done again
        with pytest.raises(DataError, match=what):
            audits_for_tests.run_shown(shown)
    assert everything_there(shown) == before


def test_answers_are_to_the_stored_clips(shown):
    targets = {"slow": audits_for_tests.victim(), **audits_for_tests.surrogates()}
    with Ledger.read(shown) as ledger:
        clips = ledger.clips()
        for surrogate in ("a", "b", "a+b"):
            rows = ledger.rows(surrogate, "far")
            moved = torch.stack([ledger.adversarial(row) for row in rows])
            for name, target in targets.items():
                said = ledger.answers_to(rows, name)
                assert [answer.right for answer in said] == (target.labels(clips.xyz) == clips.labels).tolist()
                assert [answer.prediction for answer in said] == target.labels(moved).tolist()
                assert [answer.fooled for answer in said] == (target.labels(moved) != clips.labels).tolist()


def test_rows_keep_every_figure_of_the_outcome(folder):
    attack = audits_for_tests.small_suite().entries[0]
    with Ledger.read(folder) as ledger:
        rows, clips = ledger.rows("slow", "tight"), ledger.clips()
        moved = torch.stack([ledger.adversarial(row) for row in rows])
    assert [row.clip for row in rows] == list(clips.ids)
    assert [row.label for row in rows] == clips.labels.tolist()
    assert attack.threat.violation(clips.xyz, moved).tolist() == [row.violation for row in rows]
    predicted = audits_for_tests.victim().labels(moved)
    assert predicted.tolist() == [row.prediction for row in rows]
    assert [bool(success) for success in predicted != clips.labels] == [row.success for row in rows]
    change = (moved - clips.xyz).norm(dim=-1)
    mean = [float(one[valid].mean()) for one, valid in zip(change, clips.valid, strict=True)]
    assert mean == pytest.approx([row.distances["position_m"] for row in rows], rel=1e-5)


def test_what_attacks_leave_alone_is_stored_bit_for_bit(folder):
    with Ledger.read(folder) as ledger:
        rows, clips = ledger.rows("slow", "wide"), ledger.clips()
        moved = torch.stack([ledger.adversarial(row) for row in rows])
    assert torch.equal(moved[~clips.valid], clips.xyz[~clips.valid])


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"seed": 7}, "seed 0 there, 7 here"),
        ({"limit": 69}, "limit None there, 69 here"),
        ({"suite": audits_for_tests.small_suite(steps=13)}, "other attacks"),
    ],
)
def test_the_folder_of_another_audit_is_refused(folder, settings, what):
    before = everything(folder)
    with pytest.raises(DataError, match=f"holds another audit .*{what}.*choose another --out"):
        again(folder, **settings)
    assert everything(folder) == before


def test_another_victim_or_other_data_are_another_audit(folder):
    clips = audits_for_tests.clips()
    suite = audits_for_tests.small_suite()
    victim = audits_for_tests.victim()
    with torch.no_grad():
        victim.module.module.plane.offset += 1e-3
    with pytest.raises(DataError, match="other victims"):
        audit(victim, clips, suite=suite, out=folder)
    moved = clips.with_xyz(clips.xyz * 1.0000002)
    with pytest.raises(DataError, match="other data"):
        audit(audits_for_tests.victim(), moved, suite=suite, out=folder)


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def in_ledger(*statements):
    def damage(folder):
        with sqlite3.connect(folder / LEDGER) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return damage


def first_shard(folder):
    return min((folder / SHARDS).iterdir())


# What a reader cannot tell from an audit that has not begun, or from another audit, a writer can.
AT_WRITING = [
    (lambda folder: cut(folder / LEDGER, 0), "ledger.sqlite: empty, though the folder holds results"),
    (lambda folder: (folder / LEDGER).unlink(), "holds parts of an audit, but no ledger.sqlite"),
    (lambda folder: change_a_byte(folder / CLIPS), "clips.safetensors: not the clips of this audit"),
    (in_ledger("UPDATE meta SET value = '[]' WHERE name = 'identity'"), "ledger.sqlite: table meta, entry identity"),
]
AT_BOTH = [
    (lambda folder: (folder / LEDGER).write_bytes(b"not a database " * 400), "ledger.sqlite: .*not a database"),
    (lambda folder: cut(folder / LEDGER), "ledger.sqlite: .*damaged"),
    (in_ledger("PRAGMA user_version = 99"), "ledger.sqlite: schema version is 99, .* writes 3"),
    (in_ledger("DROP TABLE results"), "ledger.sqlite: .*no such table: results"),
    (in_ledger("DELETE FROM results WHERE clip = 'clip3'"), "ledger.sqlite: 31 rows for slow-tight-0000"),
    (in_ledger("DELETE FROM meta"), "ledger.sqlite: no entry '(identity|about)' in table meta"),
    (lambda folder: first_shard(folder).unlink(), "slow-tight-0000-.*safetensors: missing"),
    (lambda folder: cut(first_shard(folder)), "slow-tight-0000-.*safetensors: cut or changed"),
    (lambda folder: change_a_byte(first_shard(folder)), "slow-tight-0000-.*safetensors: cut or changed"),
    (lambda folder: (folder / CLIPS).unlink(), "clips.safetensors: no such file"),
    (lambda folder: cut(folder / CLIPS), "clips.safetensors: not a file of clips"),
    *(
        (
            in_ledger(f"UPDATE results SET {change} WHERE entry = 'tight' AND clip_index = 40"),
            f"ledger.sqlite: .*{what}",
        )
        for change, what in (
            ("clip_index = 99", "table results, row 41: clip_index is 99, the largest is 69"),
            ("clip_index = -1", "table results, row 41: clip_index is -1"),
            ("clip_index = 69", "clip 'clip40' with clip_index 69 and label 0; .* is 'clip69' with label 1"),
            ("clip = 'other'", "clip 'other' with clip_index 40"),
            ("label = 77", "table results, row 41: label is 77, the largest is 1"),
            ("label = 1, attacked = 0, success = 0", "clip 'clip40' with clip_index 40 and label 1"),
            ("prediction = 2", "row 41: prediction is 2"),
            ("clean_prediction = 1", "row 41: attacked is 1, though clean_prediction is not the label"),
            ("distances = '[]'", r"row 41: distances is '\[\]'"),
            ("distances = 'x'", "row 41: distances is 'x'"),
            ('distances = \'{"position_m": "far"}\'', "row 41: distances is"),
            ("violation = 'abc'", "row 41: violation is 'abc', which no audit writes"),
            ("violation = 9e999", "row 41: violation is inf"),
            ("seconds = x'00'", "row 41: seconds is b"),
            ("steps = 1.5", "row 41: steps is 1.5"),
            ("success = 'yes'", "row 41: success is 'yes', neither 0 nor 1"),
            ("attacked = 0, success = 1", "row 41: success is 1 where attacked is 0"),
            ("victim = 'nobody'", "'tight' on 'nobody', which is no part of this audit"),
            ("shard = '../../../w.safetensors'", "row 41: shard is '../../../w.safetensors', not the name of a file"),
            ("shard = 'w.safetensors'", "shard_row 8 of w.safetensors, which holds 0 clips"),
            ("shard_row = 32", "shard_row 32 of slow-tight-0001-.*, which holds 32 clips"),
        )
    ),
    (in_ledger("DELETE FROM results"), "ledger.sqlite: 0 rows for slow-tight-0000"),
    (
        in_ledger("UPDATE shards SET shard = '../x' WHERE shard LIKE 'slow-tight-0002-%'"),
        "table shards: shard is '../x', not the name of",
    ),
    (in_ledger("UPDATE shards SET clips = 'many'"), "table shards: clips is 'many'"),
    (in_ledger("UPDATE clean SET prediction = 9 WHERE clip_index = 3"), "table clean, clip_index 3: prediction is 9"),
    (in_ledger("UPDATE clean SET label = 'x' WHERE clip_index = 3"), "table clean, clip_index 3: label is 'x'"),
    (in_ledger("UPDATE clean SET label = 1 - label"), "table clean: the labels of victim 'slow' are not those"),
    (in_ledger("DELETE FROM clean WHERE clip_index = 3"), "table clean: not one row for each of the 70 clips"),
    (in_ledger("UPDATE meta SET value = '{}' WHERE name = 'about'"), "entry about: field data: Field required"),
    (in_ledger("UPDATE meta SET value = 'x' WHERE name = 'about'"), "ledger.sqlite: not a ledger that can be read"),
    (
        in_ledger("UPDATE meta SET value = json_set(value, '$.data.n', 71) WHERE name = 'about'"),
        "entry about: field data: not the clips|clips.safetensors: not the clips",
    ),
]
# Of an audit that is not finished, this is work to be done again.
AT_READING = [
    (in_ledger("DELETE FROM results", "DELETE FROM shards"), "0 rows of tight on slow, though the audit is finished"),
    (in_ledger("DELETE FROM clean"), "table clean: no rows of victim 'slow', though the audit is finished"),
    (
        lambda folder: change_a_byte(folder / CLIPS),
        "clips.safetensors: not the clips of this audit|not a file of clips",
    ),
    (lambda folder: (folder / LEDGER).unlink(), "no audit in there"),
    (lambda folder: cut(folder / LEDGER, 0), "ledger.sqlite: schema version is 0"),
    (lambda folder: (folder / RESULT).write_text("{}"), "audit.json: field seed: Field required; run the audit again"),
    (lambda folder: (folder / RESULT).write_bytes(b"\xff"), "audit.json: field the whole: not UTF-8 text"),
]


def everything_there(folder):
    return {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


@pytest.mark.parametrize(("damage", "what"), [*AT_WRITING, *AT_BOTH])
def test_damage_is_named_and_nothing_is_overwritten(folder, damage, what):
    damage(folder)
    before = everything_there(folder)
    with pytest.raises(DataError, match=what) as error:
        again(folder)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in folder.glob("**/*") if path in before} == before


@pytest.mark.parametrize(("damage", "what"), [*AT_READING, *AT_BOTH])
def test_no_report_is_made_of_a_damaged_folder(folder, damage, what):
    damage(folder)
    before = everything_there(folder)
    with pytest.raises(DataError, match=what) as error:
        write_report(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert everything_there(folder) == before


def test_reading_leaves_no_files_beside_the_ledger(folder):
    before = set(everything_there(folder))
    with Ledger.read(folder) as ledger:
        assert len(ledger.rows("slow", "tight")) == 70
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            ledger._connection.execute("DELETE FROM clean")
    write_report(folder)
    assert set(everything_there(folder)) == before | {folder / REPORT}


def test_a_victim_that_changes_unseen_is_refused(folder, monkeypatch):
    before = everything(folder)

    def predict(*arguments):
        predicted, logits = run.predict_whole(*arguments)
        return torch.cat([1 - predicted[:5], predicted[5:]]), logits

    monkeypatch.setattr(run, "predict_whole", run.predict, raising=False)
    monkeypatch.setattr(run, "predict", predict)
    with pytest.raises(
        DataError, match=r"'slow' has changed .* clip0 'right', then 'left' \(.* 5 of 70 .*another --out"
    ):
        again(folder)
    assert everything(folder) == before


def test_a_victim_that_answers_by_chance_keeps_its_first_answers(folder):
    with Ledger.read(folder) as ledger:
        said = ledger.clean("slow")
        ledger.record_clean("slow", audits_for_tests.clips(), [0] * 70, stochastic=True)
        assert ledger.clean("slow") == said


@pytest.mark.parametrize("name", [RESULT, REPORT])
def test_files_of_the_user_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("my own")
    with pytest.raises(DataError, match=rf"no ledger.sqlite \({name}\); move it away, or choose another --out"):
        again(tmp_path)
    assert {path.name for path in everything_there(tmp_path)} == {name, LOCK}
    assert (tmp_path / name).read_text() == "my own"


def test_a_full_disk_is_said_so_and_the_audit_goes_on_after(folder, tmp_path, monkeypatch):
    begin = Ledger._begin

    def small(self, *arguments):
        begin(self, *arguments)
        pages = self._select("PRAGMA page_count")[0][0]
        self._connection.execute(f"PRAGMA max_page_count = {pages + 4}")

    monkeypatch.setattr(Ledger, "_begin", small)
    with pytest.raises(DataError, match=r"ledger.sqlite: cannot write \(.*full: disk full or no permission\?\)") as e:
        again(tmp_path / "full")
    assert "damaged" not in str(e.value)
    monkeypatch.undo()
    again(tmp_path / "full")
    assert everything(tmp_path / "full") == everything(folder)


@pytest.mark.parametrize("code", ["IOERR", "IOERR_WRITE", "FULL", "READONLY", "READONLY_DBMOVED", "CANTOPEN"])
def test_what_the_disk_refuses_is_not_called_damage(tmp_path, code):
    error = sqlite3.OperationalError("sqlite's own words")
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{code}")
    said = r"cannot write \(sqlite's own words: disk full or no permission\?\)"
    with pytest.raises(DataError, match=said), readable(tmp_path / LEDGER):
        raise error


def test_a_failing_rollback_does_not_hide_the_first_error(folder):
    ledger = Ledger(folder, sqlite3.connect(folder / LEDGER, isolation_level=None))

    def fails():
        with ledger._transaction():
            ledger._connection.execute("ROLLBACK")  # as sqlite does by itself when the disk is full
            raise RuntimeError("the first")

    with ledger, pytest.raises(RuntimeError, match="the first"):
        fails()


def test_a_file_that_cannot_be_written_is_said_so(tmp_path):
    with pytest.raises(DataError, match=r"x: cannot write \(No space left on device\); make room"):
        files.replace(tmp_path / "x", lambda unfinished: Path("/dev/full").write_text("something"))


def test_without_posix_locks_an_audit_is_refused_and_a_report_is_not(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(DataError, match="audits need a POSIX system"):
        again(tmp_path / "never")
    assert not (tmp_path / "never").exists()
    assert write_report(folder).is_file()


def test_cores_are_counted_where_the_system_does_not_say_which_it_gives(monkeypatch):
    assert executors._cores() >= 1
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert executors._cores() == 6
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert executors._cores() == 1


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path):
    (tmp_path / "file").write_text("something of the user's")
    with pytest.raises(DataError, match=r"file: .*choose another --out"):
        again(tmp_path / "file")


def test_shards_are_plain_safetensors(folder):
    tensors = load_file(first_shard(folder))
    assert tensors["xyz"].shape == (32, 1, 8, 17, 3)


@pytest.mark.parametrize("executor", ["process", pytest.param("ray", marks=pytest.mark.slow)])
def test_several_processes_come_to_the_same_rows(tmp_path, folder, executor):
    calls = []
    again(tmp_path / executor, executor=executor, workers=2, progress=lambda *told: calls.append(told))
    with Ledger.read(folder) as inline, Ledger.read(tmp_path / executor) as processes:
        for entry in ("tight", "wide"):
            for one, other in zip(inline.rows("slow", entry), processes.rows("slow", entry), strict=True):
                kept = ("distances", "seconds", "violation")
                plain = [{k: v for k, v in dataclasses.asdict(row).items() if k not in kept} for row in (one, other)]
                assert plain[0] == plain[1]
                assert one.distances == pytest.approx(other.distances, rel=1e-4, abs=1e-7, nan_ok=True)
    assert calls[-1][1:] in {(70, 70, 70), (70, 13, 70)}
    assert len(calls) == 6


@pytest.mark.parametrize("executor", ["process", "ray"])
def test_a_victim_that_cannot_travel_is_refused_before_any_work(tmp_path, executor):
    victim = audits_for_tests.victim()
    victim.preprocess = lambda xyz: xyz
    with pytest.raises(DataError, match=r"cannot be sent to another process .*inline"):
        audit(
            victim,
            audits_for_tests.clips(),
            suite=audits_for_tests.small_suite(),
            out=tmp_path / "a",
            executor=executor,
        )


def test_ray_is_asked_for_by_name_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r"executor 'ray' needs ray; .*funnybone\[ray\]"):
        again(tmp_path / "ray", executor="ray")
