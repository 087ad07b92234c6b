"""Scripts of benchmarks run, and say what they promise; how fast anything is, is not looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import funnybone as fb
from funnybone.auditing import create_suite

LONG_ONES = ("accuracy_by", "black_box", "choose_basar", "choose_recipe", "front_ends", "projection", "quick_suite")
LONG_ONES += ("nobox", "smart_goals", "train_victims")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script, *arguments):
    command = [sys.executable, BENCHMARKS / f"{script}.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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


@pytest.mark.slow
def test_victims_are_compared(tmp_path):
    out = tmp_path / "victims.json"
    run("victims", "--models", "hrnn", "--clips", 1, "--repetitions", 1, "--json", out)
    assert json.loads(out.read_text())


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
