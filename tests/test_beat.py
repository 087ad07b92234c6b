"""BEAT: its distance, its chains, and what a fit promises."""

import dataclasses
import math

import pytest
import torch

from funnybone.defenses.beat import BEAT
from funnybone.defenses.joint_model import (
    Replay,
    likely_motions,
    motion_distance,
    near,
    neighbours,
    new_chains,
    worst_cases,
)
from funnybone.defenses.posterior import Posterior
from funnybone.defenses.whole_network import WholeNetwork
from funnybone.errors import DataError
from funnybone.motion.rotations import matrix
from funnybone.sampling import begin, move
from funnybone.testing import check_defense, random_clips
from funnybone.victims import CallableVictim, predict
from funnybone.victims.averaged import Averaged, seen
from hardened_for_tests import small_base, some_clips
from retraining_for_tests import batch_of
from tiny_victim import tiny_victim

SMALL = {
    "members": 2,
    "hidden": 4,
    "rounds": 4,
    "burn_in": 1,
    "steps": 4,
    "batch": 8,
    "langevin_steps": 2,
    "negatives": 4,
    "buffer": 6,
}
# For a network that is not that tiny.
FAST = {"rounds": 2, "steps": 2, "langevin_steps": 1, "negatives": 2}


@pytest.fixture(scope="module")
def clips():
    return random_clips(24, frames=6)


@pytest.fixture(scope="module")
def base(clips):
    return tiny_victim(clips)


def fit(base, clips, seed=0, checkpoint=None, progress=None, **settings):
    defense = BEAT(**{**SMALL, **settings})
    return defense.fit(
        base, clips, generator=torch.Generator().manual_seed(seed), checkpoint=checkpoint, progress=progress
    )


def same(one, other):
    return all(torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items())


def test_the_distance_is_zero_of_a_clip_to_itself_with_a_finite_gradient(clips):
    xyz = clips.xyz.clone()
    xyz[:, :, :, 1] = xyz[:, :, :, 0]  # joints that coincide: a bone without length
    moved = xyz.clone().requires_grad_()
    distance = motion_distance(xyz, moved, clips.valid, clips.skeleton)
    assert torch.equal(distance, torch.zeros(len(clips)))
    distance.sum().backward()
    assert torch.isfinite(moved.grad).all()


def test_the_bones_of_the_distance_do_not_mind_rotation_and_the_rest_does(clips):
    turn = matrix(torch.tensor([0.3, -0.2, 0.5]))
    turned = clips.xyz @ turn.T
    alone = motion_distance(clips.xyz, turned, clips.valid, clips.skeleton, orders=(), position=False)
    assert alone.max() < 1e-10
    assert motion_distance(clips.xyz, turned, clips.valid, clips.skeleton).min() > 1e-4


def test_only_the_position_term_sees_a_constant_shift(clips):
    moved = clips.xyz + 0.1
    without = motion_distance(clips.xyz, moved, clips.valid, clips.skeleton, position=False)
    assert without.max() < 1e-10, "as released"
    assert torch.allclose(motion_distance(clips.xyz, moved, clips.valid, clips.skeleton), torch.tensor(0.03))


def test_padding_is_no_part_of_the_distance():
    clips = random_clips(3, persons=2, absent=True)
    moved = torch.where(clips.valid[..., None, None], clips.xyz, 7.0)
    assert motion_distance(clips.xyz, moved, clips.valid, clips.skeleton).max() == 0


def test_worst_cases_stay_in_the_ball_and_where_frames_are_valid(generator):
    clips = random_clips(3, persons=2, absent=True)
    where = clips.valid[..., None, None]
    start = near(clips.xyz, 0.01, where, generator)
    found = worst_cases(
        lambda x: x.square().flatten(1).sum(1), start, clips.xyz, steps=10, step_size=0.004, radius=0.01, where=where
    )
    assert (found - clips.xyz).abs().max() <= 0.01 + 1e-6
    assert torch.equal(found[~clips.valid], clips.xyz[~clips.valid])
    away = torch.where(where, clips.xyz + 0.01 * clips.xyz.sign(), clips.xyz)
    assert torch.allclose(found[clips.xyz.abs() > 0.02], away[clips.xyz.abs() > 0.02], atol=1e-6)


