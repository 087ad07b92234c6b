"""Audits: the choice of clips, the figures, the warnings, the report."""

import dataclasses
import getpass
import json
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch

import audits_for_tests
import funnybone as fb
from funnybone.attacks.gradient import GradientAttack
from funnybone.auditing import Entry, Suite, audit, create_suite, suite_names, suites
from funnybone.auditing.folder import RESULT
from funnybone.auditing.ledger import Ledger
from funnybone.auditing.plan import choose
from funnybone.auditing.run import summarise
from funnybone.auditing.schema import DEVIATIONS, AuditResult, PlannedVictim
from funnybone.auditing.statistics import attack_result, displacement_curve, victim_result, worst_case
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import Linf, Unbounded
from parts_for_tests import noisy
from rows_for_tests import ENTRY, quiet, row


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


HAND_MADE = [
    row(0, clean=1, prediction=1),  # wrong before: not attacked, not robust
    row(1, prediction=0, steps=20),  # withstood
    row(2, prediction=1, steps=2, queries=3, position=0.004),
    row(3, prediction=1, steps=4, queries=5, position=0.001),
    row(4, prediction=1, steps=9, queries=10, position=0.002),
    row(5, prediction=1, violation=0.5),  # fooled from outside of the threat model: no success
]


def test_figures_of_an_attack_against_a_count_by_hand():
    result = attack_result(ENTRY, HAND_MADE)
    assert (result.n, result.attacked, result.succeeded) == (6, 5, 3)
    assert result.success_rate == 3 / 5
    assert result.ci95 == pytest.approx((0.2307, 0.8824), abs=1e-4)  # Wilson, 3 of 5
    assert result.robust_accuracy == 2 / 6
    assert result.robust_accuracy_ci95 == pytest.approx((0.0968, 0.7000), abs=1e-4)
    assert (result.steps_median, result.queries_median) == (4, 5)
    assert result.position_m == pytest.approx((0.004 + 0.001 + 0.002) / 3)
    assert result.acceleration == 2.0
    assert result.joint_angle_acceleration is None
    assert result.max_violation == 0.5
    assert result.seconds == 3.0
    assert result.success_by_displacement == [(0.001, 0.2), (0.002, 0.4), (0.004, 0.6)]


def test_every_deviation_is_among_the_figures():
    clips = random_clips(2)
    measured = fb.metrics.deviations(clips, clips.xyz + 0.01)
    assert tuple(measured) == DEVIATIONS
    found = attack_result(ENTRY, [row(0, prediction=1, distances=dict.fromkeys(measured, 2.0))])
    assert all(getattr(found, name) == 2.0 for name in measured)


def test_figures_where_nothing_fell_or_nothing_was_attacked():
    stood = attack_result(ENTRY, [row(0), row(1)])
    assert (stood.success_rate, stood.robust_accuracy, stood.steps_median, stood.position_m) == (0.0, 1.0, None, None)
    assert stood.success_by_displacement == []
    wrong = attack_result(ENTRY, [row(0, clean=1, prediction=1)])
    assert (wrong.success_rate, wrong.ci95, wrong.robust_accuracy) == (None, None, 0.0)


def test_the_worst_case_is_what_no_attack_fells():
    first = [row(0), row(1, prediction=1), row(2), row(3), row(4, clean=1, prediction=1)]
    second = [row(0), row(1, prediction=1), row(2, prediction=1), row(3), row(4, clean=1, prediction=1)]
    third = [row(0, prediction=1, violation=0.5), row(1), row(2), row(3), row(4, clean=1, prediction=1)]
    attacks = [first, second, third]
    assert [attack_result(ENTRY, rows).robust_accuracy for rows in attacks] == [3 / 5, 2 / 5, 4 / 5]
    assert worst_case(attacks).robust_accuracy == 2 / 5
    split = [[row(0, prediction=1), row(1)], [row(0), row(1, prediction=1)]]  # half each, together everything
    left = worst_case(split)
    assert (left.robust_accuracy, left.n) == (0, 2)
    assert left.robust_accuracy_ci95 == pytest.approx((0, 0.6576), abs=1e-4)  # Wilson, 0 of 2
    assert worst_case([]) is None


