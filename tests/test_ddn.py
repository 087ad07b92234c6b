"""DDN: the norm of every iterate, whatever the direction does."""

from dataclasses import dataclass, field

import pytest
import torch

import funnybone as fb
from funnybone.attacks.border import falling
from funnybone.attacks.ddn import DDN
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2, Linf


@dataclass(frozen=True, kw_only=True)
class Watched(DDN):
    visits: list = field(default_factory=list)
    moves: list = field(default_factory=list)
    aims: list = field(default_factory=list)

    def step(self, problem, xyz, visit, k):
        self.visits.append((visit.norm.float(), visit.fallen))
        self.moves.append(xyz - problem.clean)
        xyz = super().step(problem, xyz, visit, k)
        self.aims.append(problem.state["eps"].float())
        return xyz


def far_from_linear(victim, clips):
    """The gradient at the clean clips puts the border 190 times too far away, and is gone beyond it."""

    class Saturated(torch.nn.Module):
        def forward(self, xyz):
            return torch.tanh(4 * victim.module(xyz) / 0.05)

    return fb.TorchVictim(Saturated(), skeleton=clips.skeleton, classes=clips.classes)


def test_the_norm_follows_the_last_answer_alone():
    clips = random_clips(3)
    attack = Watched(steps=30, gamma=0.1)
    attack(linear_victim(clips, distance=0.05), clips)
    assert torch.allclose(attack.visits[1][0], torch.full((3,), 1.1 * 0.05), rtol=1e-3)  # predicted by the gradient
    missed = torch.zeros(3, dtype=torch.bool)  # since the start, which is no iterate
    for (before, fallen), (after, _) in zip(attack.visits[1:], attack.visits[2:], strict=False):
        missed |= ~fallen
        factor = torch.where(fallen, torch.where(missed, 0.9, 0.5), 1.1)
        assert torch.allclose(after, before * factor, rtol=1e-3)
    assert missed.all()


def test_a_direction_that_is_wrong_at_first_is_turned():
    """The gradient at the clean clip is at right angles to that at the border's nearest point."""
    clips = random_clips(1)
    first, second = torch.eye(2, clips.xyz[0].numel())

    class Turning(torch.nn.Module):
        def forward(self, xyz):
            moved = (xyz - clips.xyz).flatten(1)
            along, across = moved @ first, moved @ second
            score = 0.1 - 0.02 * along - 20 * across**2 - 0.001 * across  # the nearest point is along neither axis
            return torch.stack([score, -score], 1)

    victim = fb.TorchVictim(Turning(), skeleton=clips.skeleton, classes=clips.classes)
    outcome = DDN(steps=150)(victim, clips)
    assert outcome.success.all()
    # (0.1 / 20) ** 0.5 is 0.0707, and straight along the first gradient it is 5 m.
    assert L2(1.0).distance(clips.xyz, outcome.adversarial.xyz) < 0.072


def test_it_turns_less_and_less(clips, victim):
    """A gradient without a direction of its own turns the displacement by no more than a step's share of it."""

    class Shaken(torch.nn.Module):
        generator = torch.Generator().manual_seed(0)

        def forward(self, xyz):
            noise = torch.randn(xyz[:1].shape, generator=self.generator)
            nothing = (noise * (xyz - xyz.detach())).flatten(1).sum(1, keepdim=True)
            return victim.module(xyz).detach() + torch.cat([nothing, -nothing], 1)

    attack = Watched(steps=20)
    attack(fb.TorchVictim(Shaken(), skeleton=clips.skeleton, classes=clips.classes), clips)
    moves = torch.nn.functional.normalize(torch.stack(attack.moves[1:]).flatten(2), dim=2)
    turned = (moves[1:] - moves[:-1]).norm(dim=2)
    shares = torch.tensor([falling(1.0, 0.01, k, 20) for k in range(1, 19)])
    assert (turned > 0.5 * shares[:, None]).all()
    assert (turned < 1.1 * shares[:, None]).all()


def test_what_a_threat_model_takes_off_does_not_let_the_norm_grow_for_ever(clips, victim):
    attack = Watched(steps=60)
    outcome = attack(victim, clips, threat=Linf(0.001))  # half of what is needed
    assert not outcome.success.any()
    # The first aim is where the border is.
    assert max(float(aim.max()) for aim in attack.aims[1:]) < 2.2 * max(float(norm.max()) for norm, _ in attack.visits)


@pytest.mark.parametrize("loss", ["goal", "ce", "margin", "dlr"])
def test_every_loss_begins_where_the_border_is_predicted(loss, clips, victim):
    attack = Watched(steps=4, loss=loss)
    outcome = attack(victim, clips)
    assert torch.allclose(attack.visits[1][0], torch.full((6,), 1.05 * 0.05), rtol=1e-3)
    assert (outcome.queries == 5 + (loss != "margin")).all()
    found = DDN(steps=50, loss=loss)(far_from_linear(victim, clips), clips)
    assert (L2(1.0).distance(clips.xyz, found.adversarial.xyz) < 1.02 * 0.05).all()
    assert not found.zero_gradient.any()  # there was none only where it was not needed


def test_in_a_ball_the_norm_grows_no_further_than_the_ball(clips, victim):
    attack = Watched(steps=12)
    attack(far_from_linear(victim, clips), clips, threat=L2(0.06))
    norms = torch.stack([norm for norm, _ in attack.visits])
    assert norms.max() <= 0.06 + 1e-6
    assert torch.allclose(norms[1:3], torch.tensor([[0.06], [0.03]]).expand(2, 6), rtol=1e-3)


@pytest.mark.parametrize(
    "settings", [{"gamma": 0.0}, {"gamma": 1.0}, {"step_size": -1.0}, {"last_step": 0.0}, {"steps": 0}], ids=str
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"ddn: {next(iter(settings))}"):
        fb.create_attack("ddn", **settings)


def test_a_loss_that_is_none_is_refused():
    with pytest.raises(fb.DataError, match="goal, ce, margin, dlr"):
        fb.create_attack("ddn", loss="hinge")
