"""No-box: what is learned without labels, what a clip is moved away from, and that nobody is asked."""

import dataclasses
import logging

import pytest
import torch

import funnybone as fb
from funnybone.attacks.contrast import info_nce, k_means, learn_contrast
from funnybone.attacks.nobox import latent_loss
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf

SMALL = {"epochs": 2, "width": 4, "steps": 5, "step_size": 0.3}
LEARNING = {
    **{"backbone": "stgcn", "width": 4, "epochs": 2, "clusters": 4},
    **{"optimiser": "adamw", "learning_rate": 1e-3},
}


class Unasked(fb.Victim):
    """A victim of an attacker who must not ask: it answers the evaluator, and says how often it was asked."""

    fingerprint = "unasked"

    def __init__(self, victim):
        self.victim, self.asked = victim, []
        self.name, self.skeleton, self.classes, self.access = "unasked", victim.skeleton, victim.classes, "labels"

    def logits(self, xyz):
        raise AssertionError("asked for scores")

    def labels(self, xyz):
        self.asked.append(len(xyz))
        return self.victim.labels(xyz)


def test_nobody_is_asked(clips, victim):
    unasked = Unasked(victim)
    outcome = fb.create_attack("nobox", **SMALL)(unasked, clips, threat=Linf(0.02), batch_size=2)
    assert sum(unasked.asked) == 12  # by the evaluator, before and after
    assert not outcome.queries.any()
    assert not outcome.gradients.any()
    assert not outcome.claimed.any()
    assert (outcome.adversarial.xyz != clips.xyz).any()


def test_labels_of_what_the_attacker_has_are_not_looked_at(clips, victim):
    attack = fb.create_attack("nobox", **SMALL)
    other = dataclasses.replace(clips, labels=clips.labels.flip(0), classes=("up", "down"))
    one, two = (attack(victim, clips, threat=Linf(0.02), starts=starts) for starts in (clips, other))
    assert torch.equal(one.adversarial.xyz, two.adversarial.xyz)
    assert one.provenance["encoder"] == two.provenance["encoder"]


def test_the_same_is_done_to_a_clip_whoever_the_victim_and_whatever_the_goal_is(clips, victim):
    attack = fb.create_attack("nobox", **SMALL)
    other = linear_victim(clips, distance=0.01, generator=torch.Generator().manual_seed(5))
    plain = attack(victim, clips, threat=Linf(0.02)).adversarial.xyz
    assert torch.equal(plain, attack(other, clips, threat=Linf(0.02)).adversarial.xyz)
    aimed = attack(victim, clips, threat=Linf(0.02), goal=fb.goals.Specified(1))
    tried = aimed.attacked
    assert torch.equal(plain[tried], aimed.adversarial.xyz[tried])


def test_the_encoder_is_learned_once_for_a_call_and_from_its_seed(clips, victim, caplog):
    caplog.set_level(logging.INFO, "funnybone")
    attack = fb.create_attack("nobox", **SMALL)

    def made(seed, batch_size):
        generator = torch.Generator().manual_seed(seed)
        return attack(victim, clips, threat=Linf(0.02), generator=generator, batch_size=batch_size).adversarial.xyz

    one = made(0, batch_size=2)
    assert [record.message for record in caplog.records if "epoch 1 of 2" in record.message] != []
    assert sum("epoch 1 of 2" in record.message for record in caplog.records) == 1
    assert (one - made(0, batch_size=6)).abs().max() < 1e-5
    assert not torch.equal(one, made(1, batch_size=2))


@pytest.mark.parametrize(
    ("order", "threat"), [(0, Linf(0.02)), (1, L2(0.3)), (2, Linf(0.02)), (2, Linf(0.02) & BoneLength(0.05))]
)
def test_threat_models_are_kept_and_the_latent_loss_falls(clips, victim, order, threat):
    found = fb.create_attack("nobox", **SMALL, order=order)(victim, clips, threat=threat)
    moved = (found.adversarial.xyz != clips.xyz).flatten(1).any(1)
    assert moved.all()
    assert found.violation.max() <= 1e-6
    contrast = learn_contrast(clips, **(LEARNING | {"clusters": 120}), seed=0)
    own = contrast.embedded(clips.xyz)
    others = contrast.unlike(own, 1)
    after = latent_loss(contrast.embedded(found.adversarial.xyz), own, others)
    assert (after < latent_loss(own, own, others)).all()


def test_it_moves_clips_further_in_the_latent_space_than_noise_of_its_size():
    clips = random_clips(16, frames=16)
    own = learn_contrast(clips, **(LEARNING | {"epochs": 4}), seed=0)
    clean = own.embedded(clips.xyz)
    attack = fb.create_attack("nobox", epochs=4, width=4, clusters=4, dropped=1, steps=10, step_size=0.2)
    near = fb.CallableVictim(  # whom it never asks: which clip is this?
        lambda shown: torch.cdist(shown.flatten(1), clips.xyz.flatten(1)).argmin(1) % 2,
        skeleton=clips.skeleton,
        classes=clips.classes,
    )
    moved = attack(near, clips, threat=Linf(0.05)).adversarial.xyz
    noise = clips.xyz + 0.05 * torch.rand(clips.xyz.shape, generator=torch.Generator().manual_seed(4)).sub(0.5).sign()
    away, by_noise = (1 - (own.embedded(xyz) * clean).sum(1) for xyz in (moved, noise))
    assert (away > 3 * by_noise).all()