def test_the_buffer_fills_to_its_size_goes_on_and_begins_a_share_anew(generator):
    def begin(count, generator):
        return torch.full((count, 1, 2, 3, 3), -1.0), torch.ones(count, 1, 2, dtype=torch.bool)

    replay, sizes, anew, asked = Replay(100, 0.05, begin), [], 0, 0
    for step in range(400):
        xyz, valid, rows = replay.take(30, generator)
        if step >= 4:
            fresh = (xyz == -1).flatten(1).all(1)
            anew, asked = anew + int(fresh.sum()), asked + len(rows)
            assert rows.unique().numel() == 30
        replay.put(torch.full_like(xyz, float(step)), valid, rows)
        sizes.append(len(replay.xyz))
    assert sizes[:5] == [30, 60, 90, 100, 100]
    assert sizes[-1] == 100
    assert abs(anew / asked - 0.05) < 0.01
    forgets = Replay(0, 0.05, begin)
    xyz, valid, rows = forgets.take(5, generator)
    forgets.put(xyz + 1, valid, rows)
    assert len(forgets.xyz) == 0
    assert (forgets.take(5, generator)[0] == -1).all()


def test_chains_begin_at_training_clips_or_anywhere():
    clips, chance = random_clips(5), torch.Generator().manual_seed(0)
    xyz, valid = new_chains(clips, 8, BEAT(radius=0.01), chance)
    far = (xyz[:, None] - clips.xyz).abs().flatten(2).amax(2).amin(1)
    assert 0 < far.min() <= far.max() <= 0.01 + 1e-6
    assert valid.shape == clips.valid[:1].expand(8, -1, -1).shape
    anywhere, _ = new_chains(clips, 8, BEAT(box=0.2), chance)
    assert 0.15 < anywhere.abs().max() <= 0.2
    nothing, _ = new_chains(clips, 0, BEAT(), chance)
    assert nothing.shape == (0, *clips.xyz.shape[1:])


def test_the_base_is_bit_identical_and_the_seed_repeats(base, clips):
    before = {key: value.clone() for key, value in base.module.state_dict().items()}
    chance = torch.get_rng_state()
    first, again, other = fit(base, clips), fit(base, clips), fit(base, clips, seed=1)
    assert torch.equal(chance, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in base.module.state_dict().items())
    assert first.base is base
    assert same(first, again)
    assert not same(first, other)
    assert first.defense == "beat"
    assert len(first.heads) == 2
    assert not torch.equal(first.heads.weight2[0], first.heads.weight2[1]), "members differ"
    assert first.margin > 0


def test_killed_and_resumed_it_ends_with_the_same_members(base, clips, tmp_path):
    path = tmp_path / "beat.partial"

    def kill(done, total, text):
        assert total == SMALL["rounds"]
        assert text
        if done == 2:
            raise KeyboardInterrupt

    whole = fit(base, clips, thinning=2, members=4, chains=2)
    with pytest.raises(KeyboardInterrupt):
        fit(base, clips, thinning=2, members=4, chains=2, checkpoint=path, progress=kill)
    told = []
    resumed = fit(
        base, clips, thinning=2, members=4, chains=2, checkpoint=path, progress=lambda done, *_: told.append(done)
    )
    assert told == [3, 4]
    assert same(whole, resumed)
    with pytest.raises(DataError, match="another fit: seed"):
        fit(base, clips, seed=5, thinning=2, members=4, chains=2, checkpoint=path)
    with pytest.raises(DataError, match="settings"):
        fit(base, clips, checkpoint=path)


@pytest.mark.parametrize("answer", ["probabilities", "logits"])
def test_validation_clips_choose_the_round_by_the_answer_that_will_be_given(base, clips, answer):
    settings = {"rounds": 5, "steps": 20, "step_size": 0.05, "adversary_weight": 0.0, "motion_weight": 0.0}
    earlier = 0
    for seed in range(4):
        beat = BEAT(**{**SMALL, **settings}, answer=answer)
        posterior = Posterior(beat, base, base, clips[6:], clips[:6], seed)
        posterior.fit()
        losses = [done.validation_loss for done in posterior.rounds]
        assert losses[0] is None, "burn-in"
        lowest = min(losses[1:])
        earlier += losses[-1] > lowest
        best = Averaged(base, posterior.heads.filled(posterior.best), answer=answer, temperature=1 / beat.members)
        loss = torch.nn.functional.cross_entropy(best.logits(clips.xyz[:6]), clips.labels[:6])
        assert float(loss) == pytest.approx(lowest, rel=1e-4)
    assert earlier, "the last round was always the best: the test shows nothing"


