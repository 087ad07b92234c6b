"""FGSM: one step, as long as the budget allows."""

import pytest
import torch

import funnybone as fb
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2, Linf


@pytest.mark.parametrize("norm", [Linf, L2])
def test_against_a_plane_one_step_is_exact(norm):
    clips = random_clips(6)
    victim = linear_victim(clips, distance=0.05)
    exact = 0.05 if norm is L2 else 0.05 / victim.module.plane.normal.abs().sum().item()
    outcome = fb.create_attack("fgsm")(victim, clips, threat=norm(1.001 * exact))
    assert outcome.success.all()
    assert outcome.steps.tolist() == [1] * 6
    assert outcome.queries.tolist() == [2] * 6
    assert outcome.gradients.tolist() == [1] * 6


def test_the_step_is_the_whole_radius_against_the_sign_of_the_gradient():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.05)
    outcome = fb.create_attack("fgsm")(victim, clips, threat=Linf(0.02))
    towards = torch.where(clips.labels == 0, -1.0, 1.0)[:, None, None, None, None] * victim.module.plane.normal.sign()
    torch.testing.assert_close(outcome.adversarial.xyz - clips.xyz, 0.02 * towards.detach(), atol=1e-6, rtol=0)
    half = fb.create_attack("fgsm", step_size=0.5)(victim, clips, threat=Linf(0.02))
    torch.testing.assert_close(half.adversarial.xyz - clips.xyz, 0.01 * towards.detach(), atol=1e-6, rtol=0)


def test_a_start_at_random_is_another_attack_within_the_same_budget():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.5)  # out of reach
    plain = fb.create_attack("fgsm")(victim, clips, threat=Linf(0.01))
    begun = fb.create_attack("fgsm", random_start=True)(victim, clips, threat=Linf(0.01))
    assert (plain.adversarial.xyz != begun.adversarial.xyz).flatten(1).any(1).all()
    assert begun.violation.max() <= 1e-6
    longer = fb.create_attack("fgsm", random_start=True, step_size=2.0)(victim, clips, threat=Linf(0.01))
    torch.testing.assert_close(longer.adversarial.xyz, plain.adversarial.xyz, atol=1e-6, rtol=0)


class Valley(torch.nn.Module):
    """A linear victim whose sureness falls at first on the way to its border, rises beyond, and is never nothing."""

    def __init__(self, module, distance):
        super().__init__()
        self.module, self.distance = module, distance

    def forward(self, xyz):
        score = self.module(xyz) / self.distance
        gone = 1 - score.abs()
        return score.detach().sign() * (1 - gone + 5 * gone.square())


def test_a_step_that_leads_away_is_not_taken():
    clips = random_clips(4)
    linear = linear_victim(clips, distance=0.05)
    victim = fb.TorchVictim(Valley(linear.module, 0.05), skeleton=clips.skeleton, classes=clips.classes)
    exact = 0.05 / linear.module.plane.normal.abs().sum().item()
    far = fb.create_attack("fgsm")(victim, clips, threat=Linf(exact))
    assert far.attacked.all()
    assert not far.success.any()
    assert torch.equal(far.adversarial.xyz, clips.xyz)
    near = fb.create_attack("fgsm")(victim, clips, threat=Linf(0.1 * exact))
    assert (near.adversarial.xyz != clips.xyz).flatten(1).any(1).all()


def test_more_than_one_step_is_another_attack():
    assert "steps" not in repr(fb.create_attack("fgsm"))
    assert fb.create_attack("fgsm").settings()["steps"] == 1
    with pytest.raises(fb.DataError, match="has no setting 'steps'"):
        fb.create_attack("fgsm", steps=2)
