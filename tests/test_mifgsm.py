"""MI-FGSM: the memory of earlier gradients."""

import pytest
import torch

import funnybone as fb
from funnybone.attacks.mifgsm import of_length_one
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2, Linf
from parts_for_tests import problem_of


def problem_at(clips):
    return problem_of(linear_victim(clips), clips, threat=Linf(0.01))


def test_it_is_the_published_sum_of_gradients_of_length_one():
    problem, attack = problem_at(random_clips(3)), fb.create_attack("mifgsm", momentum=0.7)
    attack.start(problem)
    generator, expected = torch.Generator().manual_seed(0), torch.zeros_like(problem.clean)
    for size in (1.0, 1e4, 1e-36, 3.0):  # how sure the victim is in a step does not count
        gradient = torch.randn(problem.clean.shape, generator=generator)
        expected = 0.7 * expected + gradient / gradient.abs().sum((1, 2, 3, 4), keepdim=True)
        torch.testing.assert_close(attack.followed(problem, size * gradient), expected, rtol=1e-3, atol=1e-7)


def test_a_clip_without_gradient_goes_on_as_before():
    problem, attack = problem_at(random_clips(2)), fb.create_attack("mifgsm")
    attack.start(problem)
    gradient = torch.randn(problem.clean.shape, generator=torch.Generator().manual_seed(0))
    first = attack.followed(problem, gradient)
    assert torch.equal(attack.followed(problem, torch.zeros_like(gradient)), first)
    assert not of_length_one(torch.zeros_like(gradient)).any()


def test_the_memory_of_a_clip_stays_with_it():
    problem, attack = problem_at(random_clips(4)), fb.create_attack("mifgsm")
    attack.start(problem)
    generator = torch.Generator().manual_seed(0)
    before = attack.followed(problem, torch.randn(problem.clean.shape, generator=generator))
    kept = torch.tensor([False, True, False, True])
    gradient = torch.randn(before[kept].shape, generator=generator)
    after = attack.followed(problem.keep(kept), gradient)
    torch.testing.assert_close(after - of_length_one(gradient), before[kept], atol=1e-7, rtol=0)


class Torn(torch.nn.Module):
    """A classifier whose gradient turns from step to step: a steep valley across the way to the border."""

    def __init__(self, clips):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        along, across = torch.linalg.qr(torch.randn(clips.xyz[0].numel(), 2, generator=generator)).Q.T
        self.register_buffer("clean", clips.xyz.flatten(1))
        self.register_buffer("along", along)
        self.register_buffer("across", across)
        self.register_buffer("side", torch.where(clips.labels == 0, 1.0, -1.0))

    def forward(self, xyz):
        flat = xyz.flatten(1)
        row = torch.cdist(flat.detach(), self.clean).argmin(1)
        change = flat - self.clean[row]
        score = 0.05 + change @ self.along + 1000 * (change @ self.across - 0.005).square()
        return self.side[row, None] * torch.stack([score, -score], 1)


def test_momentum_goes_through_a_valley_in_fewer_steps():
    clips = random_clips(6)
    victim = fb.TorchVictim(Torn(clips), skeleton=clips.skeleton, classes=clips.classes)
    steps = {}
    for momentum in (0.0, 1.0):
        attack = fb.create_attack("mifgsm", steps=200, momentum=momentum)
        outcome = attack(victim, clips, threat=L2(0.1))
        assert outcome.success.all()
        steps[momentum] = outcome.steps.float().mean()
    assert steps[1.0] < steps[0.0] / 2


@pytest.mark.parametrize("threat", [Linf(0.002), L2(0.02)], ids=["linf", "l2"])
def test_without_momentum_it_is_pgd_from_the_clean_clip(threat):
    clips = random_clips(6)
    victim = fb.TorchVictim(Torn(clips), skeleton=clips.skeleton, classes=clips.classes)
    settings = {"steps": 7, "step_size": 0.3, "random_start": False}
    ones = [fb.create_attack("pgd", **settings), fb.create_attack("mifgsm", momentum=0.0, **settings)]
    pgd, mifgsm = (attack(victim, clips, threat=threat) for attack in ones)
    assert not pgd.success.any()
    torch.testing.assert_close(mifgsm.adversarial.xyz, pgd.adversarial.xyz, atol=1e-6, rtol=0)
    other = fb.create_attack("mifgsm", **settings)(victim, clips, threat=threat)
    assert (other.adversarial.xyz - pgd.adversarial.xyz).abs().max() > 1e-5


def test_ten_published_steps_reach_the_surface_of_the_ball():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=1.0)  # out of reach
    outcome = fb.create_attack("mifgsm")(victim, clips, threat=Linf(0.01))
    assert outcome.steps.tolist() == [10] * 4
    assert (outcome.adversarial.xyz - clips.xyz).abs().min() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan"), "much"])
def test_momentum_is_a_share(momentum):
    with pytest.raises(fb.DataError, match="momentum"):
        fb.create_attack("mifgsm", momentum=momentum)
