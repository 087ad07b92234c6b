"""The clips that judged a victim have taught it nothing, nor what is hardened from it, however often that is done."""

import pytest

from funnybone.defenses import beat, create_defense
from funnybone.defenses.posterior import Posterior
from funnybone.defenses.retraining import held_out_by
from funnybone.models import Recipe
from funnybone.testing import linear_victim
from funnybone.training import hold_out, train
from funnybone.training.fit import content_of
from funnybone.victims.filtered import Filter, Filtered
from retraining_for_tests import saved, waves

NOISE, WORST = ("gaussian", {"epochs": 1}), ("pgd-at", {"epochs": 1, "steps": 2})
QUICK = {"members": 1, "hidden": 2, "rounds": 1, "burn_in": 0, "steps": 1, "langevin_steps": 1, "negatives": 1}
SHARE, SEED = 0.3, 3


def hardened(victim, clips, name, settings, **others):
    return create_defense(name, **settings).fit(victim, clips, **others)


@pytest.fixture(scope="module")
def clips():
    return waves(20)


@pytest.fixture(scope="module")
def judged(clips):
    return hold_out(clips, SHARE, SEED)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("victims")


@pytest.fixture(scope="module")
def victim(clips, folder):
    recipe = Recipe(epochs=1, batch=20, validation=SHARE)
    return saved(train("sgn", clips, recipe=recipe, options={"width": 8}, seed=SEED, split="train"), folder)


def test_they_judge_a_network_that_is_trained_again_and_again(victim, clips, judged, folder):
    assert held_out_by(victim) == (SHARE, SEED)
    for defense in (NOISE, WORST, NOISE):
        victim = saved(hardened(victim, clips, *defense), folder)  # a file keeps it too
        record = victim.record
        assert record.seed != SEED
        assert record.selection.sha256 == content_of(judged)
        assert (record.data.n, record.data.sha256, record.data.split) == (20, content_of(clips), "train")
    by_hand = hardened(victim, clips, *NOISE, validation=waves(4)).record.selection
    assert (by_hand.n, by_hand.share, by_hand.seed) == (4, None, None)


@pytest.mark.parametrize("layers", [0, 2])
def test_they_judge_what_is_put_around_it(layers, victim, clips, judged, monkeypatch):
    handed = []

    class Remembering(Posterior):
        def __init__(self, settings, base, source, clips, validation, seed):
            handed.append(validation)
            super().__init__(settings, base, source, clips, validation, seed)

    monkeypatch.setattr(beat, "Posterior", Remembering)
    base = hardened(victim, clips, *NOISE)
    for _ in range(layers):
        base = Filtered(base, Filter(), defense="lowpass")
    hardened(base, clips, "beat", {**QUICK, "input": "logits"})
    assert [part.ids for part in handed] == [judged.ids]


def test_a_tenth_judges_a_victim_of_which_nothing_is_known(clips):
    assert held_out_by(linear_victim(clips)) == (0.1, 0)
