"""FAB: its steps, its borders, its targets and restarts."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks.border import length
from funnybone.attacks.fab import FAB
from funnybone.goals import AnythingBut, AnythingButTop, Specified
from funnybone.testing import random_clips

NORMS = pytest.mark.parametrize("norm", ["l2", "linf"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(FAB):
    visits: list = dataclasses.field(default_factory=list)
    starts: list = dataclasses.field(default_factory=list)

    def start(self, problem, search, kept):
        xyz = super().start(problem, search, kept)
        self.starts.append((length(xyz - problem.clean, self.norm), kept))
        return xyz

    def step(self, problem, xyz, visit, k):
        self.visits.append((visit.norm, visit.fallen, problem.state.get("target")))
        return super().step(problem, xyz, visit, k)


class Fan(torch.nn.Module):
    """Several borders around every clip, the more probable the class, the further away its border."""

    def __init__(self, clips, classes):
        super().__init__()
        weights = torch.eye(classes, clips.xyz[0].numel())
        steep = torch.arange(classes) ** 2.0
        self.weights, self.clean = torch.nn.Parameter(weights * steep[:, None]), clips.xyz
        self.scores = -0.1 * torch.arange(classes)

    def forward(self, xyz):
        row = torch.cdist(xyz.detach().flatten(1), self.clean.flatten(1)).argmin(1)
        return (xyz - self.clean[row]).flatten(1) @ self.weights.T + self.scores


@pytest.fixture
def fan():
    clips = dataclasses.replace(random_clips(3), labels=torch.zeros(3, dtype=torch.long), classes=tuple("abcde"))
    return fb.TorchVictim(Fan(clips, 5), skeleton=clips.skeleton, classes=clips.classes), clips


@NORMS
def test_the_first_step_ends_a_little_beyond_the_linear_border_and_the_next_is_drawn_back(norm, clips, victim):
    attack = Watched(steps=3, norm=norm)
    attack(victim, clips)
    normal = victim.module.plane.normal
    exact = 0.05 / (1.0 if norm == "l2" else float(normal.abs().sum()))
    first, second = attack.visits[1], attack.visits[2]
    assert torch.allclose(first[0], torch.full((6,), 1.05 * exact), rtol=1e-3)
    assert first[1].all()
    # Drawn back to 0.945, onto the border and beyond it again, and pulled to where the step from the clean clip ends.
    back = 0.9 * 1.05
    pull = (1 - back) / (1 - back + 1)
    assert torch.allclose(
        second[0], ((1 - pull) * (back + 1.05 * (1 - back)) + pull * 1.05) * torch.tensor(exact), rtol=1e-3
    )


@NORMS
def test_the_nearest_border_need_not_be_that_of_the_most_probable_class(norm, fan):
    victim, clips = fan
    near, all_of_them, targeted = (
        FAB(steps=20, norm=norm, **settings)(victim, clips) for settings in ({}, {"classes": 9}, {"targets": 9})
    )
    ways = [length(outcome.adversarial.xyz - clips.xyz, norm).mean() for outcome in (near, all_of_them, targeted)]
    assert [outcome.prediction.unique().tolist() for outcome in (near, all_of_them, targeted)] == [[1], [4], [4]]
    assert ways[0] > 1.02 * 0.1
    assert ways[1] < 1.02 * 0.4 / 16
    assert ways[2] < 1.02 * 0.4 / 16


def test_every_border_is_a_query(fan):
    victim, clips = fan
    for classes in (1, 3, 9):
        outcome = FAB(steps=6, patience=0, classes=classes)(victim, clips)
        assert outcome.queries.tolist() == [6 * min(classes, 4) + 1] * 3
        assert outcome.gradients.tolist() == [6 * min(classes, 4)] * 3
    bound = FAB(steps=6, classes=3)(victim, clips, budget=8)
    assert bound.queries.tolist() == [8] * 3


def test_a_goal_that_leads_to_a_class_looks_at_the_furthest_border(fan):
    victim, clips = fan
    outcome = FAB(steps=40, classes=4)(victim, clips, goal=Specified(4))
    assert outcome.success.all()
    outcome = FAB(steps=40, classes=4, targets=0)(victim, clips, goal=Specified(1))
    assert outcome.success.all()
    # And has no targets but its own.
    one = FAB(steps=5, patience=0, targets=4)(victim, clips, goal=Specified(4))
    assert one.queries.tolist() == [6] * 3


def test_targets_are_the_most_probable_classes_in_turn(fan):
    victim, clips = fan
    for goal, classes in ((AnythingBut(), [1, 2, 3]), (AnythingButTop(2), [2, 3, 4])):
        attack = Watched(steps=4, targets=3, restarts=2, patience=0)
        outcome = attack(victim, clips, goal=goal)
        seen = [int(target[0]) for _, _, target in attack.visits]
        assert seen == [wanted for wanted in 2 * classes for _ in range(4)]
        assert outcome.queries.tolist() == [1 + 6 * 5] * 3


@NORMS
def test_restarts_begin_inside_of_what_was_found(norm, clips, victim):
    attack = Watched(steps=5, restarts=3, norm=norm)
    once, thrice = (dataclasses.replace(attack, restarts=restarts)(victim, clips) for restarts in (1, 3))
    sizes, kept = zip(*attack.starts, strict=True)
    assert sizes[0].max() == sizes[1].max() == 0
    for size, found in zip(sizes[2:], kept[2:], strict=True):
        assert torch.allclose(size, found / 2, rtol=1e-3)
    assert (thrice.queries > once.queries).all()
    ways = [length(outcome.adversarial.xyz - clips.xyz, norm) for outcome in (once, thrice)]
    assert (ways[1] <= ways[0] * (1 + 1e-5)).all()


def test_a_search_that_gains_nothing_ends(clips, victim):
    patient, hasty = (FAB(steps=60, patience=patience)(victim, clips) for patience in (0, 10))
    assert patient.queries.tolist() == [61] * 6
    assert (hasty.queries < 20).all()
    ways = [length(outcome.adversarial.xyz - clips.xyz, "l2") for outcome in (patient, hasty)]
    assert torch.allclose(*ways, rtol=2e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "l1"},
        {"alpha_max": 1.5},
        {"eta": 0.9},
        {"beta": -0.1},
        {"classes": 0},
        {"targets": -1},
        {"restarts": 0},
        {"patience": -1},
        {"steps": 0},
        {"targets": 3, "classes": 2},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"fab: {next(iter(settings))}"):
        FAB(**settings)
