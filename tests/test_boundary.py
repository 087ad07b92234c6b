"""Boundary attack: how near it comes, its steps, how their lengths are adapted."""

import pytest
import torch

import funnybone as fb
from funnybone.attacks.boundary import Boundary, latest
from funnybone.threat import L2
from parts_for_tests import easy


def ways(attack):
    victim, clips = easy()
    outcome = attack(victim, clips)
    assert outcome.success.all()
    return L2(1.0).distance(clips.xyz, outcome.adversarial.xyz), outcome


@pytest.mark.parametrize(("trials", "queries"), [(1, 200), (5, 400)])
def test_it_nears_the_border(trials, queries):
    way, outcome = ways(Boundary(queries=queries, trials=trials, spherical=0.2, ahead=0.1))
    assert (way > 0.0499).all()  # nothing nearer can succeed
    assert (way < 1.6 * 0.05).all()
    assert (outcome.queries > queries - 2 * trials).all()


def test_lengths_are_adapted():
    plain, stiff = (ways(Boundary(queries=400, adaptation=factor))[0] for factor in (3.0, 1.0001))
    assert plain.mean() < 0.8 * stiff.mean()


def test_the_number_of_steps_holds():
    _, outcome = ways(Boundary(steps=7, trials=3))
    assert (outcome.steps == 7).all()
    assert (outcome.queries <= 1 + 10 + 7 * 2 * 3 + 19).all()


def test_the_latest_answers_are_kept():
    nan = torch.nan
    kept = torch.tensor([[nan, nan, 1.0], [4.0, 5.0, 6.0]])
    more = torch.tensor([[nan, 2.0], [7.0, nan]])
    wanted = torch.tensor([[nan, 1.0, 2.0], [5.0, 6.0, 7.0]])
    assert torch.equal(latest(kept, more).nan_to_num(-1), wanted.nan_to_num(-1))


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"trials": 0}, {"spherical": 0.0}, {"ahead": 1.0}, {"adaptation": 1.0}], ids=str
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"boundary: {next(iter(settings))}"):
        fb.create_attack("boundary", **settings)