def test_rounds_are_judged_with_the_noise_of_the_answer(base, clips):
    told = []
    for noise in (0.0, 3.0):
        posterior = Posterior(BEAT(**SMALL, noise=noise, adversary_weight=0.0), base, base, clips[6:], clips[:6], 0)
        posterior.fit()
        told.append([done.validation_loss for done in posterior.rounds[1:]])
    assert all(abs(quiet - noisy) > 1e-4 for quiet, noisy in zip(*told, strict=True))


def test_rounds_that_cannot_be_judged_are_no_fit(base, clips):
    with pytest.raises(DataError, match="no clips"):
        BEAT(**SMALL).fit(base, clips, validation=clips[:0])
    broken = Posterior(BEAT(**SMALL), base, base, clips[6:], clips[:6], 0)
    broken.chosen_by = broken.chosen_by._replace(logits=torch.full((6, 2), math.nan))
    with pytest.raises(DataError, match="validation loss is nan in round 2"):
        broken.fit()


def test_a_stochastic_base_or_surrogate_is_refused(base, clips, monkeypatch):
    noisy = Averaged(base, fit(base, clips).heads, noise=0.5)
    chance = torch.get_rng_state()
    with pytest.raises(DataError, match="stochastic"):
        fit(noisy, clips, input="logits")
    monkeypatch.setattr("funnybone.defenses.beat.create_victim", lambda name, device: noisy)
    with pytest.raises(DataError, match="stochastic"):
        fit(base, clips, input="logits", surrogate="noisy")
    assert torch.equal(chance, torch.get_rng_state())


def test_a_weight_with_large_gradients_gets_no_noise_as_the_documentation_says(generator):
    beat = BEAT()
    bound = 2 * beat.friction / beat.step_size**2
    still = begin(torch.zeros(1, 2))._replace(square=(bound * torch.tensor([[0.99, 1.01]])).square())
    settings = {"step_size": beat.step_size, "friction": beat.friction}
    moved = move(still, torch.zeros(1, 2), **settings, generator=generator).position
    assert (moved != 0).tolist() == [[True, False]]


def test_it_learns_what_the_base_has_wrong(base, clips):
    """The base's last layer is random; what is right can be read off one of its features."""
    feature = seen(base, clips.xyz, "features")[0][:, 0]
    told = dataclasses.replace(clips, labels=(feature > feature.median()).long())
    settings = {"rounds": 4, "steps": 60, "step_size": 0.05, "prior": 3.0, "motion_weight": 0.0}
    hardened = fit(base, told, **settings, adversary_weight=0.0)
    right = [(predict(victim, told)[0] == told.labels).float().mean() for victim in (base, hardened)]
    assert right[1] > right[0] + 0.2


def test_likely_neighbours_climb_towards_their_label_and_worst_cases_descend(base, clips):
    losses = {}
    for kind in ("sgld", "worst"):
        settings = {**SMALL, "radius": 0.02, "langevin_steps": 8, "langevin_step": 1e-4, "distance_weight": 0.0}
        posterior = Posterior(BEAT(adversary=kind, **settings), base, base, clips, None, 0)
        shown = posterior.adversaries(posterior.heads, clips, 0, torch.Generator().manual_seed(0))
        losses[kind] = torch.nn.functional.cross_entropy(shown.logits, shown.labels)
    clean = torch.nn.functional.cross_entropy(base.logits(clips.xyz), clips.labels)
    assert losses["sgld"] < clean < losses["worst"]


