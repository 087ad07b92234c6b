"""The ledger: nothing is lost, nothing is half there, nothing is overwritten."""

import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

import audits_for_tests
from funnybone.auditing import audit
from funnybone.auditing.ledger import CLIPS, LEDGER, SHARDS, Ledger
from funnybone.auditing.run import RESULT
from funnybone.errors import DataError


def everything(folder):
    """All rows of a folder, timings aside, and the adversarial clips themselves."""
    connection = sqlite3.connect(folder / LEDGER)
    connection.row_factory = sqlite3.Row
    rows = [{**row, "seconds": 0} for row in connection.execute("SELECT * FROM results ORDER BY key")]
    rest = {
        table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall() for table in ("clean", "shards")
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
    assert not list(tmp_path.glob("**/*.partial"))
    # While one process was at work, another one was refused.
    assert report["refused"] == [
        f"{tmp_path / 'timed'}: another process is auditing into it; wait for it, or choose another --out"
    ]


def test_a_finished_audit_attacks_nothing_again(folder, monkeypatch):
    before = everything(folder)
    monkeypatch.setattr("funnybone.auditing.executors.attack", None)
    calls = []
    done = again(folder, progress=lambda *told: calls.append(told))
    assert everything(folder) == before
    assert calls == [("tight", 70, 13, 70), ("wide", 70, 70, 70)]
    assert done.result.victims[0].attacks[1].succeeded == 70


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


def in_ledger(statement):
    def damage(folder):
        with sqlite3.connect(folder / LEDGER) as connection:
            connection.execute(statement)
        connection.close()

    return damage


def first_shard(folder):
    return min((folder / SHARDS).iterdir())


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: (folder / LEDGER).write_bytes(b"not a database " * 400), "ledger.sqlite: .*not a database"),
        (lambda folder: cut(folder / LEDGER), "ledger.sqlite: .*damaged"),
        (lambda folder: cut(folder / LEDGER, 0), "ledger.sqlite: empty, though the folder holds results"),
        (lambda folder: (folder / LEDGER).unlink(), "holds parts of an audit, but no ledger.sqlite"),
        (in_ledger("PRAGMA user_version = 99"), "ledger.sqlite: schema version is 99, .* writes 1"),
        (in_ledger("DROP TABLE results"), "ledger.sqlite: .*no such table: results"),
        (in_ledger("DELETE FROM results WHERE clip = 'clip3'"), "ledger.sqlite: 31 rows for slow-tight-0000"),
        (in_ledger("DELETE FROM meta"), "ledger.sqlite: no entry 'identity' in table meta"),
        (lambda folder: first_shard(folder).unlink(), "slow-tight-0000-.*safetensors: missing"),
        (lambda folder: cut(first_shard(folder)), "slow-tight-0000-.*safetensors: cut or changed"),
        (lambda folder: change_a_byte(first_shard(folder)), "slow-tight-0000-.*safetensors: cut or changed"),
        (lambda folder: (folder / CLIPS).unlink(), "clips.safetensors: no such file"),
        (lambda folder: cut(folder / CLIPS), "clips.safetensors: not a file of clips"),
        (lambda folder: change_a_byte(folder / CLIPS), "clips.safetensors: not the clips of this audit"),
    ],
)
def test_damage_is_named_and_nothing_is_overwritten(folder, damage, what):
    damage(folder)
    before = {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}
    with pytest.raises(DataError, match=what) as error:
        again(folder)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in folder.glob("**/*") if path in before} == before


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path):
    (tmp_path / "file").write_text("something of the user's")
    with pytest.raises(DataError, match=r"file: .*choose another --out"):
        again(tmp_path / "file")


def test_shards_are_plain_safetensors(folder):
    tensors = load_file(first_shard(folder))
    assert tensors["xyz"].shape == (32, 1, 8, 17, 3)


def test_several_processes_come_to_the_same_rows(tmp_path, folder):
    calls = []
    again(tmp_path / "processes", executor="process", workers=2, progress=lambda *told: calls.append(told))
    with Ledger.read(folder) as inline, Ledger.read(tmp_path / "processes") as processes:
        for entry in ("tight", "wide"):
            for one, other in zip(inline.rows("slow", entry), processes.rows("slow", entry), strict=True):
                kept = ("distances", "seconds", "violation")
                plain = [{k: v for k, v in dataclasses.asdict(row).items() if k not in kept} for row in (one, other)]
                assert plain[0] == plain[1]
                assert one.distances == pytest.approx(other.distances, rel=1e-4, abs=1e-7, nan_ok=True)
    assert calls[-1][1:] in {(70, 70, 70), (70, 13, 70)}
    assert len(calls) == 6


def test_a_victim_that_cannot_travel_is_refused_before_any_work(tmp_path):
    victim = audits_for_tests.victim()
    victim.preprocess = lambda xyz: xyz
    with pytest.raises(DataError, match=r"cannot be sent to another process .*inline"):
        audit(
            victim,
            audits_for_tests.clips(),
            suite=audits_for_tests.small_suite(),
            out=tmp_path / "a",
            executor="process",
        )
