"""A base with networks appended: what it answers, what it leaves alone, and the ways in that an attacker has."""

import math

import pytest
import torch

from funnybone.errors import DataError
from funnybone.testing import check_victim, random_clips
from funnybone.victims import CallableVictim
from funnybone.victims.averaged import MOST_MEMBERS, Averaged, Heads, mean_log_probability, seen
from funnybone.victims.filtered import Filter, Filtered
from tiny_victim import tiny_victim


@pytest.fixture(scope="module")
def clips():
    return random_clips(4)


@pytest.fixture(scope="module")
def base(clips):
    return tiny_victim(clips)


@pytest.fixture(scope="module")
def length(base, clips):
    return seen(base, clips.xyz, "features")[0].shape[1]


def heads(members, inputs, *, scale=1.0, seed=0, **settings):
    return Heads.draw(members, inputs, 8, 2, scale=scale, generator=torch.Generator().manual_seed(seed), **settings)


def test_heads_that_add_nothing_leave_the_probabilities_of_the_base(base, clips, length):
    for kind, inputs in (("features", length), ("logits", 2), ("both", length + 2)):
        victim = Averaged(base, heads(5, inputs, scale=0.0), input=kind)
        with torch.no_grad():
            assert torch.allclose(victim.logits(clips.xyz), base.logits(clips.xyz).log_softmax(1), atol=1e-5)
            assert torch.equal(victim.members(clips.xyz)[3], base.logits(clips.xyz))


def test_equal_heads_answer_as_one_and_the_scale_does_not_grow(base, clips, length):
    one = heads(1, length)
    many = one.filled(one.flat().expand(50, -1))
    alone, together = (Averaged(base, these).logits(clips.xyz) for these in (one, many))
    assert torch.allclose(alone, together, atol=1e-5)
    added = Averaged(base, many, answer="logits", temperature=1 / 50).logits(clips.xyz)
    assert torch.allclose(added, 50 * Averaged(base, one).members(clips.xyz)[0], rtol=1e-4), "the sum, as released"


def test_the_answer_is_the_mean_of_probabilities_not_of_logits(base, clips, length):
    victim = Averaged(base, heads(3, length, scale=20.0))
    members = victim.members(clips.xyz)
    assert torch.allclose(victim.logits(clips.xyz).exp(), members.softmax(-1).mean(0), atol=1e-6)
    assert not torch.allclose(victim.logits(clips.xyz), members.mean(0).log_softmax(-1), atol=1e-2)
    # Members that are both sure and disagree: no logarithm of zero on the way.
    sure = mean_log_probability(torch.tensor([[[500.0, 0.0]], [[0.0, 500.0]]]))
    assert torch.allclose(sure, torch.full((1, 2), -math.log(2)))


def test_members_in_one_pass_are_the_members_one_by_one(base, clips, length):
    these = heads(4, length)
    with torch.no_grad():
        features = base.module.features(clips.xyz)
        for k, members in enumerate(Averaged(base, these).members(clips.xyz)):
            hidden = (features @ these.weight1[k] + these.bias1[k]).relu()
            expected = base.logits(clips.xyz) + hidden @ these.weight2[k] + these.bias2[k]
            assert torch.allclose(members, expected, atol=1e-4)


def test_the_base_is_untouched_and_the_exam_of_victims_is_passed(base, clips, length):
    before = {key: value.clone() for key, value in base.module.state_dict().items()}
    victim = Averaged(base, heads(3, length), name="three")
    check_victim(victim, clips)
    assert all(torch.equal(before[key], value) for key, value in base.module.state_dict().items())
    assert victim.fingerprint not in (base.fingerprint, Averaged(base, heads(3, length, seed=1)).fingerprint)
    assert victim.parameters == base.parameters + heads(3, length).flat().numel()


def test_a_base_that_offers_scores_alone_is_enough(base, clips):
    scores = CallableVictim(base.logits, skeleton=clips.skeleton, classes=clips.classes, access="scores")
    victim = Averaged(scores, heads(3, 2), input="logits")
    assert victim.access == "scores"
    expected = Averaged(base, heads(3, 2), input="logits").logits(clips.xyz)
    assert torch.allclose(victim.logits(clips.xyz), expected, atol=1e-5)
    with pytest.raises(DataError, match="does not show its features"):
        Averaged(scores, heads(3, 2))
    labels = CallableVictim(base.labels, skeleton=clips.skeleton, classes=clips.classes)
    with pytest.raises(DataError, match="offers labels"):
        Averaged(labels, heads(3, 2), input="logits")