def test_clean_accuracy_by_hand():
    victim = PlannedVictim(name="v", defense=None, parameters=None, observed=quiet())
    clean = victim_result(victim, [(0, 0), (1, 0), (1, 1), (0, 0)], [], None).clean
    assert (clean.accuracy, clean.n) == (0.75, 4)


def test_curves_rise_to_the_success_rate_in_at_most_sixty_points():
    rows = [row(index, prediction=1, position=0.001 * (index // 2)) for index in range(400)]
    curve = displacement_curve(rows, 800)
    assert len(curve) == 60
    assert curve == sorted(curve)
    assert curve[0] == (0.0, 2 / 800)  # two clips at one place are one step
    assert curve[-1] == (0.199, 0.5)
    for place, share in curve:
        assert share == sum(row.distances["position_m"] <= place for row in rows) / 800


def labelled(labels):
    clips = random_clips(len(labels), frames=4)
    return dataclasses.replace(clips, labels=torch.tensor(labels), classes=("a", "b", "c"))


def test_a_limit_keeps_each_classs_share_and_the_order():
    clips = labelled([0] * 10 + [1] * 20 + [2] * 30)
    few = choose(clips, 12, seed=0)
    assert few.labels.bincount().tolist() == [2, 4, 6]
    assert list(few.ids) == sorted(few.ids, key=clips.ids.index)
    assert choose(clips, 12, seed=0).ids == few.ids
    assert choose(clips, 12, seed=1).ids != few.ids
    assert choose(clips, 13, seed=0).labels.bincount().tolist() == [2, 4, 7]
    assert choose(clips, 60, seed=0) is clips
    with pytest.raises(fb.DataError, match="limit is 0"):
        choose(clips, 0, seed=0)


@pytest.fixture
def small():
    return random_clips(8)


@pytest.fixture
def pgd():
    return fb.create_attack("pgd", steps=5)


def test_the_figures_can_be_told_again_from_the_folder_alone(tmp_path):
    done = audit(
        audits_for_tests.victim(),
        audits_for_tests.clips(),
        suite=audits_for_tests.small_suite(),
        out=tmp_path,
        split="test",
    )
    assert AuditResult.load(tmp_path / RESULT) == AuditResult.model_validate_json(done.result.model_dump_json())
    with Ledger.read(tmp_path) as ledger:
        again = summarise(ledger, done.result.environment)
        assert ledger.clips().fingerprints() == audits_for_tests.clips().fingerprints()
    assert json.loads(again.model_dump_json()) == json.loads((tmp_path / RESULT).read_text())
    assert done.result.data.split == "test"
    assert "tight" in str(done)
    left = done.result.victims[0].worst_case
    assert left.robust_accuracy == 0  # all fall to the second attack
    assert re.search(r"^ +\(all together\) +0\.0 \[0\.0, 5\.2\]$", str(done), re.MULTILINE)
    assert "SYNTHETIC_DATA" in str(done)


def test_nothing_of_the_machine_is_told(tmp_path, small, pgd, monkeypatch):
    monkeypatch.setenv("USER", "somebody-nobody-should-know")
    suite = Suite("one", (Entry(pgd, fb.goals.AnythingBut(), Linf(0.01), "one"),))
    text = audit(linear_victim(small), small, suite=suite, out=tmp_path / "out").result.model_dump_json()
    for private in (str(tmp_path), str(Path.cwd()), socket.gethostname(), getpass.getuser() + "@", "somebody-nobody"):
        assert private not in text


def test_a_victim_that_gives_labels_only_is_not_attacked_by_gradients(tmp_path, small, pgd):
    plane = linear_victim(small)
    shy = fb.CallableVictim(
        lambda xyz: plane.labels(xyz), skeleton=small.skeleton, classes=small.classes, name="shy", access="labels"
    )
    suite = Suite("one", (Entry(pgd, fb.goals.AnythingBut(), Linf(0.01), "one"),))
    result = audit({"plane": plane, "shy": shy}, small, suite=suite, out=tmp_path).result
    assert [len(victim.attacks) for victim in result.victims] == [1, 0]
    assert result.victims[1].clean.accuracy == 1
    (skipped,) = [warning.message for warning in result.warnings if warning.code == "ENTRY_SKIPPED"]
    assert skipped == "shy: one was not tried: it needs gradients, the victim offers labels"
    assert any("are in suite blackbox" in line for line in result.meaning)


def test_a_victim_that_gives_labels_only_is_attacked_by_what_asks_for_labels(tmp_path, small):
    suite = Suite("blackbox", tuple(suites._black_boxes(60)), "metre")
    plane = linear_victim(small)
    shy = fb.CallableVictim(
        lambda xyz: plane.labels(xyz), skeleton=small.skeleton, classes=small.classes, name="shy", access="labels"
    )
    result = audit(shy, small, suite=suite, out=tmp_path).result
    attacks = {attack.name: attack for attack in result.victims[0].attacks}
    assert list(attacks) == ["hopskipjump", "hopskipjump-natural", "basar"]
    assert all(attack.success_rate == 1 and attack.queries_median <= 60 for attack in attacks.values())
    assert all(attack.by_distance for attack in attacks.values())
    assert result.victims[0].worst_case is None
    assert not {"UNBROKEN", "BLACK_BOX_STRONGER"} & {warning.code for warning in result.warnings}
    assert any("comes nearest to the clips" in line for line in result.meaning)
    assert not any("It was not attacked" in line for line in result.meaning)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda clips: dataclasses.replace(clips, classes=("left", "wrong")), "differ in right, wrong"),
        (lambda clips: clips[[]], "no clips to audit"),
        (lambda clips: clips.with_xyz(clips.xyz[..., :2]), "number of columns"),
    ],
)
def test_input_is_checked_before_anything_is_written(tmp_path, small, change, what):
    with pytest.raises((fb.DataError, RuntimeError), match=what):
        audit(linear_victim(small), change(small), out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_goals_and_names_are_checked_before_anything_is_written(tmp_path, small, pgd):
    victim = linear_victim(small)
    wide = Suite("wide", (Entry(pgd, fb.goals.AnythingButTop(2), Linf(0.01), "one"),))
    for settings, what in (
        ({"suite": "enormous"}, "suites are quick, standard, full"),
        ({"suite": wide}, "goal ab2"),
        ({"executor": "cloud"}, "executor|violat"),
    ):
        with pytest.raises(Exception, match=what):
            audit(victim, small, **{"out": tmp_path / "never", **settings})
    with pytest.raises(fb.DataError, match="give an integer of 64 bits"):
        audit(victim, small, out=tmp_path / "never", seed=2**70)
    with pytest.raises(fb.DataError, match="same name"):
        audit([victim, victim], small, out=tmp_path / "never")
    with pytest.raises(fb.DataError, match="no victims"):
        audit([], small, out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_two_names_of_one_victim_meet_the_same_attack(tmp_path, small, pgd):
    victim = linear_victim(small)
    suite = Suite("one", (Entry(pgd, fb.goals.AnythingBut(), Linf(0.01), "one"),))
    audit({"a": victim, "b/ä": victim}, small, suite=suite, out=tmp_path)
    with Ledger.read(tmp_path) as ledger:
        first, second = (ledger.rows(name, "one") for name in ("a", "b/ä"))
        for one, other in zip(first, second, strict=True):
            assert torch.equal(ledger.adversarial(one), ledger.adversarial(other))
            assert one.key != other.key


@pytest.mark.parametrize("name", suite_names())
def test_suites_are_named_apart_and_grow(name):
    suite = create_suite(name)
    assert suite.name == name
    assert len({entry.name for entry in suite.entries}) == len(suite.entries)
    for entry in suite.entries:
        json.dumps(entry.describe())
        json.dumps(entry.content())


@pytest.mark.parametrize("name", ["standard", "full"])
def test_entries_are_named_by_their_radius(name):
    scales = {"pgd-linf": ("mm", 1000), "pgd-l2": ("m", 1)}
    balls = [entry for entry in create_suite(name).entries if entry.attack.name == "pgd"]
    assert len(balls) >= 6
    for entry in balls:
        kind, _, radius = entry.name.rpartition("-")
        unit, scale = scales[kind]
        assert entry.threat.radius * scale == pytest.approx(float(radius.removesuffix(unit)), rel=1e-9)


@pytest.mark.parametrize(("unit", "short"), [("pixel", "px"), ("normalised", "units")])
def test_what_is_not_in_metres_is_not_attacked_in_metres_nor_shown_in_them(tmp_path, small, pgd, unit, short):
    clips = dataclasses.replace(small, unit=unit)
    victim = linear_victim(clips)
    for suite in ("quick", create_suite("full")):
        with pytest.raises(fb.DataError, match=f"in unit '{unit}', budgets of suite .* in 'metre'; .*your own") as e:
            audit(victim, clips, suite=suite, out=tmp_path / "never")
        assert "\n" not in str(e.value)
    assert not (tmp_path / "never").exists()
    suite = Suite("mine", (Entry(pgd, fb.goals.AnythingBut(), Linf(0.02), "one"),), unit=unit)
    with pytest.raises(fb.DataError, match=f"in unit 'metre', budgets of suite 'mine' in '{unit}'"):
        audit(linear_victim(small), small, suite=suite, out=tmp_path / "never")
    done = audit(victim, clips, suite=suite, out=tmp_path / "own")
    assert done.result.data.unit == unit
    moved = done.result.victims[0].attacks[0].position_m
    _, head, _, line, *_ = str(done).splitlines()
    assert f"pos. {short}  acc {short}/s2" in head
    assert f" {moved:.1f} " in line
    page = done.to_html().read_text()
    assert f"displacement, {short}<" in page
    assert f"Displacement<span>{short}</span>" in page
    assert f"Acceleration<span>{short}/s²</span>" in page
    assert not re.search(r"\bmm\b|m/s²", re.sub(r"<script.*?</script>|px/s²|units/s²|0\.1 mm", "", page, flags=re.S))


def test_an_audit_searched_in_bf16_says_so_and_is_not_one_in_float32(tmp_path, small, pgd):
    victim = linear_victim(small)
    suite = Suite("one", (Entry(pgd, fb.goals.AnythingBut(), Linf(0.1), "one"),))
    done = audit(victim, small, suite=suite, out=tmp_path, precision="bf16")
    assert done.result.precision == "bf16"
    assert "suite one searched in bf16, seed 0" in str(done)
    assert "Suite one searched in bf16, judged in float32, seed 0." in done.to_html().read_text()
    with Ledger.read(tmp_path) as ledger:
        (attacked,) = {ledger.about().precision}
    assert attacked == "bf16"
    with pytest.raises(fb.DataError, match="precision bf16 there, not given here"):
        audit(victim, small, suite=suite, out=tmp_path)


def test_attacks_of_an_audit_search_in_its_precision(tmp_path, small, pgd):
    seen = set()

    class Watched(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, xyz):
            if xyz.requires_grad:
                seen.add(torch.is_autocast_enabled("cpu"))
            return self.module(xyz)

    plane = linear_victim(small)
    victim = fb.TorchVictim(Watched(plane.module), skeleton=plane.skeleton, classes=plane.classes, name="watched")
    suite = Suite("one", (Entry(pgd, fb.goals.AnythingBut(), Linf(0.1), "one"),))
    audit(victim, small, suite=suite, out=tmp_path / "low", precision="bf16")
    assert True in seen
    seen.clear()
    audit(victim, small, suite=suite, out=tmp_path / "full")
    assert seen == {False}


def test_entries_of_one_name_are_refused(pgd):
    entry = Entry(pgd, fb.goals.AnythingBut(), Unbounded(), "same")
    with pytest.raises(fb.DataError, match="two entries are named 'same'"):
        Suite("twice", (entry, entry))
    with pytest.raises(fb.DataError, match="two entries are named 'same'"):
        Suite("twice", (entry,), transfer=(entry,))


# Transfer


@pytest.mark.parametrize("name", suite_names())
def test_surrogates_are_attacked_to_the_last_step_within_a_radius_of_the_suite(name):
    suite = create_suite(name)
    assert {entry.attack.name for entry in suite.transfer} == {"mifgsm", "dim", "smart"}
    for entry in suite.transfer:
        assert isinstance(entry.attack, GradientAttack)
        assert not entry.attack.early_stop
        assert entry.threat in [other.threat for other in suite.entries]
        assert entry.name.endswith(f"-linf-{1000 * entry.threat.radius:g}mm")


def both(small, steps=12, goal=None):
    """A suite whose two lists hold the same attack, by two names."""
    attack = fb.create_attack("mifgsm", steps=steps, step_size=0.2, early_stop=False)
    entries = [Entry(attack, goal or fb.goals.AnythingBut(), Linf(0.02), name) for name in ("own", "far")]
    return Suite("both", (entries[0],), transfer=(entries[1],))


def planes(clips):
    """Three linear victims; the second gets every third clip wrong, and the third is harder to fool."""
    made = {
        name: linear_victim(clips, distance=distance, generator=torch.Generator().manual_seed(seed))
        for name, seed, distance in (("one", 1, 0.05), ("two", 1, 0.05), ("three", 1, 0.12))
    }
    made["two"].module.shift[::3] += 0.2 * (1 - 2 * clips.labels[::3]) * -1
    return made


def test_transfer_of_an_audit_is_that_of_the_matrix(tmp_path):
    clips = random_clips(40)
    made = planes(clips)
    one, two, three = made.values()
    suite = both(clips)
    done = audit({"three": three}, clips, surrogates={"one": one, "two": two}, suite=suite, out=tmp_path)
    (found,) = done.result.transfer
    assert (found.name, found.attack, found.goal, found.threat) == ("far", "mifgsm", "ab", "Linf(radius=0.02)")
    assert found.settings["early_stop"] is False
    assert (found.surrogates, found.targets) == (["one", "two", "one+two"], ["three", "one", "two"])
    entry = suite.transfer[0]
    matrix = fb.transfer_matrix(
        entry.attack,
        {"one": one, "two": two, "one+two": fb.Ensemble([one, two])},
        {"three": three, "one": one, "two": two},
        clips,
        threat=entry.threat,
    )
    cells = {(cell.surrogate, cell.target): cell for cell in found.cells}
    assert list(cells) == list(matrix.cells)
    for place, counted in matrix.cells.items():
        cell = cells[place]
        assert (cell.n, cell.fooled, cell.fooled_surrogate, cell.fooled_both) == counted
        assert (cell.rate, cell.ci95) == (counted.success, counted.ci95)
    # Fourteen clips the second gets wrong: they are in no cell with it, and no success of anything.
    assert {place: cell.n for place, cell in cells.items() if "two" not in place} == {
        ("one", "three"): 40, ("one", "one"): 40, ("one+two", "three"): 26, ("one+two", "one"): 26,
    }  # fmt: skip
    assert {cell.n for place, cell in cells.items() if "two" in place} == {26}
    assert [place for place, cell in cells.items() if cell.white_box] == [
        ("one", "one"), ("two", "two"), ("one+two", "one"), ("one+two", "two"),
    ]  # fmt: skip
    assert {surrogate.name: surrogate.contains for surrogate in done.result.surrogates} == {
        "one": ["one"], "two": ["two"], "one+two": ["one", "two"],
    }  # fmt: skip
    assert done.result.surrogates[1].clean.accuracy == 26 / 40


def test_transfer_is_told_in_json_in_the_table_and_in_the_report(tmp_path):
    clips = random_clips(40)
    one, _, three = planes(clips).values()
    done = audit({"three": three}, clips, surrogates={"one": one}, suite=both(clips), out=tmp_path)
    document = json.loads((tmp_path / RESULT).read_text())
    (found,) = document["transfer"]
    hard, own = found["cells"]
    assert (hard["n"], own["n"], own["rate"], own["white_box"]) == (40, 40, 1.0, True)
    assert document == json.loads(AuditResult.load(tmp_path / RESULT).model_dump_json())
    with Ledger.read(tmp_path) as ledger:
        assert json.loads(summarise(ledger, done.result.environment).model_dump_json()) == document
    text = str(done)
    assert (
        "transfer of far, goal ab, Linf(radius=0.02): % fooled of the n clips that surrogate and target both get"
        in text
    )
    assert re.search(r"^surrogate +three +one$", text, re.MULTILINE)
    assert re.search(r"^one  .* n=40 +100\.0 \[91\.2, 100\.0\] n=40\*$", text, re.MULTILINE)
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    from funnybone.report.folder import write_report

    page = write_report(moved).read_text()
    assert f"{own['fooled']} of 40 clips that one and one both get right fool one: 100.0 % [91.2, 100.0]" in page


def test_an_audit_without_surrogates_has_no_transfer(tmp_path, small):
    suite = both(small)
    calls = []
    done = audit(linear_victim(small), small, suite=suite, out=tmp_path, progress=lambda *told: calls.append(told[0]))
    assert (done.result.transfer, done.result.surrogates) == ([], [])
    assert set(calls) == {"own"}
    assert "transfer" not in str(done)
    before = json.loads((tmp_path / RESULT).read_text())
    del before["transfer"], before["surrogates"]  # as audits of before there were surrogates wrote it
    (tmp_path / RESULT).write_text(json.dumps(before))
    assert AuditResult.load(tmp_path / RESULT) == done.result


def test_a_victim_can_be_a_surrogate_too(tmp_path, small):
    victim = linear_victim(small)
    other = linear_victim(small, distance=0.02)
    done = audit({"a": victim, "b": other}, small, surrogates={"a": victim}, suite=both(small), out=tmp_path)
    (found,) = done.result.transfer
    assert (found.surrogates, found.targets) == (["a"], ["a", "b"])
    assert [cell.white_box for cell in found.cells] == [True, False]
    assert [len(one.attacks) for one in done.result.victims] == [1, 1]


def test_two_names_of_one_surrogate_are_white_box_to_each_other(tmp_path, small):
    victim = linear_victim(small)
    done = audit({"a": victim}, small, surrogates={"b": linear_victim(small)}, suite=both(small), out=tmp_path)
    assert [cell.white_box for cell in done.result.transfer[0].cells] == [True, True]


def hidden(victim, small, name="shy"):
    return fb.CallableVictim(
        lambda xyz: victim.labels(xyz), skeleton=small.skeleton, classes=small.classes, name=name, access="labels"
    )


def test_a_target_that_gives_labels_only_is_asked(tmp_path, small):
    victim = linear_victim(small)
    done = audit(hidden(victim, small), small, surrogates={"a": victim}, suite=both(small), out=tmp_path)
    shy, own = done.result.transfer[0].cells
    assert (shy.target, shy.n, shy.fooled, shy.white_box) == ("shy", own.n, own.fooled, False)
    assert own.fooled == 8


class ThreeClasses(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, xyz):
        logits = self.module(xyz)
        return torch.cat([logits, -0.5 * logits.abs().amax(1, keepdim=True)], 1)


def test_a_target_whose_answers_a_goal_cannot_judge_has_no_cell(tmp_path, small):
    clips = dataclasses.replace(small, classes=("left", "right", "neither"))
    victim = fb.TorchVictim(
        ThreeClasses(linear_victim(small).module), skeleton=clips.skeleton, classes=clips.classes, name="v"
    )
    suite = both(clips, goal=fb.goals.AnythingButTop(2))
    done = audit(hidden(victim, clips), clips, surrogates={"a": victim}, suite=suite, out=tmp_path)
    (found,) = done.result.transfer
    assert [(cell.surrogate, cell.target) for cell in found.cells] == [("a", "a")]
    assert "shy: far was not tried: goal ab2 needs scores to be judged" in str(done)
    assert re.search(r"^a +- ", str(done), re.MULTILINE)
    done.to_html()


def test_a_target_that_draws_gives_the_same_answers_whenever_it_is_asked(tmp_path):
    clips = random_clips(40)
    stochastic = noisy(linear_victim(clips), 0.05, own=False, name="v")
    cells = []
    for folder, seed in (("one", 3), ("two", 4)):
        torch.manual_seed(seed)
        done = audit(
            stochastic,
            clips,
            surrogates={"a": linear_victim(clips, distance=0.045)},
            suite=both(clips),
            out=tmp_path / folder,
        )
        cells.append(done.result.transfer)
    assert cells[0] == cells[1]


def test_a_victim_that_draws_is_right_where_most_of_its_answers_are(tmp_path):
    clips = random_clips(40)
    stochastic = noisy(linear_victim(clips, distance=0.05), 0.05, own=False, name="v")
    clean = []
    for folder, seed in (("one", 3), ("two", 4)):
        torch.manual_seed(seed)
        done = audit(stochastic, clips, suite=both(clips), out=tmp_path / folder)
        (victim,) = done.result.victims
        clean.append(victim.clean.accuracy)
        assert victim.clean.accuracy == victim.attacks[0].attacked / len(clips)  # what attacks start from
    assert clean[0] == clean[1]


def test_surrogates_are_checked_before_anything_is_written(tmp_path, small):
    victim, suite = linear_victim(small), both(small)
    renamed = fb.TorchVictim(victim.module, skeleton=small.skeleton, classes=("left", "wrong"), name="r")
    elsewhere = linear_victim(random_clips(4, skeleton=fb.skeletons.NTU25))
    other = linear_victim(small, distance=0.02)
    for surrogates, what in (
        ({"a": renamed}, "surrogate 'a': victim 'r' knows 2 classes, .* differ in right, wrong"),
        ({"b": other, "a": elsewhere}, "surrogate 'a': victim 'linear' expects skeleton NTU25"),
        ({"a": hidden(victim, small)}, "surrogate 'a' offers labels, no gradients"),
        ([victim, victim], "two surrogates have the same name, 'linear'"),
        ({"v": other}, "a victim and another surrogate are both named 'v'"),
    ):
        with pytest.raises(fb.DataError, match=what) as error:
            audit({"v": victim}, small, surrogates=surrogates, suite=suite, out=tmp_path / "never")
        assert "\n" not in str(error.value)
    with pytest.raises(fb.DataError, match="'v\\+w' is what the surrogates' ensemble is called"):
        audit({"v+w": other}, small, surrogates={"v": victim, "w": other}, suite=suite, out=tmp_path / "never")
    alone = Suite("alone", suite.entries)
    with pytest.raises(fb.DataError, match="suite 'alone' has nothing to attack surrogates with"):
        audit({"v": victim}, small, surrogates={"w": other}, suite=alone, out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


# The report


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    clips = random_clips(40, persons=2, absent=True)
    folder = tmp_path_factory.mktemp("whole") / "audit"
    victim = linear_victim(clips, distance=0.05)
    victim.module.shift += (1.0 - 2.0 * clips.labels) * torch.linspace(-0.025, 0.025, len(clips))
    return audit({"plane": victim}, clips, suite=audits_for_tests.small_suite(), out=folder)


@pytest.fixture
def finished(tmp_path, whole):
    return dataclasses.replace(whole, folder=shutil.copytree(whole.folder, tmp_path / "finished"))


def test_a_report_is_made_of_the_folder_alone(finished, tmp_path):
    from funnybone.report.folder import write_report

    moved = finished.folder.rename(tmp_path / "elsewhere")
    page = write_report(moved)
    assert page == moved / "report.html"
    text = page.read_text()
    assert "tight" in text
    assert write_report(moved, tmp_path / "copy.html").read_text() == text
    assert not list(tmp_path.glob("**/*.partial"))


def test_an_audit_writes_its_report(finished, tmp_path):
    assert finished.to_html() == finished.folder / "report.html"
    assert finished.to_html(tmp_path / "mine.html").read_text() == (finished.folder / "report.html").read_text()


def test_examples_show_what_is_worth_seeing(finished):
    from funnybone.report.folder import choose_examples

    with Ledger.read(finished.folder) as ledger:
        examples = choose_examples(ledger, finished.result, 6)
        assert len(examples) == 6
        assert {example.attack for example in examples} == {"tight", "wide"}
        assert {example.success for example in examples} == {True, False}
        assert any(example.valid.any(1).sum() == 2 for example in examples)
        wide = sorted(row.distances["position_m"] for row in ledger.rows("plane", "wide") if row.success)
        shown = [example.displacement for example in examples if example.attack == "wide"]
        assert wide[0] in shown
        assert wide[len(wide) // 2] in shown
        assert len(choose_examples(ledger, finished.result, 1)) == 1


def test_a_report_of_an_unfinished_or_missing_audit_is_refused(finished, tmp_path):
    from funnybone.report.folder import write_report

    (finished.folder / RESULT).unlink()
    with pytest.raises(fb.DataError, match="not finished"):
        write_report(finished.folder)
    with pytest.raises(fb.DataError, match="no audit in there"):
        write_report(tmp_path / "nowhere")
