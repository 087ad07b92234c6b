"""Warnings: given where they are due, and alone."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

import funnybone as fb
from funnybone.auditing import checks, create_suite
from funnybone.auditing.answers import Answer
from funnybone.auditing.schema import PlannedSurrogate, VictimResult
from funnybone.auditing.statistics import attack_result, surrogate_result, transfer_result, worst_case
from funnybone.testing import linear_victim, random_clips
from rows_for_tests import ENTRY, quiet, row, summary


@pytest.fixture
def small():
    return random_clips(8)


def codes(rows=(), clean=1.0, data=None, observed=None, skipped=(), **entry):
    entry = ENTRY.model_copy(update=entry)
    attacks = [attack_result(entry, rows)] if rows else []
    victim = VictimResult(
        name="v",
        defense=None,
        parameters=None,
        clean={"accuracy": clean, "ci95": (0, 1), "n": 100},
        attacks=attacks,
        worst_case=worst_case([rows]),
    )
    found = checks.warnings(
        data or summary(), [entry], [victim], {"v": observed or quiet()}, skipped, {("v", "e"): list(rows)}
    )
    return [warning.code for warning in found]


def fallen(n, **values):
    return [row(index, prediction=1, **{"steps": 3, **values}) for index in range(n)]


def test_a_clean_audit_has_no_warnings():
    assert codes(fallen(20)) == []


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("SYNTHETIC_DATA", {"data": summary(synthetic=True)}),
        ("SMALL_SAMPLE", {"data": summary(n=48)}),
        ("LOW_CLEAN_ACCURACY", {"clean": 0.69}),
        ("ENTRY_SKIPPED", {"skipped": [("v", "x", "why"), ("other", "x", "why")]}),
        ("ZERO_GRADIENT", {"rows": [*fallen(18), *fallen(2, zero=True)]}),
        ("OUTSIDE_THREAT_MODEL", {"rows": [*fallen(39), *fallen(1, violation=1e-3)]}),
        (
            "UNDER_ITERATED",
            {"rows": [*fallen(37), *fallen(2, steps=18), *fallen(2, steps=19), *fallen(1, steps=20), row(9)]},
        ),
        ("UNBROKEN", {"rows": [*fallen(18), row(18), row(19)]}),
        ("PROBABILITIES_NOT_LOGITS", {"observed": quiet(probabilities=True)}),
        ("NONDETERMINISTIC", {"observed": quiet(repeat_difference=1e-5)}),
        ("STOCHASTIC_VICTIM", {"observed": quiet(stochastic=True, repeat_difference=1.0)}),
        ("INEXACT_GRADIENTS", {"observed": quiet(exact_gradients=False)}),
        ("SATURATED_LOGITS", {"observed": quiet(saturated=0.06)}),
        ("LOST_SUCCESSES", {"rows": [*fallen(58), row(58, claimed=True), row(59, claimed=True)]}),
        (
            "TARGET_IS_TRUTH",
            {
                "rows": [*(row(at, prediction=1, reference=1) for at in range(8)), row(8, attacked=False)],
                "goal": "sa:1",
            },
        ),
    ],
)
def test_each_warning_is_given_where_it_is_due_and_alone(code, values):
    assert codes(**values) == [code]


def test_half_widths_of_small_samples_are_those_of_wilson():
    (warning,) = checks.warnings(summary(n=48), [], [], {}, [], {})
    assert "±13.6 points" in warning.message


def test_thresholds_do_not_warn_below_themselves():
    assert codes([*fallen(19), *fallen(1, zero=True)]) == []  # 5 % is not more than 5 %
    assert codes([*fallen(38), *fallen(1, steps=20), row(9)]) == []
    assert codes([*fallen(38), *fallen(2, steps=20)]) == []  # all fell
    assert codes([*fallen(38), *fallen(1, steps=20), row(9)], settings={}) == []
    assert codes(data=summary(n=50), clean=0.7) == []
    assert codes(observed=quiet(saturated=0.05)) == []
    assert codes([*fallen(98), *(row(at, claimed=True) for at in (98, 99))]) == []  # 2 % is not more than 2 %
    assert codes([*fallen(38), row(38, claimed=True, violation=0.1)]) == ["OUTSIDE_THREAT_MODEL"]


def test_every_code_is_explained_and_nothing_else():
    text = (Path(__file__).parents[1] / "docs" / "warnings.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) != []
    assert set(re.findall(r"^## (.*)$", text, re.MULTILINE)) == {code.value for code in checks.Code}


class Softmax(torch.nn.Module):
    def __init__(self, module, noise=0.0):
        super().__init__()
        self.module, self.noise = module, noise

    def forward(self, xyz):
        logits = self.module(xyz)
        return logits.softmax(1) if not self.noise else logits + self.noise * torch.randn(logits.shape)


def test_probabilities_and_noise_are_seen(small):
    plane = linear_victim(small)
    for module, seen in ((Softmax(plane.module), (True, False)), (Softmax(plane.module, 1e-3), (False, True))):
        victim = fb.TorchVictim(module, skeleton=small.skeleton, classes=small.classes)
        observed = checks.observe(victim, small, victim.logits(small.xyz))
        assert (observed.probabilities, observed.repeat_difference > 1e-6) == seen
    observed = checks.observe(plane, small, plane.logits(small.xyz))
    assert observed == quiet()
    assert checks.observe(plane, small, 1000 * plane.logits(small.xyz)).saturated == 1


# What one attack's figure says of another's


def compared(*attacks):
    """Codes and messages for attacks of a hundred clips, each a count of the fallen and what its entry is."""
    entries = [ENTRY.model_copy(update={"name": f"e{place}", **entry}) for place, (_, entry) in enumerate(attacks)]
    rows = {
        ("v", entry.name): [*fallen(count), *(row(at) for at in range(count, 100))]
        for entry, (count, _) in zip(entries, attacks, strict=True)
    }
    results = [attack_result(entry, rows["v", entry.name]) for entry in entries]
    clean = {"accuracy": 1.0, "ci95": (0, 1), "n": 100}
    worst = worst_case(list(rows.values()))
    victim = VictimResult(name="v", defense=None, parameters=None, clean=clean, attacks=results, worst_case=worst)
    found = checks.warnings(summary(), entries, [victim], {"v": quiet()}, [], rows)
    return [warning for warning in found if warning.code != "UNBROKEN"]


def balls(*counts, family="Linf", **entry):
    return [
        (count, {"ball": (family, 0.01 * (place + 1)), "threat": f"{family} {place}", **entry})
        for place, count in enumerate(counts)
    ]


def test_a_larger_radius_has_to_fell_more():
    assert compared(*balls(20, 18, 60)) == []  # two clips of a hundred are chance
    (warning,) = compared(*balls(20, 17, 60))
    assert warning.code == "BUDGET_WITHOUT_EFFECT"
    assert "e1 fells 17 clips and e0 20" in warning.message
    (warning,) = compared(*balls(0, 0, 0))
    assert (warning.code, "3 times the radius" in warning.message) == ("BUDGET_WITHOUT_EFFECT", True)
    assert compared(*balls(97, 97, 97)) == []  # next to nothing is left to fell
    assert compared(*balls(20), *balls(0, family="L2")) == []
    assert compared(*balls(20), (0, {"ball": ("Linf", 0.03), "settings": {"steps": 5}})) == []


def test_more_steps_have_to_fell_more():
    def steps(*pairs):
        return [(count, {"settings": {"steps": steps, "size": 1}}) for steps, count in pairs]

    assert compared(*steps((10, 20), (100, 30), (50, 25))) == []
    (warning,) = compared(*steps((10, 30), (100, 20), (50, 25))[:2])
    assert (warning.code, "e1 fells 20 clips and e0 30" in warning.message) == ("MORE_STEPS_WORSE", True)


def test_the_full_suite_has_entries_that_differ_by_their_steps_alone():
    found = [entry.describe() for entry in create_suite("full").entries]
    alike = [
        (json.dumps([one["attack"], one["goal"], one["threat"], {**one["settings"], "steps": None}]), one)
        for one in found
        if "steps" in one["settings"]
    ]
    pairs = [(one, two) for (key, one), (other, two) in itertools.combinations(alike, 2) if key == other]
    assert [(one["settings"]["steps"], two["settings"]["steps"]) for one, two in pairs] == [(25, 100)]


def test_who_sees_less_has_to_fell_less():
    seeing, blind = {"access": "gradients"}, {"access": "labels", "settings": {}}
    assert compared((50, seeing), (51, blind)) == []
    (warning,) = compared((50, seeing), (54, blind))
    assert (warning.code, "e1, which sees labels, fells 54" in warning.message) == ("BLACK_BOX_STRONGER", True)
    assert compared((50, seeing), (54, {**blind, "threat": "another"})) == []
    assert compared((50, seeing), (100, {**blind, "by_distance": True})) == []  # it succeeds by its making
    assert compared((50, seeing), (60, seeing | {"settings": {}}), (54, blind)) == []
    mixed = seeing | {"settings": {"stages": ["pgd", "square"]}}  # what it fells says nothing of gradients
    (warning,) = compared((50, seeing), (60, mixed), (54, blind))
    assert warning.code == "BLACK_BOX_STRONGER"


def transferred(seeing, fooled, *, threat="t", contains=("s",), surrogate_rows=None, observed=None, clean=100):
    """Warnings where its gradients fell so many of the victim's clips, the first, and a surrogate's clips the last."""
    entry, far = (
        ENTRY.model_copy(update={"name": name, "threat": where}) for name, where in (("e", "t"), ("far", threat))
    )
    own = [*fallen(seeing), *(row(at) for at in range(seeing, 100))]
    made = surrogate_rows or [row(at, prediction=1, victim="s", entry="far") for at in range(100)]
    said = [Answer(True, int(at >= 100 - fooled), at >= 100 - fooled) for at in range(100)]
    surrogate = PlannedSurrogate(
        name="s", defense=None, parameters=None, observed=observed or quiet(), contains=list(contains)
    )
    shown = {("s", "far", "v"): list(zip(made, said, strict=True))}
    results = [attack_result(entry, own)]
    victim = VictimResult(
        name="v",
        defense=None,
        parameters=None,
        clean={"accuracy": 1.0, "ci95": (0, 1), "n": 100},
        attacks=results,
        worst_case=worst_case([own]),
    )
    found = checks.warnings(
        summary(),
        [entry],
        [victim],
        {"v": quiet(), "s": surrogate.observed},
        [],
        {("v", "e"): own, ("s", "far"): made},
        surrogates=[surrogate_result(surrogate, [(0, int(at >= clean)) for at in range(100)])],
        transfer=[transfer_result(far, [surrogate], ["v"], shown)],
        shown=shown,
    )
    return [warning for warning in found if warning.code != "UNBROKEN"]


def test_a_surrogate_has_to_fell_less_than_the_targets_own_gradients():
    assert transferred(50, 52) == []
    (warning,) = transferred(50, 53)
    assert warning.code == "BLACK_BOX_STRONGER"
    assert "v: of the 100 clips that s gets right as well, " in warning.message
    assert "on 53, and attacks that see its own gradients, within the same threat model, on 50" in warning.message
    assert transferred(50, 53, threat="another") == []
    assert transferred(50, 53, contains=["s", "v"]) == []  # white-box
    # Compared over the clips that both get right: of the 30 that the surrogate gets wrong, its own gradients fell 30.
    made = [row(at, prediction=1, clean=int(at < 30), victim="s", entry="far") for at in range(100)]
    (warning,) = transferred(50, 50, surrogate_rows=made)
    assert "of the 70 clips" in warning.message
    assert "on 50, and attacks that see its own gradients, within the same threat model, on 20" in warning.message


def test_surrogates_are_looked_at_too():
    made = [row(at, zero=at < 6, victim="s", entry="far") for at in range(100)]
    (warning,) = transferred(50, 0, surrogate_rows=made)
    assert (warning.code, warning.message[:7]) == ("ZERO_GRADIENT", "s: far ")
    (warning,) = transferred(50, 0, observed=quiet(probabilities=True))
    assert (warning.code, warning.message[:3]) == ("PROBABILITIES_NOT_LOGITS", "s: ")
    (warning,) = transferred(50, 0, clean=60)
    assert (warning.code, warning.message[:3]) == ("LOW_CLEAN_ACCURACY", "s: ")
    assert transferred(50, 0, clean=60, contains=["a", "b"]) == []  # an ensemble: its parts are looked at