def test_two_dimensional_clips_are_taken():
    clips = random_clips(4)
    flat = dataclasses.replace(clips, xyz=clips.xyz[..., :2].contiguous())
    outcome = fb.create_attack("nobox", **SMALL)(linear_victim(flat), flat, threat=Linf(0.02))
    assert outcome.violation.max() <= 1e-6
    assert (outcome.adversarial.xyz != flat.xyz).flatten(1).any(1).all()


def test_an_encoder_learns_to_know_motions_again():
    """Two copies of each motion, turned: after some epochs they are nearer to each other than to any other motion."""
    clips = random_clips(16, frames=16)
    contrast = learn_contrast(clips, **(LEARNING | {"epochs": 15, "width": 8, "clusters": 120}), seed=0)
    turned = clips.xyz[..., [2, 1, 0]] * torch.tensor([1.0, 1.0, -1.0])
    turned = (clips.xyz + 0.3 * turned) / 1.09**0.5  # by 17 degrees about the vertical
    likeness = contrast.embedded(turned) @ contrast.embedded(clips.xyz).T
    assert (likeness.argmax(1) == torch.arange(16)).float().mean() > 0.8
    assert contrast.loss < 2.0  # a guess has log 16 = 2.77


def test_learning_leaves_the_global_random_state_alone_and_repeats(clips):
    state = torch.get_rng_state()
    one, two = (learn_contrast(clips, **LEARNING, seed=7) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.centres, two.centres)
    assert len(one.centres) == 4
    assert not torch.equal(one.centres, learn_contrast(clips, **LEARNING, seed=8).centres)


def test_the_centres_nearest_to_a_clip_are_dropped(clips):
    contrast = learn_contrast(clips, **LEARNING, seed=0)
    contrast = dataclasses.replace(contrast, centres=torch.eye(4, 128))
    embedded = torch.nn.functional.normalize(torch.eye(4, 128)[[2]] + 0.1 * torch.eye(4, 128)[[0]])
    others = contrast.unlike(embedded, 2)[0]
    assert sorted(others.argmax(1).tolist()) == [1, 3]


def test_k_means_finds_groups_that_are_apart(generator):
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + 0.1 * torch.randn(3, 20, 2, generator=generator)).flatten(0, 1)
    found = k_means(points, 3, generator)
    assert torch.cdist(centres, found).min(1).values.max() < 0.1
    assert torch.equal(k_means(points[:5], 5, generator).sort(0).values, points[:5].sort(0).values)
    assert torch.equal(k_means(torch.ones(4, 2), 3, generator), torch.ones(3, 2))  # all in one place


def test_info_nce_is_a_cross_entropy_without_ones_own(generator):
    query, key, queue = (torch.nn.functional.normalize(torch.randn(n, 5, generator=generator)) for n in (3, 3, 7))
    own = torch.rand(3, 7, generator=generator) < 0.3
    rows = []
    for i in range(3):
        logits = torch.cat([key[i][None], queue[~own[i]]]) @ query[i] / 0.07
        rows.append(torch.nn.functional.cross_entropy(logits[None], torch.tensor([0])))
    assert torch.allclose(info_nce(query, key, queue, own), torch.stack(rows).mean(), atol=1e-5)


def test_a_stage_of_a_cascade_sees_nothing(clips, victim):
    attack = fb.create_attack("cascade", stages=("nobox epochs=1 width=4 steps=2", "pgd steps=20"))
    outcome = attack(victim, clips, threat=Linf(0.02))
    assert outcome.success.all()
    assert set(outcome.provenance["felled_by"]) == {"pgd steps=20"}


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"order": 3}, "order is 3"),
        ({"steps": 0}, "steps is 0"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"step_size": 0.0}, "step_size is 0.0"),
        ({"clusters": 5, "dropped": 5}, "dropped is 5 of 5"),
        ({"backbone": "stgcnn"}, "did you mean 'stgcn'"),
    ],
)
def test_wrong_settings_are_named(settings, match):
    with pytest.raises(fb.DataError, match=match):
        fb.create_attack("nobox", **settings)


def test_what_it_cannot_do_without_is_named(clips, victim):
    attack = fb.create_attack("nobox", **SMALL)
    with pytest.raises(fb.DataError, match="has no ball"):
        attack(victim, clips)
    with pytest.raises(fb.DataError, match="1 clips to learn an encoder from"):
        attack(victim, clips[:1], threat=Linf(0.02))
