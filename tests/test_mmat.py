"""The reconstruction of MMAT: which adversaries it trains on, in which shares, and that without any it is plain."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.defenses import create_defense
from funnybone.defenses.mmat import Mixture
from funnybone.errors import DataError
from funnybone.metrics.natural import learn_natural_motion
from funnybone.models import Recipe
from funnybone.testing import check_defense
from funnybone.threat import Linf
from funnybone.training import train
from retraining_for_tests import batch_of, saved, waves

RECIPE = Recipe(epochs=12, batch=6, max_lr=0.02, validation=0.0, dropout=0.0)
TURNING = "angles slack=0.5 search='smart steps=6 step_size=0.02'"
RADIUS = 0.2


def made(**settings):
    return create_defense("mmat", **{"radius": RADIUS, "steps": 4, "turning": TURNING, "farthest": 0.3, **settings})


def nothing(done, total, text):
    pass


@pytest.fixture(scope="module")
def clips():
    return waves(12)


@pytest.fixture(scope="module")
def victim(clips, tmp_path_factory):
    trained = train("stgcn", clips, recipe=RECIPE, options={"width": 4}, seed=3)
    return saved(trained, tmp_path_factory.mktemp("victims"))


@pytest.fixture(scope="module")
def mixture(victim, clips):
    return made().prepared(victim, clips, torch.Generator().manual_seed(0), nothing)


def test_a_victim_goes_in_and_another_comes_out(victim, clips):
    check_defense(made(epochs=3), victim, clips[:6], resumes=True)


def test_off_the_manifold_they_fool_and_stay_in_the_ball(mixture, victim, clips):
    there, xyz = mixture.there["off"], mixture.xyz["off"]
    assert there.sum() >= 3
    assert Linf(RADIUS).violation(clips.xyz, xyz).max() == 0
    assert (victim.labels(xyz)[there] != clips.labels[there]).all()
    assert (xyz - clips.xyz).abs().flatten(1).amax(1)[there].min() > 0.01


def test_on_the_manifold_they_fool_keep_their_bones_and_are_natural(mixture, victim, clips):
    there, xyz = mixture.there["on"], mixture.xyz["on"]
    assert there.sum() >= 1
    assert (victim.labels(xyz)[there] != clips.labels[there]).all()
    lengths = [clips.skeleton.bone_lengths(one) for one in (clips.xyz, xyz)]
    torch.testing.assert_close(lengths[1][there], lengths[0][there], rtol=1e-4, atol=0)
    assert learn_natural_motion(clips).holds(clips.with_xyz(xyz))[there].all()


def test_those_too_far_to_keep_their_label_are_left_out(victim, clips):
    generator = torch.Generator().manual_seed(0)
    near = made(on=0.0, off=1.0, farthest=0.02).prepared(victim, clips, generator, nothing)
    assert not near.there["off"].any()
    assert near.taken(clips, generator).xyz.equal(clips.xyz)
    assert near.describe()["adversaries"] == {"off": 0, "clips": 12}


def test_each_kind_is_shown_in_its_share_under_its_own_label(clips):
    many = waves(3000)
    xyz = {"on": many.xyz + 1, "off": many.xyz + 2}
    there = {"on": torch.arange(3000) % 2 == 0, "off": torch.ones(3000, dtype=torch.bool)}
    mixture = Mixture(made(on=0.5, off=0.2), many.ids, xyz, there)
    some = many[torch.randperm(3000, generator=torch.Generator().manual_seed(1))]
    taken = mixture.taken(some, torch.Generator().manual_seed(0))
    assert taken.ids == some.ids
    assert torch.equal(taken.labels, some.labels)
    kind = (taken.xyz - some.xyz).mean((1, 2, 3, 4)).round()
    shares = {value: float((kind == value).float().mean()) for value in (0, 1, 2)}
    # Half of the clips have no adversary on the manifold, and are clean instead.
    assert shares == pytest.approx({0: 0.55, 1: 0.25, 2: 0.2}, abs=0.03)
    odd = torch.tensor([int(name.partition(".")[2]) % 2 == 1 for name in taken.ids])
    assert not (kind[odd] == 1).any()


def test_without_adversaries_it_is_plain_training(victim, clips):
    hardened = made(on=0.0, off=0.0, epochs=2).fit(victim, clips, validation=waves(6, seed=5))
    plain = train(
        "stgcn",
        clips,
        recipe=dataclasses.replace(RECIPE, epochs=2, max_lr=0.25 * RECIPE.max_lr),
        options=victim.record.options,
        validation=waves(6, seed=5),
        seed=hardened.record.seed,
        start=victim.module.state_dict(),
    )
    for key, value in plain.module.state_dict().items():
        assert torch.equal(hardened.module.state_dict()[key], value)
    assert hardened.record.selection == plain.record.selection


def test_epochs_are_judged_by_fresh_adversaries(mixture, victim, clips):
    batch = batch_of(victim, clips, training=False)
    moved = mixture.judged_on(batch)
    assert 0 < (moved - clips.xyz).abs().max() <= RADIUS + 1e-6
    assert torch.equal(made(on=0.0, off=0.0).judged_on(batch), clips.xyz)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on": 0.7, "off": 0.7}, "defense mmat: on is 0.7"),
        ({"off": -0.1}, "defense mmat: off is -0.1"),
        ({"farthest": 0.0}, "defense mmat: farthest is 0.0"),
        ({"turning": "angels"}, "no attack is named 'angels'"),
    ],
)
def test_settings_that_do_not_fit(settings, says):
    with pytest.raises(DataError, match=says):
        fb.defenses.create_defense("mmat", **settings)
