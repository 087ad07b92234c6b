"""Security curves, ensembles and transfer, on victims whose answers are known."""

import pytest
import torch

import funnybone as fb
from funnybone.auditing.answers import Answer, from_sql, to_sql
from funnybone.auditing.rows import FieldError
from funnybone.auditing.transfer import Made, Transfer
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2, Linf


@pytest.fixture(scope="module")
def scene():
    clips = random_clips(12)
    return clips, linear_victim(clips, distance=0.05)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_a_curve_rises_where_the_border_is(scene, norm):
    clips, victim = scene
    normal = victim.module.plane.normal
    exact = 0.05 if norm is L2 else 0.05 / normal.abs().sum().item()
    radii = [exact * share for share in (1.3, 0.5, 0.98, 2.0)]
    curve = fb.security_curve(fb.create_attack("pgd", steps=40), victim, clips, radii, ball=norm)
    assert curve.radii == tuple(sorted(radii))
    assert curve.fallen == (0, 0, 12, 12)
    assert curve.success == (0, 0, 1, 1)
    assert curve.robust == (1, 1, 0, 0)
    assert str(curve).count("\n") == 5


def test_larger_radii_attack_only_who_still_stands(scene):
    clips, victim = scene
    seen = []

    class Counting(torch.nn.Module):
        def forward(self, xyz):
            seen.append(len(xyz))
            return victim.module(xyz)

    counting = fb.TorchVictim(Counting(), skeleton=clips.skeleton, classes=clips.classes)
    fb.security_curve(fb.create_attack("pgd", steps=40), counting, clips, [0.02])
    once = sum(seen)
    seen.clear()
    fb.security_curve(fb.create_attack("pgd", steps=40), counting, clips, [0.02, 0.04, 0.08])
    assert sum(seen) == once


def test_a_minimum_norm_attack_runs_once(scene):
    clips, victim = scene
    calls = []
    attack = fb.create_attack("ddn", steps=60)

    class Counting(type(attack)):
        def run(self, problem, progress):
            calls.append(len(problem))
            return super().run(problem, progress)

    curve = fb.security_curve(Counting(steps=60), victim, clips, [0.03, 0.049, 0.06], ball=L2)
    assert calls == [12]
    assert curve.fallen == (0, 0, 12)


@pytest.mark.parametrize("radii", [[], [0.0], [0.01, -1.0], [float("nan")], [float("inf")]])
def test_radii_that_mean_nothing_are_refused(scene, radii):
    clips, victim = scene
    with pytest.raises(fb.DataError, match="radii"):
        fb.security_curve(fb.create_attack("pgd"), victim, clips, radii)


def test_transfer_against_a_count_by_hand():
    made = [
        Made(attacked=True, success=True, violation=0.0),  # both right, both fooled
        Made(attacked=True, success=True, violation=0.0),  # both right, only the surrogate fooled
        Made(attacked=True, success=False, violation=0.0),  # both right, only the target fooled
        Made(
            attacked=True, success=False, violation=0.5
        ),  # fooled from outside of the threat model: it counts, as none
        Made(attacked=True, success=True, violation=0.0),  # the target was wrong before
        Made(attacked=False, success=False, violation=0.0),  # the surrogate was
        Made(attacked=False, success=False, violation=0.0),  # both were
    ]
    right = [True, True, True, True, False, True, False]
    fooled = [True, False, True, True, True, True, True]
    found = Transfer.of(made, [Answer(*said) for said in zip(right, [1] * 7, fooled, strict=True)])
    assert found == (4, 2, 2, 1)
    assert found.success == 2 / 4
    assert found.ci95 == pytest.approx((0.1500, 0.8500), abs=1e-4)  # Wilson, 2 of 4
    nothing = Transfer.of(made[4:], [Answer(*said) for said in zip(right[4:], [1] * 3, fooled[4:], strict=True)])
    assert (nothing, nothing.success, nothing.ci95) == ((0, 0, 0, 0), None, None)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{}",
        "[1, 2]",
        '["abc"]',
        "[[1, 0]]",
        "[[2, 0, 0]]",
        "[[1, 3, 0]]",
        "[[1, -1, 0]]",
        "[[1, 0.5, 0]]",
        None,
        b"\xff",
    ],
)
def test_answers_that_no_audit_writes_are_refused(said):
    good = [Answer(True, 2, False), Answer(False, 0, True)]
    assert from_sql(to_sql(good), 2, 3) == good
    with pytest.raises(FieldError, match="said"):
        from_sql(said, 1, 3)
    with pytest.raises(FieldError, match="2 answers to 3 clips"):
        from_sql(to_sql(good), 3, 3)