@pytest.mark.parametrize("share", [0.25, 0.4, 1.0])
def test_each_round_draws_adversaries_of_another_share_of_the_clips(base, clips, share):
    posterior = Posterior(BEAT(**{**SMALL, "share": share, "radius": 0.02}), base, base, clips, None, 0)
    count, drawn, states = math.ceil(share * len(clips)), [], [posterior.clean.inputs]
    draw = posterior.adversaries

    def spied(heads, part, turn, generator):
        drawn.append(part)
        return draw(heads, part, turn, generator)

    posterior.adversaries = spied
    for number in range(4):
        known = posterior._renewed(posterior.heads, number, torch.Generator().manual_seed(number))
        states.append(posterior.moved.inputs)
        changed = (states[-1] != states[-2]).any(1)
        assert int(changed.sum()) == count
        assert {*drawn[-1].ids} == {clips.ids[place] for place in changed.nonzero().flatten().tolist()}
        assert len(known.labels) == min(len(clips), (number + 1) * count)
        assert not (known.inputs[:, None] == posterior.clean.inputs).all(2).any(), "clean clips are no adversaries"
    assert torch.equal(posterior.moved.labels, clips.labels)


@pytest.fixture
def different(base):
    """Three members, whose weights are far from each other."""
    beat = BEAT(**{**SMALL, "members": 3, "chains": 3, "langevin_step": 1e-3, "radius": 0.02})
    heads = Posterior(beat, base, base, random_clips(24, frames=6), None, 0).heads
    chance = torch.Generator().manual_seed(5)
    return beat, heads.filled(3 * torch.randn(heads.flat().shape, generator=chance))


@pytest.mark.parametrize("kind", ["sgld", "worst"])
def test_adversaries_of_all_members_at_once_are_those_of_each_one_alone(base, clips, different, kind):
    """With the same draws: what is drawn for a clip does not hang on whom it follows."""
    beat, heads = different
    beat = dataclasses.replace(beat, adversary=kind, langevin_noise=0.5)
    posterior, turn = Posterior(beat, base, base, clips, None, 0), 1
    together = posterior.adversaries(heads, clips, turn, torch.Generator().manual_seed(7))
    for member in range(3):
        alone = posterior.adversaries(heads[member], clips, turn, torch.Generator().manual_seed(7))
        own = (torch.arange(len(clips)) + turn) % 3 == member
        torch.testing.assert_close(together.inputs[own], alone.inputs[own])
        torch.testing.assert_close(together.logits[own], alone.logits[own])
        assert not torch.allclose(together.inputs[~own], alone.inputs[~own])


def test_chains_of_motion_of_all_members_at_once_are_those_of_each_one_alone(base, clips, different):
    beat, heads = different
    shown = []
    for one in (heads, *(heads[member] for member in range(3))):
        posterior = Posterior(dataclasses.replace(beat, negatives=20), base, base, clips, None, 0)
        shown.append(posterior.negatives(one, torch.Generator().manual_seed(7)).inputs)
    for member, alone in enumerate(shown[1:]):
        own = torch.arange(20) % 3 == member
        torch.testing.assert_close(shown[0][own], alone[own])
        assert not torch.allclose(shown[0][~own], alone[~own])


def test_chains_of_motion_go_on_from_where_they_were_left(base, clips):
    """What a round takes is what a round before has put back, but for the share that begins anew."""
    settings = {**SMALL, "negatives": 4, "buffer": 6, "langevin_steps": 3, "langevin_step": 1e-3}
    for anew in (0.0, 1.0):
        posterior = Posterior(BEAT(**settings, anew=anew), base, base, clips, None, 0)
        taken, put = [], []
        take, store = posterior.replay.take, posterior.replay.put

        def spied_take(count, generator, take=take, taken=taken):
            found = take(count, generator)
            taken.append((found[0].clone(), found[2], len(posterior.replay.xyz)))  # noqa: B023 (called at once)
            return found

        def spied_put(xyz, valid, rows, store=store, put=put):
            store(xyz, valid, rows)
            put.append((xyz.clone(), posterior.replay.xyz.clone()))  # noqa: B023 (called at once)

        posterior.replay.take, posterior.replay.put = spied_take, spied_put
        posterior.fit()
        assert [len(xyz) for _, xyz in put] == [4, 6, 6, 6]
        assert all((rows == -1).all() for _, rows, _ in taken[:2]), "it fills first"
        for index in (2, 3):
            start, rows, _ = taken[index]
            (moved, after), before = put[index], put[index - 1][1]
            assert (rows >= 0).all()
            assert rows.unique().numel() == 4
            goes_on = (start == before[rows]).flatten(1).all(1)
            assert bool(goes_on.all()) == (anew == 0.0), "a chain goes on, or begins anew"
            assert bool(goes_on.any()) == (anew == 0.0)
            assert (start != moved).flatten(1).any(1).all(), "chains move"
            assert torch.equal(after[rows], moved), "and are put back"
            others = torch.tensor([row for row in range(6) if row not in rows.tolist()])
            assert torch.equal(after[others], before[others])


