"""What holds of every attack whose steps are measured by a ball."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks.ball_steps import BallSteps
from funnybone.goals import AnythingBut, AnythingButTop, Specified
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf, Mask

SETTINGS = {"fgsm": {}, "pgd": {"steps": 12, "step_size": 0.2}, "mifgsm": {}, "dim": {"steps": 12, "step_size": 0.2}}
ATTACKS = [fb.create_attack(name, **settings) for name, settings in SETTINGS.items()]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


class Planes(torch.nn.Module):
    """Linear logits of several classes, and noise of a known size from a source of its own."""

    def __init__(self, clips, classes, noise=0.0):
        super().__init__()
        self.generator, self.noise = torch.Generator().manual_seed(5), noise
        weights = torch.randn(classes, clips.xyz[0].numel(), generator=self.generator)
        self.weights = torch.nn.Parameter(torch.nn.functional.normalize(weights))
        self.centre = torch.nn.Parameter(clips.xyz.mean(0))

    def forward(self, xyz):
        logits = 20 * (xyz - self.centre).flatten(1) @ self.weights.T
        return logits + self.noise * torch.randn(logits.shape, generator=self.generator)


def seen_right(clips, classes=6, **settings):
    """A victim of several classes, and the clips under the names that it gives them."""
    module = Planes(clips, classes)
    labels = module(clips.xyz).argmax(1)
    names = tuple(f"class{i}" for i in range(classes))
    module.noise = settings.pop("noise", 0.0)
    victim = fb.TorchVictim(module, skeleton=clips.skeleton, classes=names, **settings)
    return victim, dataclasses.replace(clips, labels=labels, classes=names)


def test_the_four_are_one_kind():
    assert all(isinstance(attack, BallSteps) for attack in ATTACKS)


@every_attack
@pytest.mark.parametrize("threat", [None, L2(0.2)], ids=["linf", "l2"])
def test_it_passes_the_exam(attack, threat):
    check_attack(attack, threat=threat)


@every_attack
@pytest.mark.parametrize("norm", [Linf, L2])
def test_it_finds_what_exists_and_nothing_else(attack, norm):
    clips = random_clips(6)
    victim = linear_victim(clips, distance=0.05)
    exact = 0.05 if norm is L2 else 0.05 / victim.module.plane.normal.abs().sum().item()
    assert attack(victim, clips, threat=norm(1.25 * exact)).success.all()
    assert not attack(victim, clips, threat=norm(0.99 * exact)).success.any()


@every_attack
@pytest.mark.parametrize("goal", [AnythingBut(), AnythingButTop(2), AnythingButTop(3), Specified(4), Specified()])
def test_it_reaches_every_goal(attack, goal):
    victim, clips = seen_right(random_clips(6))
    outcome = attack(victim, clips, goal=goal, threat=Linf(0.5))
    assert outcome.attacked.sum() >= 4  # a clip of the wanted class has nowhere to go
    assert outcome.success[outcome.attacked].all()
    assert goal.achieved(victim.logits(outcome.adversarial.xyz), outcome.reference)[outcome.attacked].all()
    narrow = attack(victim, clips, goal=goal, threat=Linf(1e-5))
    assert not narrow.success.any()


@every_attack
def test_it_stays_inside_far_from_the_origin(attack):
    clips, shift = random_clips(3, persons=2, absent=True), torch.tensor([-7.0, 400.0, -0.5])
    moved = clips.with_xyz(torch.where(clips.valid[..., None, None], clips.xyz + shift, clips.xyz))
    victim, moved = seen_right(moved)
    for threat in (Linf(0.01), Linf(0.01) & BoneLength(0.02) & Mask(joints=(0, 5, 9))):
        outcome = attack(victim, moved, threat=threat)
        assert outcome.violation.max() <= 1e-6
        change = (outcome.adversarial.xyz - moved.xyz).double().abs()
        assert change.amax((1, 2, 3, 4))[outcome.attacked].min() > 0  # it did try
        assert change.max() <= 0.01 + 1e-6
        assert not change[~moved.valid].any()
    assert not change[..., 1:5, :].any()


@every_attack
def test_flat_clips_are_attacked_too(attack):
    clips = random_clips(6)
    flat = dataclasses.replace(clips, xyz=clips.xyz[..., :2], up="y", unit="normalised")
    victim = linear_victim(flat, distance=0.05)
    assert attack(victim, flat, threat=Linf(0.02)).success.all()


@every_attack
def test_a_clip_ends_where_it_ends_alone(attack):
    victim, clips = seen_right(random_clips(12, frames=6), classes=3)
    outcomes = [attack(victim, clips, threat=Linf(0.1), batch_size=size) for size in (64, 5)]
    assert attack.steps == 1 or len(outcomes[0].steps.unique()) > 2  # they fall one after another
    for outcome in outcomes[1:]:
        assert torch.equal(outcome.steps, outcomes[0].steps)
        assert torch.allclose(outcome.adversarial.xyz, outcomes[0].adversarial.xyz, atol=1e-5)


@every_attack
def test_on_request_it_goes_on_when_the_victim_has_fallen(attack):
    victim, clips = seen_right(random_clips(6))
    on = fb.create_attack(attack.name, early_stop=False, **SETTINGS[attack.name])
    stopped, outcome = (one(victim, clips, threat=Linf(0.5)) for one in (attack, on))
    assert stopped.success.all()
    assert outcome.success.all()
    assert torch.equal(outcome.steps, stopped.steps)
    assert (outcome.gradients == attack.steps).all()
    margins = [AnythingBut().margin(victim.logits(one.adversarial.xyz), clips.labels) for one in (stopped, outcome)]
    assert (margins[1] < margins[0]).all() or attack.steps == 1


@every_attack
def test_a_victim_that_draws_is_asked_often(attack):
    victim, clips = seen_right(random_clips(6), noise=0.1, stochastic=True)
    outcome = attack(victim, clips, threat=Linf(0.5))
    assert outcome.success[outcome.attacked].all()
    assert (outcome.queries[outcome.attacked] > 0).all()
    assert (outcome.queries % 20 == 0).all()


@every_attack
@pytest.mark.parametrize("draws", [1, 3])
def test_the_budget_is_kept_to_the_last_query(attack, draws):
    victim, clips = seen_right(random_clips(6))
    for budget in (draws, 2 * draws, 3 * draws + 1, 5 * draws + 2):
        outcome = attack(victim, clips, threat=Linf(1e-5), budget=budget, draws=draws)
        most = min(budget // draws, attack.steps + 1) * draws
        assert (outcome.queries[outcome.attacked] == most).all()


@every_attack
def test_what_it_cannot_do_is_said(attack):
    clips = random_clips(2)
    with pytest.raises(fb.DataError, match="has no ball"):
        attack(linear_victim(clips), clips, threat=BoneLength(0.01))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("size", [0.0, -1, float("nan"), float("inf")])
def test_steps_without_size_are_refused(name, size):
    with pytest.raises(fb.DataError, match=f"attack {name}: step_size"):
        fb.create_attack(name, step_size=size)
