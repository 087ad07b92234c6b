"""Several audits as one leaderboard."""

import json

import pytest

import funnybone as fb
from audits_for_tests import clips, small_suite, victim
from funnybone.auditing.leaderboard import leaderboards
from funnybone.auditing.schema import AuditResult
from funnybone.cli import main
from funnybone.report import comparison


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same clips: a victim, and one whose border is farther, in another audit and of a name that LaTeX minds."""
    root = tmp_path_factory.mktemp("compared")
    near, far = victim(), victim()
    far.module.module.shift *= 3
    far.name, far.defense = "far_&_away", "made up"
    for name, one in (("near", near), ("far", far)):
        fb.audit({one.name: one}, clips(), suite=small_suite(), out=root / name)
    return root / "near", root / "far"


def results(folders):
    return [(folder.name, AuditResult.load(folder / "audit.json")) for folder in folders]


def test_who_keeps_most_stands_first_and_the_worst_attack_decides(folders):
    (board,) = leaderboards(results(folders))
    assert board.attacks == ("tight", "wide")
    assert [line.name for line in board.lines] == ["far_&_away", "slow"]
    assert board.lines[0].left > board.lines[1].left
    for line in board.lines:
        assert line.left == line.victim.worst_case.robust_accuracy
        assert line.attacks[line.strongest].robust_accuracy == min(a.robust_accuracy for a in line.attacks.values())


def test_text_has_the_figures_of_the_audits(folders, capsys):
    assert main(["compare", *map(str, folders)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = results(folders)[0][1].victims[0]
    own = next(line for line in lines if line.startswith("slow"))
    for attack in found.attacks:
        low, high = attack.ci95
        assert f"{100 * attack.success_rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in own
        assert f"{1000 * attack.position_m:.1f}" in own
    assert own.count("*") == 1
    assert "n=70" in lines[0]


def test_figures_are_chosen(folders, capsys):
    assert main(["compare", *map(str, folders), "--figures", "position"]) == 0
    out = capsys.readouterr().out
    assert "mean displacement" in out
    assert "success over" not in out
    assert main(["compare", *map(str, folders), "--figures", "beauty"]) == 2
    assert "robust, success, position" in capsys.readouterr().err


def test_one_name_is_one_attack(folders, tmp_path, capsys):
    fb.audit(victim(), clips(), suite=small_suite(steps=9), out=tmp_path / "other")
    assert main(["compare", str(folders[0]), str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert "'tight'" in said
    assert "steps=12" in said
    assert "steps=9" in said


def test_other_clips_have_a_table_of_their_own(folders, tmp_path):
    fb.audit(victim(), clips()[:40], suite=small_suite(), out=tmp_path / "part")
    boards = leaderboards(results([*folders, tmp_path / "part"]))
    assert [board.data.n for board in boards] == [70, 40]
    assert boards[1].lines[0].name == "slow"


def test_one_victim_in_two_audits_is_told_apart(folders):
    twice = [results(folders)[0], ("again", results(folders)[0][1])]
    (board,) = leaderboards(twice)
    assert sorted(line.name for line in board.lines) == ["slow (again)", "slow (near)"]


def test_who_met_fewer_attacks_is_no_winner(folders, tmp_path, capsys):
    easy = small_suite()
    other = victim()
    other.name = "hardly tried"
    fb.audit(other, clips(), suite=type(easy)("small", easy.entries[:1]), out=tmp_path / "one")
    (board,) = leaderboards(results([*folders, tmp_path / "one"]))
    assert board.lines[-1].name == "hardly tried"
    assert board.lines[-1].left > board.lines[-2].left  # although
    assert main(["compare", *map(str, folders), str(tmp_path / "one")]) == 0
    own = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("hardly tried"))
    assert "1 of 2 attacks" in own


def test_what_cannot_be_told_apart_is_refused(folders, capsys):
    assert main(["compare", str(folders[0]), str(folders[0])]) == 2
    assert "named twice" in capsys.readouterr().err
    assert main(["compare", str(folders[0]), "--json", "--format", "latex"]) == 2
    assert main(["compare", str(folders[0]), "--json", "--out", "x.json"]) == 2


def test_latex_escapes_names_and_is_bold_where_it_decides(folders, tmp_path):
    out = tmp_path / "table.tex"
    assert main(["compare", *map(str, folders), "--format", "latex", "--out", str(out)]) == 0
    text = out.read_text()
    assert r"far\_\&\_away" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")][1:]
    assert [line.count(r"\textbf{") for line in body] == [2, 2]
    assert len({line.count(" & ") for line in body}) == 1


def test_json_keeps_all_of_the_audits(folders, capsys):
    assert main(["compare", *map(str, folders), "--json"]) == 0
    (board,) = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in board["victims"]] == ["far_&_away", "slow"]
    assert board["victims"][0]["attacks"][0]["settings"]["steps"] == 12


def test_a_file_is_not_overwritten_and_a_folder_has_to_hold_an_audit(folders, tmp_path, capsys):
    out = tmp_path / "page.html"
    out.write_text("mine")
    assert main(["compare", str(folders[0]), "--format", "html", "--out", str(out)]) == 2
    assert out.read_text() == "mine"
    assert main(["compare", str(tmp_path)]) == 2
    assert main(["compare"]) == 2
    assert main(["compare", str(folders[0]), "--format", "html"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_page_escapes_what_a_name_smuggles_in(folders):
    (board,) = leaderboards(results(folders))
    hostile = board.lines[0].victim.model_copy(update={"name": "x"})
    line = type(board.lines[0])("<script>alert(1)</script>", hostile, board.lines[0].attacks)
    page = comparison.to_html([type(board)(board.data, board.attacks, (line,))])
    assert "<script>alert" not in page
    assert "https://" not in page
