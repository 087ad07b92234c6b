"""The exam of defenses lets a good one pass and says of a bad one which promise it broke."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file

from funnybone.defenses import Defense, create_defense, defenses
from funnybone.testing import check_defense, linear_victim, random_clips
from funnybone.victims import Hardened
from hardened_for_tests import small_base, some_clips

STEPS = 6


class Shifted(Hardened):
    """Adds to the logits what was learned."""

    form = "shifted"

    def __init__(self, base, shift):
        super().__init__(base, defense="shift")
        self.shift = shift

    @property
    def settings(self):
        return {}

    def tensors(self):
        return {"shift": self.shift}

    @classmethod
    def restore(cls, base, settings, tensors, *, defense, name):
        raise NotImplementedError

    def logits(self, xyz):
        return self.base.logits(xyz) + self.shift


@dataclass(frozen=True, kw_only=True)
class Learns(Defense):
    """Learns a shift in a few steps, each of which draws; keeps a checkpoint."""

    resumes: bool = True
    keeps: bool = True
    tells: bool = True

    def fit(self, victim, clips, *, validation=None, generator=None, progress=None, checkpoint=None):
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        start, shift = 0, torch.zeros(2)
        if self.resumes and checkpoint is not None and checkpoint.exists():
            found = load_file(checkpoint)
            start, shift = int(found["step"]), found["shift"]
            generator.set_state(found["chance"])
        for step in range(start, STEPS):
            shift = shift + torch.randn(2, generator=generator)
            if self.keeps and checkpoint is not None:
                parts = {"step": torch.tensor(step + 1), "shift": shift, "chance": generator.get_state()}
                save_file(parts, checkpoint)
            if self.tells and progress is not None:
                progress(step + 1, STEPS, "shifting")
        return Shifted(victim, shift)


# What makes a defense quick; one that is registered and not named here is examined with its defaults.
QUICK = {
    "beat": {"members": 2, "hidden": 4, "rounds": 2, "burn_in": 1, "steps": 2, "langevin_steps": 1, "negatives": 2},
    "free-at": {"replays": 2},
    "mmat": {"steps": 1, "turning": "angles search='smart steps=1'"},
    **{name: {"steps": 1} for name in ("pgd-at", "smart-at", "trades", "mart")},
}


@pytest.fixture
def clips():
    return random_clips(4)


@pytest.mark.parametrize("name", defenses.names())
def test_every_defense_that_is_registered_passes(name):
    settings = QUICK.get(name, {})
    if create_defense(name, **settings).trains:
        settings = {**settings, "epochs": 3}
    defense, clips = create_defense(name, **settings), some_clips(8)
    check_defense(defense, small_base(clips), clips, resumes=defense.resumes)


def test_what_makes_them_quick_is_of_registered_ones():
    assert set(QUICK) <= set(defenses.names())


def test_one_that_goes_on_where_it_was_passes(clips):
    check_defense(Learns(), linear_victim(clips), clips, resumes=True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"resumes": False, "keeps": False}, "left no checkpoint"),
        ({"tells": False}, "does not tell how far it is"),
    ],
)
def test_one_that_cannot_be_resumed_is_caught(settings, says, clips):
    check_defense(Learns(**settings), linear_victim(clips), clips)
    with pytest.raises(AssertionError, match=says):
        check_defense(Learns(**settings), linear_victim(clips), clips, resumes=True)


class ForgetsItsChance(Learns):
    """Goes on with the numbers that it began with."""

    def fit(self, victim, clips, *, generator=None, checkpoint=None, **others):
        if checkpoint is not None and checkpoint.exists():
            parts = load_file(checkpoint)
            save_file({**parts, "chance": torch.Generator().manual_seed(0).get_state()}, checkpoint)
        return super().fit(victim, clips, generator=generator, checkpoint=checkpoint, **others)


class ChangesTheBase(Learns):
    def fit(self, victim, clips, **others):
        victim.module.plane.offset.add_(1)
        return super().fit(victim, clips, **others)


class ReturnsTheBase(Learns):
    def fit(self, victim, clips, **others):
        return victim


class DrawsGlobally(Learns):
    def fit(self, victim, clips, **others):
        torch.rand(())
        return super().fit(victim, clips, **others)


class HasNoName(Learns):
    def fit(self, victim, clips, **others):
        hardened = super().fit(victim, clips, **others)
        hardened.defense = None
        return hardened


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (ForgetsItsChance, "stopped and resumed it ends otherwise"),
        (ChangesTheBase, "the base victim was changed"),
        (ReturnsTheBase, "fit returned the victim that it was given"),
        (DrawsGlobally, "the global random state was used"),
        (HasNoName, "does not name its defense"),
    ],
)
def test_a_broken_promise_is_named(kind, says, clips):
    with pytest.raises(AssertionError, match=says):
        check_defense(kind(), linear_victim(clips), clips, resumes=kind is ForgetsItsChance)


def test_a_file_that_does_not_say_the_settings_is_caught():
    clips = some_clips()
    with pytest.raises(AssertionError, match="its file says that its settings were"):
        check_defense(Learns(), small_base(clips), clips)
