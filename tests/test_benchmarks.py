"""Scripts of benchmarks run, and say what they promise; how fast anything is, is not looked at."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import funnybone as fb
from funnybone.auditing import create_suite
from funnybone.defenses.retraining import held_out_by
from funnybone.testing import linear_victim, random_clips
from funnybone.training.measure import hold_out

LONG_ONES = (
    "accuracy_by",
    "beat_parts",
    "black_box",
    "choose_basar",
    "choose_recipe",
    "choose_step_size",
    "front_ends",
)
LONG_ONES += ("defenses", "projection", "quick_suite", "nobox", "smart_goals", "time_to_best", "train_victims")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script, *arguments):
    command = [sys.executable, BENCHMARKS / f"{script}.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_step_of_smart_and_whole_attacks_are_compared(tmp_path):
    out = tmp_path / "step.json"
    run("smart_step", "--clips", 2, "--repetitions", 1, "--steps", 4, "--json", out)
    result = json.loads(out.read_text())
    assert result["published_over_ours"] > 0
    assert len(set(result["successes"].values())) == 1


def test_forward_kinematics_is_compared(tmp_path):
    out = tmp_path / "forward.json"
    run("forward_kinematics", "--clips", 2, "--repetitions", 1, "--json", out)
    assert json.loads(out.read_text())["metres_apart"] < 2e-5


def test_appended_networks_are_compared_with_the_victim_alone(tmp_path):
    out = tmp_path / "beat.json"
    sizes = ("--members", 3, "--clips", 2, "--frames", 8, "--repetitions", 2)
    said = run("beat_cost", "--models", "sgn", *sizes, "--json", out)
    result = json.loads(out.read_text())
    (found,) = result["victims"].values()
    assert result["members"] == 3
    assert "sgn" in said
    assert found["ratio"] > 0
    assert found["quartiles"] == sorted(found["quartiles"])
    inputs, hidden, classes = 512, 64, 60  # of SGN's features, and of the networks
    assert found["head_parameters"] == 3 * ((inputs + 1) * hidden + (hidden + 1) * classes)


def test_distances_against_queries_are_drawn_as_far_as_an_attack_went(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    black_box = importlib.import_module("black_box")
    monkeypatch.setattr(black_box, "FIGURES", tmp_path / "figures")
    curve = {
        "queries": [1, 10, 100, 1000],
        "position_m": [0.4, 0.2, 0.1, 0.1],
        "natural_position_m": [None, 0.3, 0.2, 0.2],
    }
    never = {**curve, "natural_position_m": [None] * 4}
    found = {"near": {"queries_median": 90, "curve": curve}, "far & away": {"queries_median": 900, "curve": never}}
    shown = black_box.draw("data", "model", found)
    assert shown.endswith("](figures/queries.data.model.svg)")
    once = (tmp_path / "figures" / "queries.data.model.svg").read_text()
    assert "<svg" in once
    black_box.draw("data", "model", found)
    # A search by scores has nothing before half of the clips fell, and goes on until the last did.
    late = {**curve, "position_m": [None, None, 0.1, 0.1], "natural_position_m": [None] * 4}
    lines = []
    monkeypatch.setattr(black_box.Figure, "savefig", lambda figure, *_, **__: lines.extend(figure.axes[0].lines))
    black_box.draw("data", "model", {"late": {"queries_median": 90, "queries_most": 700, "curve": late}})
    assert lines[0].get_xdata().tolist() == [100, 700]
    assert (tmp_path / "figures" / "queries.data.model.svg").read_text() == once


def test_a_cell_of_black_boxes_survives_a_kill(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    black_box, cells = importlib.import_module("black_box"), importlib.import_module("cells")
    monkeypatch.setattr(black_box, "AT_ONCE", 1e9)  # one clip, two clips, and what is left
    clips = random_clips(5)
    natural, victim = fb.metrics.learn_natural_motion(clips), linear_victim(clips)

    def measured(results, keep, **limits):
        begun = results.all.setdefault("begun", {}).setdefault("cell", {})
        return black_box.measure(victim, clips, clips, natural, "hopskipjump steps=2 probes=20", begun, keep, **limits)

    def killed():
        killed_one.write()
        raise KeyboardInterrupt

    killed_one = cells.Results(tmp_path / "killed.json")
    with pytest.raises(KeyboardInterrupt):
        measured(killed_one, killed)
    again, straight = cells.Results(tmp_path / "killed.json"), cells.Results(tmp_path / "straight.json")
    parts = []
    found = measured(again, lambda: parts.append(len(again.all["begun"]["cell"]["clips"])), first=3)
    assert found["n"] == 3
    found = measured(again, lambda: parts.append(len(again.all["begun"]["cell"]["clips"])), first=2)
    assert found["n"] == 3  # nothing is lost
    found = measured(again, lambda: parts.append(len(again.all["begun"]["cell"]["clips"])))
    assert parts == [2, 3, 4, 5]  # none was attacked again
    expected = measured(straight, straight.write)
    assert json.loads(json.dumps(found | {"seconds": 0})) == json.loads(json.dumps(expected | {"seconds": 0}))
    assert found["succeeded"] == 5
    assert found["curve"]["position_m"][-1] == pytest.approx(found["position_median_m"], abs=1e-5)


def test_by_scores_a_clip_is_where_it_fell_from_then_on(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    black_box = importlib.import_module("black_box")
    clips = random_clips(5)
    natural, threat = fb.metrics.learn_natural_motion(clips), fb.threat.Linf(1.0)
    begun = {}
    found = black_box.measure(
        linear_victim(clips), clips, clips, natural, "square queries=50", begun, lambda: None, threat
    )
    assert found["succeeded"] == 5
    for clip in begun["clips"]:
        fell = [
            far for marked, far in zip(black_box.MARKS, clip["curve"]["position_m"], strict=True) if far is not None
        ]
        assert fell == [clip["position_m"]] * sum(mark >= clip["queries"] for mark in black_box.MARKS)
        natural_too = clip["curve"]["position_m"] if clip["on_manifold"] == 1 else [None] * len(black_box.MARKS)
        assert clip["curve"]["natural_position_m"] == natural_too


@pytest.mark.slow
def test_victims_are_compared(tmp_path):
    out = tmp_path / "victims.json"
    run("victims", "--models", "hrnn", "--clips", 1, "--repetitions", 1, "--json", out)
    assert json.loads(out.read_text())


def test_parts_of_beat_are_judged_on_clips_that_taught_it_nothing(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    parts = importlib.import_module("beat_parts")
    clips = random_clips(40)
    victim = linear_victim(clips)
    monkeypatch.setattr(parts, "RADII", (1e-6, 10.0))
    few = {"members": 1, "rounds": 1, "burn_in": 0, "steps": 2, "langevin_steps": 1, "negatives": 2, "hidden": 2}
    for settings in (None, {**few, "input": "logits"}):
        found = parts.measure(victim, clips, settings)
        assert found["n"] == len(hold_out(clips, *held_out_by(victim))[1]) < len(clips)
        assert (found["0.001 mm"]["fell"], found["10000 mm"]["fell"]) == (0, found["right"])
        assert parts.row(("data", "model", "line"), found)[:2] == ["model", "line"]


@pytest.mark.slow
@pytest.mark.parametrize("script", LONG_ONES)
def test_long_ones_start(script):
    assert "usage" in run(script, "--help")


def test_the_quick_suite_and_smart_are_as_was_chosen():
    found = json.loads((BENCHMARKS / "results" / "quick_suite.json").read_text())
    entries = {(entry.attack.name, repr(entry.threat)): entry.attack for entry in create_suite("quick").entries}
    for attack in found["attacks"]:
        chosen = next(dict(row) for row in attack["candidates"] if row["chosen"])
        ours = entries[attack["attack"], attack["threat"].replace("None", "Unbounded()")]
        assert (ours.steps, ours.step_size) == (chosen["steps"], chosen["step_size"])
    scales = next(row["scales"] for row in found["beside_pgd"]["candidates"] if row["chosen"])
    assert fb.create_attack("smart").scales == tuple(scales)
