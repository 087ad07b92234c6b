"""Trainings that harden: what they learn, what they leave alone, and that they are resumed to the same weights."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

import funnybone as fb
from funnybone.defenses import create_defense
from funnybone.defenses.free_at import head_lengths
from funnybone.defenses.mart import boosted_cross_entropy, mart_loss
from funnybone.defenses.trades import divergence
from funnybone.errors import DataError
from funnybone.models import Fused, Recipe
from funnybone.skeletons import COCO17, NTU25
from funnybone.testing import check_defense, linear_victim, random_clips
from funnybone.threat import L2, Linf
from funnybone.training import train
from funnybone.training.measure import measure
from retraining_for_tests import (
    PLANE,
    Remembered,
    batch_of,
    best_robust_accuracy,
    fragile,
    named_plane,
    plane_on,
    robust_accuracy,
    saved,
    waves,
)

# Each with settings that make it quick.
QUICK = {
    "pgd-at": {"steps": 2},
    "smart-at": {"steps": 2},
    "trades": {"steps": 2},
    "mart": {"steps": 2},
    "free-at": {"replays": 2},
    "gaussian": {},
}
ADVERSARIAL = ("pgd-at", "smart-at", "trades", "mart")
HARDENS = {
    "pgd-at": {"steps": 3, "step_size": 0.7},
    "smart-at": {"steps": 3, "step_size": 0.004},
    "trades": {"steps": 3, "step_size": 0.7},
    "mart": {"steps": 3, "step_size": 0.7},
    "free-at": {},
}
MODEL, OPTIONS = "sgn", {"width": 8}
RECIPE = Recipe(epochs=2, batch=6, max_lr=0.01)
REACH = 0.0005
NOTHING = {
    "pgd-at": {"radius": 0.0},
    "smart-at": {"radius": 0.0},
    "free-at": {"radius": 0.0, "replays": 1},
    "gaussian": {"sigma": 0.0},
}


def made(name, **settings):
    return create_defense(name, **{**QUICK[name], **settings})


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("victims")


@pytest.fixture(scope="module")
def clips():
    return waves(12, persons=2, absent=True)


@pytest.fixture(scope="module")
def trained(clips):
    return train(MODEL, clips, recipe=RECIPE, options=OPTIONS, seed=3, split="train")


@pytest.fixture(scope="module")
def victim(trained, folder):
    return saved(trained, folder)


@pytest.fixture(scope="module")
def planes():
    """Clips to train on, others, and a plane trained on the first in the plain way."""
    with named_plane():
        part = fragile()
        yield part, fragile(400, seed=1), plane_on(part)


@pytest.mark.parametrize("name", QUICK)
def test_a_victim_goes_in_and_another_comes_out(name, planes, folder):
    part, _, plain = planes
    check_defense(made(name, epochs=3), saved(plain, folder), part[:60], resumes=True)


@pytest.mark.parametrize("name", QUICK)
def test_it_trains_in_half_precision_and_tells_what_it_did(name, victim, clips):
    pytest.importorskip("accelerate")
    told = []
    for precision in ("fp32", "bf16"):
        hardened = made(name, epochs=2).fit(victim, clips, precision=precision, trained=told.append)
        assert hardened.record.precision == precision
        assert same(hardened.module, told[-1].module)
        assert told[-1].record == hardened.record
    full, half = (one.curves["joint"] for one in told)
    assert [epoch.loss for epoch in full] != [epoch.loss for epoch in half]
    assert half[-1].loss == pytest.approx(full[-1].loss, rel=0.2)


def test_a_network_with_batch_norms_goes_in_and_another_comes_out(victim, clips):
    """With dropout too, a second person and an absent one."""
    check_defense(made("pgd-at", epochs=3, steps=1), victim, clips[:6], resumes=True)


def test_the_record_says_what_was_done(victim, clips):
    hardened = made("pgd-at", epochs=1).fit(victim, clips)
    record = hardened.record
    assert (hardened.name, hardened.defense) == (f"{victim.name}+pgd-at", "pgd-at")
    assert record.defense["settings"] == {**made("pgd-at", epochs=1).settings()}
    assert record.start == victim.record.sha256
    assert record.accuracy is None
    assert record.recipe["epochs"] == 1
    assert record.recipe["max_lr"] == pytest.approx(0.25 * 0.01)
    assert record.recipe["batch"] == 6
    assert record.data == victim.record.data  # all of the clips, those that judged it among them
    assert record.data.split == "train"
    assert victim.record.defense is None
    assert made("gaussian", epochs=1).fit(victim, clips[:8]).record.data.split is None


def test_a_plain_plane_trusts_what_is_fragile(planes):
    _, others, plain = planes
    assert robust_accuracy(plain.module, others, 0.0) > 0.97
    assert robust_accuracy(plain.module, others, 0.005) < 0.3


@pytest.mark.parametrize(("name", "scratch"), [*((name, False) for name in HARDENS), ("pgd-at", True)])
def test_hardened_it_trusts_what_is_robust(name, scratch, planes, folder):
    part, others, plain = planes
    defense = create_defense(name, epochs=6, lr=PLANE.max_lr, from_scratch=scratch, **HARDENS[name])
    hardened = defense.fit(saved(plain, folder), part)
    found = robust_accuracy(hardened.module, others, 0.005)
    assert found == pytest.approx(best_robust_accuracy(0.005), abs=0.06)
    assert robust_accuracy(hardened.module, others, 0.0) == pytest.approx(best_robust_accuracy(0), abs=0.03)
    # PGD is exact on a plane: what it is said to do is what it does.
    outcome = fb.create_attack("pgd", steps=5, step_size=0.5)(hardened, others, threat=Linf(0.005))
    assert float((outcome.attacked & ~outcome.success).float().mean()) == pytest.approx(found, abs=0.003)


def test_noise_teaches_what_is_large(planes, folder):
    part, _, plain = planes
    hardened = create_defense("gaussian", sigma=0.02, epochs=6, lr=PLANE.max_lr, from_scratch=True)
    weights = [one.line.weight[0].abs() for one in (plain.module, hardened.fit(saved(plain, folder), part).module)]
    before, after = (weight[0] / weight[3:15].mean() for weight in weights)
    assert after > 1.5 * before


def test_the_worst_clips_of_a_plane_are_its_corners(planes, folder):
    part, _, plain = planes
    batch = batch_of(saved(plain, folder), part[:20])
    moved = create_defense("pgd-at", steps=10).worst(batch)
    sign = 1.0 - 2 * batch.clips.labels
    weight = plain.module.line.weight[0].view(17, 3)
    expected = batch.clips.xyz - 0.005 * sign[:, None, None, None, None] * weight.sign()
    moves = (weight != 0).expand_as(moved)
    torch.testing.assert_close(moved[moves], expected[moves], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversaries_stay_near_and_leave_alone_who_is_not_there(name, victim, clips):
    batch = batch_of(victim, clips)
    before = {key: value.clone() for key, value in batch.module.state_dict().items()}
    defense = create_defense(name, steps=3, radius=0.002)
    moved = defense.judged_on(batch)
    assert Linf(0.002).violation(clips.xyz, moved).max() == 0
    assert torch.equal(moved[~clips.valid], clips.xyz[~clips.valid])
    assert ((moved - clips.xyz).abs().flatten(1).amax(1) > 0.0002).all()
    assert not moved.requires_grad
    # The attack met a network in evaluation mode, which then goes on in its own.
    assert batch.module.training
    assert all(torch.equal(before[key], value) for key, value in batch.module.state_dict().items())
    assert all(parameter.grad is None for parameter in batch.module.parameters())
    assert divergence(*(batch_of(victim, clips, training=False).answer(xyz) for xyz in (clips.xyz, moved))).max() > 0


def test_adversaries_follow_from_the_generator_and_the_clip(victim, clips):
    defense = create_defense("pgd-at", steps=2)
    first, again, other = (defense.worst(batch_of(victim, clips, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    alone = defense.worst(batch_of(victim, clips[[4, 2]]))
    torch.testing.assert_close(alone, first[[4, 2]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NOTHING)
def test_what_moves_nothing_is_plain_training(name, trained, victim, clips):
    """Bit for bit: the same order, turns and dropout, the same epoch kept."""
    hardened = made(name, epochs=2, **NOTHING[name]).fit(victim, clips, validation=waves(6, 2, seed=5))
    plain = train(
        MODEL,
        clips,
        recipe=dataclasses.replace(RECIPE, epochs=2, max_lr=0.0025, validation=0.0),
        options=trained.record.options,
        validation=waves(6, 2, seed=5),
        seed=hardened.record.seed,
        start=trained.module.state_dict(),
    )
    assert same(hardened.module, plain.module)
    assert hardened.record.selection == plain.record.selection


def test_from_scratch_forgets_the_victim(clips, victim, folder):
    other = saved(train(MODEL, clips, recipe=Recipe(epochs=1, batch=6), options=OPTIONS, seed=8), folder)
    other.record = victim.record
    hardened = [made("pgd-at", epochs=1, from_scratch=True).fit(one, clips) for one in (victim, other)]
    assert same(hardened[0].module, hardened[1].module)
    assert hardened[0].record.start is None
    fine = [made("pgd-at", epochs=1).fit(one, clips) for one in (victim, other)]
    assert not same(fine[0].module, fine[1].module)


def test_the_epoch_that_is_kept_is_the_best_on_adversaries(trained, victim, clips):
    judge, method = waves(10, 2, seed=8), create_defense("pgd-at", steps=2, radius=0.05)
    arguments = {"options": trained.record.options, "validation": judge, "seed": 1}
    recipe = Recipe(epochs=4, batch=6, max_lr=0.05, validation=0.0)
    module, record, curves = train(
        MODEL, clips, recipe=recipe, **arguments, start=trained.module.state_dict(), method=method
    )
    losses = [epoch.validation_loss for epoch in curves["joint"]]
    assert record.selection.epochs == {"joint": losses.index(min(losses)) + 1}
    kept = fb.TorchVictim(
        module, skeleton=COCO17, classes=judge.classes, preprocess=record.build_preprocess(), record=record
    )
    moved = method.judged_on(batch_of(kept, judge, training=False, seed=1))
    assert measure(module, judge.with_xyz(moved), kept.preprocess).loss == pytest.approx(min(losses), rel=1e-4)
    assert measure(module, judge, kept.preprocess).loss < min(losses)


def test_a_checkpoint_of_another_hardening_is_refused(clips, victim, trained, folder, tmp_path):
    checkpoint = tmp_path / "a.partial"
    arguments = {"checkpoint": checkpoint, "validation": clips}
    made("pgd-at", epochs=1).fit(victim, clips, **arguments)
    with pytest.raises(DataError, match="another training: defense differ"):
        made("pgd-at", epochs=1, radius=0.01).fit(victim, clips, **arguments)
    with pytest.raises(DataError, match="another training: defense differ"):
        made("mart", epochs=1).fit(victim, clips, **arguments)
    other = train(MODEL, clips, recipe=Recipe(epochs=1, batch=6), options=OPTIONS, seed=8)
    other = saved(other._replace(record=trained.record), folder)
    with pytest.raises(DataError, match="another training: start differ"):
        made("pgd-at", epochs=1).fit(other, clips, **arguments)


def test_streams_are_fine_tuned_as_one(folder):
    clips = waves(12)
    recipe = Recipe(epochs=1, batch=6)
    two = train(MODEL, clips, recipe=recipe, options=OPTIONS, streams=("joint", "bone"), fusion=(0.6, 0.4))
    base = saved(two, folder)
    hardened = made("pgd-at", epochs=1).fit(base, clips)
    assert isinstance(hardened.module, Fused)
    assert hardened.record.streams == ("joint", "bone")
    assert hardened.record.fusion == (0.6, 0.4)
    for stream in ("joint", "bone"):
        assert not same(hardened.module.network(stream), base.module.network(stream))
    apart = made("pgd-at", epochs=1, from_scratch=True).fit(base, clips)
    assert apart.record.streams == ("joint", "bone")
    # A family with a loss of its own cannot.
    two = train("asgcn", clips, recipe=recipe, options={"width": 4}, streams=("joint", "bone"))
    with pytest.raises(DataError, match=r"streams joint, bone cannot be trained as one: .*LinksThenLabels"):
        made("pgd-at", epochs=1).fit(saved(two, folder), clips)


def test_trained_weights_have_the_first_stage_behind_them():
    """AS-GCN learns links alone at first, with epochs that are not judged: not where it has learned them already."""
    clips, judge = waves(4), waves(2, seed=2)
    base = train("asgcn", clips, recipe=Recipe(epochs=1, batch=4), options={"width": 4})
    arguments = {"recipe": Recipe(epochs=10, batch=4, validation=0.0), "options": base.record.options}
    again = train("asgcn", clips, **arguments, validation=judge, start=base.module.state_dict())
    assert all(epoch.validation_loss is not None for epoch in again.curves["joint"])


@pytest.mark.parametrize("crop", [1.0, 0.4])
def test_a_method_meets_clips_in_metres_as_they_are_varied(crop):
    seen = Remembered()
    clips = waves(12, 2, absent=True)
    train(MODEL, clips, recipe=Recipe(epochs=1, batch=12, validation=0.0, crop=crop), options={"width": 4}, method=seen)
    (batch,) = seen.seen
    there = (batch.xyz != 0).flatten(3).any(3)
    assert torch.equal(batch.valid, there)
    assert batch.xyz.mean() != pytest.approx(0, abs=1e-3)  # nothing has centred them
    order = [clips.ids.index(name) for name in batch.ids]
    assert torch.equal(batch.labels, clips.labels[order])
    assert torch.equal(batch.valid, clips.valid[order]) == (crop == 1)


def test_the_divergence_and_mart_are_what_the_papers_say():
    generator = torch.Generator().manual_seed(0)
    clean, other = 3 * torch.randn(2, 40, 6, generator=generator, dtype=torch.float64)
    labels = torch.arange(40) % 6
    p, q = clean.softmax(1), other.softmax(1)
    kl = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(divergence(clean, other), kl.float())
    assert divergence(clean, clean).abs().max() < 1e-6
    own = q.gather(1, labels[:, None]).squeeze(1)
    worst = q.scatter(1, labels[:, None], -1).amax(1)
    boosted = -own.log() - (1 - worst).log()
    torch.testing.assert_close(boosted_cross_entropy(other, labels), boosted.float())
    doubt = 1 - p.gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(mart_loss(clean, other, labels, 5.0), (boosted + 5 * kl * doubt).float())
    sure = torch.tensor([[90.0, 0.0, 0.0]])
    assert boosted_cross_entropy(sure, torch.tensor([1])).item() == pytest.approx(180 - math.log(2), rel=1e-3)


def test_trades_is_the_familys_loss_and_the_divergence(planes, folder):
    """On a plane the worst clip of the ball is at one of two corners, and a search from anywhere ends in one."""
    part, _, plain = planes
    base, weight = saved(plain, folder), 1000 * plain.module.line.weight[0].detach()
    ends = []
    for clip in range(8):
        batch = batch_of(base, part[[clip]])
        score = batch.clips.xyz.mean((1, 2)).flatten(1) @ weight
        shift = REACH * weight.abs().sum()
        clean, *corners = (torch.stack([moved, -moved], 1) for moved in (score, score - shift, score + shift))
        own = F.cross_entropy(clean, batch.clips.labels).item()
        plain_loss = create_defense("trades", radius=REACH, beta=0.0).loss(batch).item()
        assert plain_loss == pytest.approx(own, rel=1e-4, abs=1e-6)
        apart = (create_defense("trades", radius=REACH).loss(batch).item() - own) / 6
        farther = [apart == pytest.approx(divergence(clean, end).item(), rel=1e-3, abs=1e-5) for end in corners]
        assert any(farther)
        ends.append(farther)
    assert any(first for first, _ in ends)


def test_free_noise_climbs_and_stays_in_its_place(victim, clips):
    defense = create_defense("free-at", radius=0.004)
    memory = {}
    batch = batch_of(victim, clips, memory=memory)
    first = defense.loss(batch)
    assert torch.equal(memory["noise"], torch.zeros_like(clips.xyz))
    first.backward()
    gradient = memory["gradient"].clone()
    assert gradient[clips.valid].any()
    defense.loss(batch)
    noise = memory["noise"]
    where = clips.valid[..., None, None].expand_as(noise)
    torch.testing.assert_close(noise[where], 0.004 * gradient.sign()[where])
    assert not noise[~where].any()
    # Other clips come, one fewer: the noise stays in its place, but not on those who are not there.
    defense.loss(batch).backward()
    fewer = dataclasses.replace(batch, clips=clips[1:])
    defense.loss(fewer).backward()
    carried = memory["noise"]
    assert carried.shape == fewer.clips.xyz.shape
    assert carried.abs().max() <= 0.004 + 1e-9
    assert carried[0].abs().max() > 0
    assert not carried[~fewer.clips.valid].any()


def test_a_ball_of_each_clips_own_size():
    clips = random_clips(5, skeleton=NTU25, absent=True)
    defense = create_defense("free-at", norm="l2", heads=True, radius=3.0)
    lengths = head_lengths(clips)
    bone = clips.xyz[:, :, :, NTU25.index("Head")] - clips.xyz[:, :, :, NTU25.index("Neck")]
    torch.testing.assert_close(lengths[1:], bone.norm(dim=-1).mean((1, 2))[1:])
    torch.testing.assert_close(lengths[0], bone[0, :, :4].norm(dim=-1).mean())  # the rest is padding
    ball = defense.ball(clips)
    far = clips.xyz + torch.randn(clips.xyz.shape, generator=torch.Generator().manual_seed(0))
    near = ball.project(clips.xyz, far)
    for clip, length in enumerate(lengths.tolist()):
        expected = L2(3 * length).project(clips.xyz[[clip]], far[[clip]])
        torch.testing.assert_close(near[[clip]], expected, atol=1e-5, rtol=0)
        steepest = L2(3 * length).steepest(far[[clip]])
        torch.testing.assert_close(ball.steepest(far)[[clip]], steepest, atol=1e-5, rtol=0)
    with pytest.raises(DataError, match="COCO17' has no head"):
        defense.ball(random_clips(2))


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("pgd-at", {"radius": -0.1}, "defense pgd-at: radius is -0.1"),
        ("smart-at", {"step_size": 0.0}, "defense smart-at: step_size is 0.0"),
        ("trades", {"beta": math.nan}, "defense trades: beta is nan"),
        ("mart", {"weight": -1.0}, "defense mart: weight is -1.0"),
        ("free-at", {"norm": "l1"}, "defense free-at: norm is 'l1'"),
        ("free-at", {"replays": 0}, "defense free-at: replays is 0"),
        ("gaussian", {"sigma": math.inf}, "defense gaussian: sigma is inf"),
        ("pgd-at", {"epochs": 0}, "defense pgd-at: epochs is 0"),
        ("pgd-at", {"lr": 0.0}, "defense pgd-at: lr is 0.0"),
    ],
)
def test_settings_that_do_not_fit(name, settings, says):
    with pytest.raises(DataError, match=says):
        create_defense(name, **settings)


def test_a_victim_without_a_record_cannot_be_trained():
    clips = random_clips(4)
    with pytest.raises(DataError, match="defense pgd-at: victim 'linear' is not a network with a record"):
        create_defense("pgd-at").fit(linear_victim(clips), clips)