def test_only_clips_that_both_get_right_count(scene):
    clips, victim = scene
    wrong_on_four = fb.CallableVictim(
        # Sees in which clip it is by the first coordinate, and gets four of them wrong before and after.
        lambda xyz: torch.where(
            torch.isin(xyz[:, 0, 0, 0, 0], clips.xyz[:4, 0, 0, 0, 0]), 1 - victim.labels(xyz), victim.labels(xyz)
        ),
        skeleton=clips.skeleton,
        classes=clips.classes,
    )
    attack = fb.create_attack("smart", steps=60)
    still = fb.threat.Mask(joints=tuple(range(1, 17)))  # the mark stays
    matrix = fb.transfer_matrix(attack, {"a": victim}, {"a": victim, "b": wrong_on_four}, clips, threat=still)
    assert matrix.surrogates == ("a",)
    assert matrix.targets == ("a", "b")
    assert matrix.cells["a", "a"] == (12, 12, 12, 12)
    assert matrix.cells["a", "b"] == (8, 8, 8, 8)  # and not 12 fooled of 12
    assert "n=8" in str(matrix)
    with pytest.raises(fb.DataError, match="at least one surrogate"):
        fb.transfer_matrix(attack, {}, {"a": victim}, clips)


def test_what_just_fools_one_does_not_fool_another_that_is_harder(scene):
    clips, victim = scene
    marks, before = clips.xyz[:, 0, 0, 0, 0], victim.logits(clips.xyz)

    def harder(xyz):  # the same direction, but the clean clip's margin has to be overcome once and a half
        row = (xyz[:, 0, 0, 0, 0, None] - marks).abs().argmin(1)
        return victim.logits(xyz) + 0.5 * before[row]

    target = fb.CallableVictim(harder, skeleton=clips.skeleton, classes=clips.classes, access="scores")
    still = fb.threat.Mask(joints=tuple(range(1, 17)))
    stops, goes_on = (
        fb.transfer_matrix(
            fb.create_attack("smart", steps=200, early_stop=stop), {"a": victim}, {"b": target}, clips, threat=still
        ).cells["a", "b"]
        for stop in (True, False)
    )
    assert stops.fooled_surrogate == goes_on.fooled_surrogate == 12
    assert stops.fooled == 0
    assert goes_on.fooled == 12


def test_an_ensemble_answers_with_the_mean_and_falls_with_all(scene):
    clips, victim = scene
    loud = fb.TorchVictim(Scaled(victim.module), skeleton=clips.skeleton, classes=clips.classes, name="loud")
    both = fb.Ensemble([victim, loud])
    expected = (victim.logits(clips.xyz).log_softmax(1) + loud.logits(clips.xyz).log_softmax(1)) / 2
    assert torch.allclose(both.logits(clips.xyz), expected)
    assert both.access == "gradients"
    assert both.fingerprint != fb.Ensemble([loud, victim]).fingerprint
    assert fb.create_attack("smart", steps=60)(both, clips).success.all()
    with pytest.raises(fb.DataError, match="at least one"):
        fb.Ensemble([])
    other = linear_victim(random_clips(4, skeleton=fb.skeletons.NTU25), distance=0.05)
    with pytest.raises(fb.DataError, match="differ in skeleton or classes"):
        fb.Ensemble([victim, other])


class Scaled(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, xyz):
        return 100 * self.module(xyz)