@pytest.mark.parametrize("settings", [{}, {"answer": "logits", "temperature": 0.01}])
def test_ways_in_are_the_base_each_member_and_moderate_logits(base, clips, length, settings):
    victim = Averaged(base, heads(2, length), margin=4.0, **settings)
    ways, members = victim.ways_in(), victim.members(clips.xyz)
    assert ways["base"] is base
    for k in range(2):
        assert torch.allclose(ways[f"member {k}"].logits(clips.xyz), members[k].log_softmax(1), atol=1e-5)
    assert torch.allclose(ways["rescaled"].logits(clips.xyz), members.mean(0) / 4.0, atol=1e-5)
    assert {way.defense for name, way in ways.items() if name != "base"} == {victim.defense}


def test_what_is_put_around_it_is_around_its_ways_in_as_well(base, clips, length):
    inner, filter = Averaged(base, heads(2, length, scale=5.0)), Filter(keep=0.2)
    ways = Filtered(inner, filter, defense="lowpass").ways_in()
    own = inner.ways_in()
    assert list(ways) == ["base", *(f"filtered {name}" for name in own), "innermost base"]
    for name, way in own.items():
        found = ways[f"filtered {name}"].logits(clips.xyz)
        assert torch.allclose(found, way.logits(filter(clips.xyz)), atol=1e-6)
        assert not torch.allclose(found, way.logits(clips.xyz), atol=1e-4)


def test_heads_that_see_logits_are_put_around_the_ways_into_a_filtered_base(base, clips):
    these, filter = heads(2, 2, scale=5.0), Filter(keep=0.2)
    inner = Averaged(base, these, input="logits")
    victim = Averaged(Filtered(inner, filter, defense="lowpass"), these, input="logits")
    ways = victim.ways_in()
    expected = Averaged(inner, these, input="logits")
    assert ways["innermost base"] is base
    found = ways["averaged filtered rescaled"].logits(clips.xyz)
    rescaled = Averaged(inner.ways_in()["rescaled"], these, input="logits")
    assert torch.allclose(found, rescaled.logits(filter(clips.xyz)), atol=1e-6)
    assert torch.allclose(ways["averaged base"].logits(clips.xyz), expected.logits(clips.xyz), atol=1e-6)


def test_noise_makes_it_stochastic_and_repeatable(base, clips, length):
    victim = Averaged(base, heads(2, length, scale=5.0), noise=0.5)
    assert victim.stochastic
    steady = {str(name): name.steady for name in victim.ways_in()}
    assert steady == {"base": True, "member 0": False, "member 1": False, "rescaled": False}
    assert not base.stochastic
    answers = []
    with torch.random.fork_rng(), torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            answers.append(victim.logits(clips.xyz))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("rectified", [False, True])
def test_settings_and_tensors_make_it_again(base, clips, length, rectified):
    victim = Averaged(base, heads(3, length, rectified=rectified), margin=2.0, answer="logits", temperature=0.2)
    again = Averaged.restore(base, victim.settings, victim.tensors(), defense="averaged", name=victim.name)
    assert again.fingerprint == victim.fingerprint
    assert torch.equal(again.logits(clips.xyz), victim.logits(clips.xyz))


@pytest.mark.parametrize(
    ("settings", "tensors"),
    [
        ({"temperature": 0.0}, {}),
        ({"temperature": "hot"}, {}),
        ({"input": "pixels"}, {}),
        ({"margin": math.nan}, {}),
        ({"rectified": 1}, {}),
        ({"more": 1}, {}),
        ({}, {"bias2": torch.zeros(3, 5)}),
        ({}, {"bias1": torch.full((3, 8), math.nan)}),
        ({}, {"weight1": torch.zeros(0, 2, 8)}),
        ({}, {"weight1": torch.zeros(3, 2, 0), "bias1": torch.zeros(3, 0), "weight2": torch.zeros(3, 0, 2)}),
        ({}, heads(MOST_MEMBERS + 1, 2).tensors()),
        ({}, {"spread": torch.zeros(2)}),
        ({}, {"other": torch.zeros(2)}),
    ],
)
def test_what_describes_no_victim_is_refused(base, settings, tensors):
    victim = Averaged(base, heads(3, 2), input="logits")
    with pytest.raises(DataError):
        Averaged.restore(
            base, {**victim.settings, **settings}, {**victim.tensors(), **tensors}, defense="averaged", name=None
        )


def test_released_heads_lose_evidence_against_a_class(base, clips):
    victim = Averaged(base, heads(2, 2, rectified=True), input="logits")
    inputs = torch.tensor([[-3.0, 2.0], [-1.0, 2.0]])
    nothing = heads(2, 2, scale=0.0, rectified=True)
    assert torch.equal(nothing(inputs, inputs), torch.tensor([0.0, 2.0]).expand(2, 2, 2))
    assert (victim.members(clips.xyz) >= 0).all()


def test_flat_weights_and_back():
    these = heads(3, 5)
    again = these.filled(these.flat())
    assert all(torch.equal(value, again.tensors()[name]) for name, value in these.tensors().items())
    with pytest.raises(DataError, match="weight1"):
        these.check(6, 2)