def test_the_chains_that_are_remembered_are_what_weights_learn_from(base, clips):
    ends = []
    for scale in (1.0, 0.0):
        posterior = Posterior(BEAT(**SMALL, motion_weight=1.0), base, base, clips, None, 0)
        chance = torch.Generator().manual_seed(0)
        posterior.replay.xyz = scale * torch.randn(6, *clips.xyz.shape[1:], generator=chance)
        posterior.replay.valid = clips.valid[:6]
        ends.append(posterior.fit().flat())
    assert not torch.equal(*ends)


def test_chains_that_run_away_are_refused_and_not_trained_on(base, clips, generator):
    far = {"langevin_step": 1e30, "motion_weight": 0.0}  # each step overshoots the clean clip by more than the last one
    with pytest.raises(DataError, match=r"no longer finite; lower langevin_step, now 1e\+30") as refused:
        fit(base, clips, **far, langevin_steps=4)
    assert "\n" not in str(refused.value)
    small, whole = small_base(some_clips()), BEAT(**{**SMALL, **FAST}, full=True)
    with pytest.raises(DataError, match="no longer finite"):
        WholeNetwork(beat=dataclasses.replace(whole, **far, langevin_steps=4)).loss(batch_of(small, some_clips()))
    with pytest.raises(DataError, match="no longer finite"):
        likely_motions(
            lambda xyz: xyz.flatten(1).square(),
            clips.xyz,
            clips.valid,
            dataclasses.replace(whole, **far, langevin_steps=4),
            generator,
        )


def test_a_victim_that_shows_no_numbers_of_an_adversary_is_no_teacher(base, clips):
    posterior = Posterior(BEAT(**SMALL), base, base, clips, None, 0)
    broken = posterior.clean._replace(logits=torch.full_like(posterior.clean.logits, math.inf))
    posterior._shown = lambda clips: broken
    with pytest.raises(DataError, match="what the victim shows of a clip that was drawn is no longer finite"):
        posterior.adversaries(posterior.heads, clips, 0, torch.Generator().manual_seed(0))


def test_chains_of_motion_are_used_and_go_on(base, clips):
    posterior = Posterior(BEAT(**SMALL), base, base, clips, None, 0)
    posterior.fit()
    assert len(posterior.replay.xyz) == SMALL["buffer"]
    assert posterior.replay.xyz.abs().max() > 0
    without = fit(base, clips, motion_weight=0.0)
    assert not same(without, fit(base, clips)), "the term of p(x) changes nothing"


def test_a_victim_of_scores_alone_is_hardened_with_and_without_a_surrogate(base, clips, monkeypatch):
    scores = CallableVictim(base.logits, skeleton=clips.skeleton, classes=clips.classes, access="scores")
    plain = fit(scores, clips, input="logits")
    assert plain.access == "scores"
    left_out = ("adversary_weight", "motion_weight")
    assert all(plain.defense_settings[key] == 0 for key in left_out)
    monkeypatch.setattr("funnybone.defenses.beat.create_victim", lambda name, device: base)
    helped = fit(scores, clips, input="logits", surrogate="tiny")
    assert all(helped.defense_settings[key] > 0 for key in left_out)
    assert helped.defense_settings["surrogate"] == "tiny"
    assert not same(plain, helped)
    with pytest.raises(DataError, match="input=logits"):
        fit(scores, clips)
    with pytest.raises(DataError, match="surrogate"):
        fit(base, clips, input="features", surrogate="tiny")


