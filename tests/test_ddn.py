"""DDN: the norm of every iterate, whatever the direction does."""

from dataclasses import dataclass, field

import pytest
import torch

import funnybone as fb
from funnybone.attacks.ddn import DDN
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2


@dataclass(frozen=True, kw_only=True)
class Watched(DDN):
    visits: list = field(default_factory=list)

    def step(self, problem, xyz, visit, k):
        self.visits.append((visit.norm, visit.fallen))
        return super().step(problem, xyz, visit, k)


def test_the_norm_follows_the_last_answer_alone():
    clips = random_clips(3)
    attack = Watched(steps=30, gamma=0.1)
    attack(linear_victim(clips, distance=0.05), clips)
    assert torch.allclose(attack.visits[1][0], torch.full((3,), 1.1 * 0.05), rtol=1e-3)  # predicted by the gradient
    for (before, fallen), (after, _) in zip(attack.visits[1:], attack.visits[2:], strict=False):
        # Until it has first missed, a clip that has fallen is halved; these missed at the start, which is no iterate.
        assert torch.isin(
            (after / before / torch.where(fallen, 1.0, 1.1)).round(decimals=3), torch.tensor([0.5, 0.9, 1.0])
        ).all()
        assert torch.equal(after > before, ~fallen)


def test_a_direction_that_is_wrong_at_first_is_turned():
    """The gradient at the clean clip is at right angles to that at the border's nearest point."""
    clips = random_clips(2)
    size = clips.xyz[0].numel()
    first, second = torch.nn.functional.normalize(torch.eye(2, size) + 0.0, dim=1)

    class Turning(torch.nn.Module):
        def forward(self, xyz):
            row = torch.cdist(xyz.detach().flatten(1), clips.xyz.flatten(1)).argmin(1)
            moved = (xyz - clips.xyz[row]).flatten(1)
            along, across = moved @ first, moved @ second
            score = 0.1 - 0.02 * along - 20 * across**2 - 0.001 * across  # the nearest point is along neither axis
            return torch.stack([score, -score], 1)

    clips = clips.with_xyz(clips.xyz)
    victim = fb.TorchVictim(Turning(), skeleton=clips.skeleton, classes=clips.classes)
    outcome = DDN(steps=300)(victim, clips[[0]])
    way = (outcome.adversarial.xyz - clips.xyz[:1]).norm()
    assert outcome.success.all()
    assert way < 0.075  # (0.1 / 20) ** 0.5 is 0.0707, and straight along the first gradient it is 5 m


def test_in_a_ball_it_keeps_to_the_ball(clips, victim):
    attack = Watched(steps=20)
    attack(victim, clips, threat=L2(0.03))
    assert max(float(norm.max()) for norm, _ in attack.visits) <= 0.03 + 1e-6


@pytest.mark.parametrize(
    "settings", [{"gamma": 0.0}, {"gamma": 1.0}, {"step_size": -1.0}, {"last_step": 0.0}, {"steps": 0}]
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"ddn: {next(iter(settings))}"):
        fb.create_attack("ddn", **settings)
    with pytest.raises(fb.DataError, match="goal, ce, margin, dlr"):
        DDN(loss="hinge")
