"""FAB: its steps, its borders, its targets and restarts."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks.border import UNIT
from funnybone.attacks.fab import FAB
from funnybone.goals import AnythingBut, AnythingButTop, Specified
from funnybone.testing import random_clips
from funnybone.threat import L2

NORMS = pytest.mark.parametrize("norm", ["l2", "linf"])


def ways(outcome, clips, norm="l2"):
    return UNIT[norm].distance(clips.xyz, outcome.adversarial.xyz)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(FAB):
    visits: list = dataclasses.field(default_factory=list)
    starts: list = dataclasses.field(default_factory=list)

    def start(self, problem, search, kept):
        xyz = super().start(problem, search, kept)
        self.starts.append((self.minimised.distance(problem.clean, xyz), kept))
        return xyz

    def step(self, problem, xyz, visit, k):
        self.visits.append((visit.norm, visit.fallen, problem.state.get("target")))
        return super().step(problem, xyz, visit, k)


class Fan(torch.nn.Module):
    """Several borders around every clip: the more probable the class, the further away its border."""

    def __init__(self, clips, classes):
        super().__init__()
        weights = torch.eye(classes, clips.xyz[0].numel())
        steep = torch.arange(classes) ** 2.0
        self.weights, self.clean = torch.nn.Parameter(weights * steep[:, None]), clips.xyz
        self.scores = -0.1 * torch.arange(classes)

    def forward(self, xyz):
        row = torch.cdist(xyz.detach().flatten(1), self.clean.flatten(1)).argmin(1)
        return (xyz - self.clean[row]).flatten(1) @ self.weights.T + self.scores


class Flat(torch.nn.Module):
    """A victim without a border."""

    def forward(self, xyz):
        score = 1 + 0 * xyz.sum((1, 2, 3, 4))
        return torch.stack([score, -score], 1)


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
    assert torch.allclose(first[0].float(), torch.full((6,), 1.05 * exact), rtol=1e-3)
    assert first[1].all()
    # Drawn back to 0.945, onto the border and beyond it again, and pulled to where the step from the clean clip ends.
    back = 0.9 * 1.05
    pull = (1 - back) / (1 - back + 1)
    onwards = (1 - pull) * (back + 1.05 * (1 - back)) + pull * 1.05
    assert torch.allclose(second[0].float(), torch.full((6,), onwards * exact), rtol=1e-3)


@NORMS
def test_the_nearest_border_need_not_be_that_of_the_most_probable_class(norm, fan):
    victim, clips = fan
    near, all_of_them, targeted = (
        FAB(steps=12, norm=norm, **settings)(victim, clips) for settings in ({}, {"classes": 9}, {"targets": 9})
    )
    assert [outcome.prediction.unique().tolist() for outcome in (near, all_of_them, targeted)] == [[1], [4], [4]]
    # In the direction of one joint alone, L2 and L-infinity are the same.
    for outcome, exact in ((near, 0.1), (all_of_them, 0.4 / 16), (targeted, 0.4 / 16)):
        assert (ways(outcome, clips, norm) > exact).all()
        assert (ways(outcome, clips, norm) < 1.02 * exact).all()


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
    outcome = FAB(steps=12, classes=4)(victim, clips, goal=Specified(4))
    assert outcome.success.all()
    outcome = FAB(steps=12, classes=4)(victim, clips, goal=Specified(1))
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
    assert (ways(thrice, clips, norm) <= ways(once, clips, norm) * (1 + 1e-5)).all()


def test_restarts_in_a_ball_begin_inside_of_it(clips, victim):
    attack = Watched(steps=2, restarts=2)
    attack(victim, clips, threat=L2(0.03))  # where nothing falls
    assert torch.allclose(attack.starts[1][0].float(), torch.tensor(0.015), rtol=1e-3)
    assert max(float(norm.max()) for norm, *_ in attack.visits) <= 0.03 + 1e-6
    flat = fb.TorchVictim(Flat(), skeleton=clips.skeleton, classes=clips.classes)
    attack = Watched(steps=2, restarts=2)
    attack(flat, dataclasses.replace(clips, labels=torch.zeros(6, dtype=torch.long)), threat=L2(0.03))
    assert torch.allclose(attack.starts[1][0].float(), torch.tensor(0.015), rtol=1e-3)


def test_a_border_that_bends_away_is_reached(clips, victim):
    """Steps are a twelfth of the way at first: were they pulled back before the clip fell, it would stand still."""

    class Bending(torch.nn.Module):
        def forward(self, xyz):
            return torch.sinh(12 * victim.module(xyz) / 0.05)

    bending = fb.TorchVictim(Bending(), skeleton=clips.skeleton, classes=clips.classes)
    outcome = FAB(steps=40)(bending, clips)
    assert outcome.success.all()
    assert (ways(outcome, clips) < 1.02 * 0.05).all()


def test_from_far_beyond_the_border_it_comes_back_without_a_gradient(clips, victim):
    class Saturated(torch.nn.Module):
        def forward(self, xyz):
            return torch.tanh(4 * victim.module(xyz) / 0.05)  # the border is predicted 190 times too far away

    saturated = fb.TorchVictim(Saturated(), skeleton=clips.skeleton, classes=clips.classes)
    outcome = FAB(steps=20)(saturated, clips)
    assert (ways(outcome, clips) < 1.02 * 0.05).all()
    assert not outcome.zero_gradient.any()


def test_a_search_that_gains_nothing_ends(clips, victim):
    patient, hasty = (FAB(steps=40, patience=patience)(victim, clips) for patience in (0, 10))
    assert patient.queries.tolist() == [41] * 6
    assert (hasty.queries < 20).all()
    assert torch.allclose(ways(patient, clips), ways(hasty, clips), rtol=2e-3)


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
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"fab: {next(iter(settings))}"):
        fb.create_attack("fab", **settings)
