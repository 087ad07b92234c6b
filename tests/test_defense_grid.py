"""The grid of defenses: what is counted in a cell, on victims that are easy to fool."""

import json

import defenses
import funnybone as fb
from funnybone.auditing import Entry, Suite
from funnybone.testing import linear_victim, random_clips


def test_what_a_defense_leaves_counts_what_its_base_was_fooled_by(tmp_path, monkeypatch):
    clips = random_clips(4)
    plane, aim = linear_victim(clips, distance=0.05), fb.goals.AnythingBut()
    far = fb.threat.Linf(0.2)

    def entry(name, attack, threat, **settings):
        return Entry(fb.create_attack(attack, **settings), aim, threat, name)

    weak = entry("smart", "smart", fb.threat.Linf(1e-6), steps=2)
    moved = entry("mifgsm", "mifgsm", far, steps=20, step_size=0.1, early_stop=False)
    free = (entry(defenses.FREE, "smart", fb.threat.Unbounded(), steps=5),)
    free += (entry(defenses.NEAREST, "basar", fb.threat.Unbounded(), queries=10),)
    suites = Suite("defense", (weak,), unit="metre", transfer=(moved,)), Suite("free", free, unit="metre")
    monkeypatch.setattr(defenses, "suites", lambda small: suites)
    natural = fb.metrics.learn_natural_motion(clips)
    alone = defenses.attack(plane, None, clips, natural, None, tmp_path / "alone", 0, "fp32", False)
    assert (alone["left"][0], alone["transferred"]) == (1, {})
    found = defenses.attack(plane, plane, clips, natural, None, tmp_path / "shown", 0, "fp32", False)
    assert found["transferred"] == {"mifgsm": [4, 4]}
    assert found["left"][0] == 0
    found |= {"accuracy": {"value": 1.0, "ci95": (0.7, 1.0)}, "seconds": 3.0}
    line = defenses.row(("hdm05_11", "sgn", 0, "beat"), json.loads(json.dumps(found)))
    assert "4 of 4" in line
    assert "**100.0 [51.0, 100.0]**" in line


def test_few_steps_are_of_the_same_kinds_in_the_same_ball():
    (inside, free), (few, nowhere) = defenses.suites(small=False), defenses.suites(small=True)
    assert {entry.threat for entry in (*inside.entries, *few.entries, *few.transfer)} == {inside.entries[0].threat}
    assert {entry.name for entry in few.entries} < {entry.name for entry in inside.entries}
    assert [entry.attack.name for entry in nowhere.entries] == [free.entries[0].attack.name]
    assert few.entries[-1].attack.through  # in by every way
