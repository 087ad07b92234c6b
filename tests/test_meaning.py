"""What an audit says it means is true of its figures, whatever they are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnybone.auditing.meaning import sentences
from funnybone.auditing.schema import AuditResult, CleanResult, Hardening, VictimResult, WorstCase
from funnybone.auditing.statistics import attack_result
from funnybone.metrics.intervals import difference, wilson
from rows_for_tests import ENTRY, row, summary

N = 56
NOBODY = Hardening(base=None, settings={}, fitted=None)


def attack(name="smart", right=50, fooled=50, n=N, millimetres=6.24):
    rows = [row(k, clean=int(k >= right), prediction=int(k < fooled), position=millimetres / 1000) for k in range(n)]
    found = attack_result(ENTRY.model_copy(update={"name": name}), rows)
    assert (found.attacked, found.succeeded) == (right, fooled)
    return found


def victim(name, right=50, left=0, n=N, *, defense=None, base=None, attacks=None):
    made = attacks if attacks is not None else [attack(right=right, fooled=right - left, n=n)]
    return VictimResult(
        name=name,
        defense=defense,
        hardening=NOBODY.model_copy(update={"base": base}) if defense else None,
        parameters=None,
        clean=CleanResult(accuracy=right / n, ci95=wilson(right, n), n=n),
        attacks=made,
        worst_case=WorstCase(robust_accuracy=left / n, robust_accuracy_ci95=wilson(left, n), n=n) if made else None,
    )


def said(*victims, n=N, **data):
    result = AuditResult(
        seed=0, suite="quick", data=summary(n=n, **data), victims=list(victims), warnings=[], environment={}
    )
    return sentences(result)


def pair(before, after, n=N):
    """Two victims, right on these clips before and left with those; the second is the first one hardened."""
    (right, left), (right_after, left_after) = before, after
    hardened = victim("plain+beat", right_after, left_after, n, defense="beat", base="plain")
    return said(victim("plain", right, left, n), hardened, n=n)


def test_an_audit_of_one_victim():
    assert said(victim("stgcn", right=55), synthetic=True) == [
        "stgcn gets 55 of 56 clean clips right, 98.2 % [90.6, 99.7]. "
        "Attacks fool it on 55 of these 55, 100.0 % [93.5, 100.0].",
        "The strongest on stgcn, smart, fools it on 55, moving joints by 6.2 mm on average.",
        "The clips are synthetic: no person was recorded, and these figures say nothing about people.",
        "In brackets, 95 % intervals: the rates that figures of 56 clips leave open.",
    ]


def test_recorded_clips_are_not_called_synthetic():
    assert not any("synthetic" in line for line in said(victim("stgcn")))


def test_positions_that_are_no_metres_are_not_called_millimetres():
    (line,) = (line for line in said(victim("stgcn"), unit="pixel") if "on average" in line)
    assert line.endswith("by 0.0 px on average.")


def test_of_attacks_that_leave_the_same_the_one_that_moves_joints_less_is_the_strongest():
    attacks = [attack("far", millimetres=12.0), attack("near", millimetres=5.0), attack("weak", fooled=10)]
    assert said(victim("stgcn", attacks=attacks))[1].startswith("The strongest on stgcn, near, fools it on 50, moving")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (victim("v", right=50, left=50), "No attack fools it on any of these, 0.0 % [0.0, 7.1]."),
        (victim("v", right=0, left=0, attacks=[attack(right=0, fooled=0)]), "Nothing was left to attack."),
        (victim("v", attacks=[]), "attacks that ask for labels or scores alone are in suite blackbox."),
    ],
)
def test_where_nothing_fell(found, says):
    first, *more = said(found)
    assert first.endswith(says)
    assert len(more) == 1


def test_a_walk_that_nothing_bounds_is_not_the_strongest_but_the_nearest():
    walk = attack("walk", millimetres=90.0).model_copy(update={"by_distance": True})
    lines = said(victim("stgcn", attacks=[walk, attack("smart", fooled=10, millimetres=120.0)]))
    assert lines[1].startswith("The strongest on stgcn, smart, fools it on 10, moving")
    assert lines[2].endswith("walk comes nearest to the clips: joints move by 90.0 mm on average.")
    alone = victim("stgcn", attacks=[walk]).model_copy(update={"worst_case": None})
    first, second, *_ = said(alone)
    assert first.endswith("clean clips right, 89.3 % [78.5, 95.0].")
    assert second == lines[2]


def test_one_clip_is_one_clip():
    assert "gets 1 of 1 clean clip right" in said(victim("v", right=1, n=1), n=1)[0]


def test_no_victims_no_sentences():
    assert said(synthetic=True) == []


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ((55, 0), (55, 0), "beat neither helped nor hurt beyond chance: "
         "0.0 % of 56 clips stay right under every attack without it and 0.0 % with it, +0.0 points [-6.4, +6.4]."),
        ((55, 5), (55, 7), "beat neither helped nor hurt beyond chance: "
         "8.9 % of 56 clips stay right under every attack without it and 12.5 % with it, +3.6 points [-8.5, +15.8]."),
        ((55, 5), (55, 40), "beat helped: "
         "8.9 % of 56 clips stay right under every attack without it and 71.4 % with it, +62.5 points [+46.0, +73.8]."),
        ((55, 40), (55, 5), "beat hurt: "
         "71.4 % of 56 clips stay right under every attack without it and 8.9 % with it, -62.5 points [-73.8, -46.0]."),
    ],
)  # fmt: skip
def test_whether_hardening_helped(before, after, says):
    lines = pair(before, after)
    assert says in lines
    assert any("may leave less" in line for line in lines) == says.startswith("beat helped")
    assert "Clean accuracy stays 98.2 %." in lines


def test_clean_accuracy_that_chance_may_have_changed_and_that_it_cannot_have():
    assert "Clean accuracy goes from 98.2 % to 96.4 %, -1.8 points [-10.5, +6.3], no more than chance can do." in pair(
        (55, 0), (54, 0)
    )
    assert "Clean accuracy goes from 98.2 % to 35.7 %, -62.5 points [-73.9, -47.3]." in pair((55, 0), (20, 0))


def test_an_attack_against_which_alone_it_helped_is_named():
    def three(*robust):
        return [attack(name, fooled=50 - left) for name, left in zip(("a", "b", "c"), robust, strict=True)]

    plain = victim("plain", attacks=three(20, 5, 0))
    hardened = victim("hard", attacks=three(0, 6, 0), defense="beat", base="plain")
    lines = said(plain, hardened)
    alone = [line for line in lines if "alone" in line]
    assert alone == [
        "Against a alone beat hurt: 35.7 % of 56 clips stay right without it and 0.0 % with it, "
        "-35.7 points [-48.8, -22.8]."
    ]
    assert any("beat neither helped nor hurt" in line for line in lines)


def test_what_cannot_be_compared_is_not_judged():
    plain = victim("plain", attacks=[attack("a"), attack("b")])
    fewer = victim("hard", attacks=[attack("a")], defense="beat", base="plain")
    assert any("Whether beat helped is not known" in line for line in said(plain, fewer))
    other = victim("hard", defense="beat", base="elsewhere")
    unsaid = victim("hard", defense="beat")
    for stranger in (other, unsaid):
        assert not any("beat" in line for line in said(plain, stranger))


counts = st.integers(0, N).flatmap(lambda right: st.tuples(st.just(right), st.integers(0, right)))


@given(before=counts, after=counts)
def test_the_verdict_is_that_of_the_interval(before, after):
    (verdict,) = (line for line in pair(before, after) if line.startswith("beat "))
    low, high = difference(before[1], after[1], N)
    assert verdict.startswith("beat helped:") == (low > 0)
    assert verdict.startswith("beat hurt:") == (high < 0)
    assert (low > 0) <= (after[1] > before[1])
    assert (high < 0) <= (after[1] < before[1])
    without, within = re.search(r": ([\d.]+) % of 56 .* without it and ([\d.]+) % with it", verdict).groups()
    assert float(without) == pytest.approx(100 * before[1] / N, abs=0.051)
    assert float(within) == pytest.approx(100 * after[1] / N, abs=0.051)


@given(found=counts)
def test_what_fell_and_what_is_left_are_all_that_was_right(found):
    right, left = found
    first = said(victim("v", right, left))[0]
    assert f"gets {right} of 56" in first
    if right > left:
        assert f"Attacks fool it on {right - left} of these {right}," in first


@pytest.mark.parametrize(
    ("before", "after", "n", "interval"),
    [
        (3, 9, 10, (0.1705, 0.8090)),
        (2, 6, 7, (0.0582, 0.8062)),
        (0, 0, 10, (-0.2775, 0.2775)),
        (0, 10, 10, (0.6075, 1.0)),
    ],
)
def test_the_interval_of_a_difference_is_that_of_its_source(before, after, n, interval):
    """Newcombe 1998, table II, method 10: its examples of equal numbers."""
    low, high = difference(before, after, n)
    assert (low, high) == pytest.approx(interval, abs=5e-5)
    assert difference(after, before, n) == pytest.approx((-high, -low))