def test_published_adds_logits_of_rectified_heads(base, clips):
    settings = {**BEAT.presets["published"], **SMALL, "buffer": 0, "hidden": None}
    hardened = BEAT(**settings).fit(base, clips)
    members = hardened.members(clips.xyz)
    assert (members >= 0).all()
    assert torch.allclose(hardened.logits(clips.xyz), members.sum(0), rtol=1e-4)
    assert hardened.heads.weight1.shape == (2, 2, 2)
    assert seen(base, clips.xyz, "logits")[0].shape == (24, 2)


def test_chains_of_published_have_the_released_step_and_noise(clips):
    """eta 2 and sigma 5e-3, so noise of 0.01; adversaries climb a 32nd of their gradient, chains of p(x) all of it."""
    beat = BEAT(**{**BEAT.presets["published"], "langevin_steps": 1, "radius": 1e-9, "distance_weight": 0.0})
    told = dataclasses.replace(clips, labels=torch.zeros_like(clips.labels))

    def answer(xyz):
        """The log of the softmax of class 0 and the log of the sum of exponentials both have a gradient of ones."""
        total = xyz.flatten(1).sum(1)
        return torch.stack([2 * total - 1e4, total], 1)

    def chance():
        return torch.Generator().manual_seed(0)

    climbed = {
        2 / 32: neighbours(answer, told, beat, chance()),
        2.0: likely_motions(answer, clips.xyz, clips.valid, beat, chance()),
    }
    for drift, moved in climbed.items():
        change = (moved - clips.xyz)[clips.valid]
        assert float(change.mean()) == pytest.approx(drift, abs=1e-3)
        assert float(change.std()) == pytest.approx(0.01, rel=0.05)


def test_it_passes_the_exam_of_defenses():
    clips = some_clips()
    check_defense(BEAT(**{**SMALL, **FAST}), small_base(clips), clips, resumes=True)


def test_the_whole_network_is_trained_in_half_precision_and_the_appended_ones_are_not():
    pytest.importorskip("accelerate")
    clips, told = some_clips(), []
    beat = BEAT(**{**SMALL, **FAST}, full=True, motion_weight=0.1, epochs=2)
    hardened = beat.fit(small_base(clips), clips, precision="bf16", trained=told.append)
    assert hardened.record.precision == "bf16"
    assert len(told[0].curves["joint"]) == 2
    assert beat.trains
    assert not BEAT().trains
    with pytest.raises(DataError, match="precision is bf16 and full is False"):
        BEAT(**SMALL).fit(small_base(clips), clips, precision="bf16")


def test_the_whole_network_is_trained_on_the_same_terms():
    clips = some_clips()
    base = small_base(clips)
    whole = BEAT(**{**SMALL, **FAST}, full=True, motion_weight=0.1, epochs=3)
    check_defense(whole, base, clips, resumes=True)
    losses = {}
    for weights in ((0.0, 0.0), (0.1, 0.0), (0.2, 0.0), (0.0, 0.1)):
        beat = dataclasses.replace(whole, adversary_weight=weights[0], motion_weight=weights[1])
        batch = batch_of(base, clips, training=False)
        losses[weights] = WholeNetwork(beat=beat).loss(batch).item()
        assert ("xyz" in batch.memory) == (weights[1] > 0), "chains are remembered from batch to batch"
    plain, once, twice, motion = losses.values()
    assert once > plain
    assert twice - plain == pytest.approx(2 * (once - plain), rel=1e-3)
    assert motion != plain


def test_a_network_that_diverges_is_said_to_learn_too_fast_and_leaves_nothing_behind(tmp_path):
    clips, checkpoint = some_clips(), tmp_path / "out.partial"
    beat = BEAT(**{**SMALL, **FAST}, full=True, epochs=6, lr=1e30)
    with pytest.raises(DataError, match=r"finite.*\blr\b|learning rate"):
        beat.fit(small_base(clips), clips, checkpoint=checkpoint)
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"members": 5, "chains": 2},
        {"members": 0},
        {"rounds": 2, "burn_in": 2},
        {"radius": 0.0},
        {"friction": 1.5},
        {"adversary_weight": -0.1},
        {"orders": (0,)},
        {"prior": 0.0},
        {"hidden": 0},
        {"members": 1001},
        {"adversary_power": 0.0},
        {"epochs": 3},
        {"full": True, "noise": 0.1},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(DataError, match="defense beat"):
        BEAT(**settings)
