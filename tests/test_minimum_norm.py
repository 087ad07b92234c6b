"""What holds of every attack that looks for the nearest clip, C&W, DDN and FAB, on borders that are known."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks.border import length
from funnybone.goals import AnythingBut, AnythingButTop, Specified
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf, Mask, Unbounded
from narrow_models import narrow

CW = fb.create_attack("cw", steps=50, binary_searches=3)
DDN = fb.create_attack("ddn", steps=50)
FAB = fb.create_attack("fab", steps=20)
FAB_LINF = fb.create_attack("fab", steps=20, norm="linf")
FAB_T = fb.create_attack("fab", steps=10, targets=3, restarts=2)
NAMED = {"cw": CW, "ddn": DDN, "fab": FAB, "fab-linf": FAB_LINF}
every_attack = pytest.mark.parametrize("attack", NAMED.values(), ids=NAMED)
every_way = pytest.mark.parametrize("attack", [*NAMED.values(), FAB_T], ids=[*NAMED, "fab-t"])
# What the mean may be over the exact distance; each clip may be at 1.25.
ALLOWED = {"cw": 1.05, "ddn": 1.05, "fab": 1.02}


def ways(attack, outcome, clips):
    return length(outcome.adversarial.xyz - clips.xyz, attack.minimised)


def dual(attack, normals):
    """What a margin is divided by to have a distance: the norm of its gradient that goes with the attack's."""
    return normals.flatten(1).norm(p=1 if attack.minimised == "linf" else 2, dim=1)


class Planes(torch.nn.Module):
    """Linear logits of several classes, and noise of a known size from a source of its own."""

    def __init__(self, clips, classes, noise=0.0):
        super().__init__()
        self.generator, self.noise = torch.Generator().manual_seed(5), noise
        weights = torch.randn(classes, clips.xyz[0].numel(), generator=self.generator)
        self.weights = torch.nn.Parameter(20 * torch.nn.functional.normalize(weights))
        self.centre = torch.nn.Parameter(clips.xyz.mean(0))

    def forward(self, xyz):
        logits = (xyz - self.centre).flatten(1) @ self.weights.T
        return logits + self.noise * torch.randn(logits.shape, generator=self.generator)


class Changed(torch.nn.Module):
    """A victim whose answers something is done to."""

    def __init__(self, module, change):
        super().__init__()
        self.module, self.change = module, change

    def forward(self, xyz):
        return self.change(self.module(xyz))


def seen_right(module, clips, classes, **settings):
    """A victim, and the clips under the names that it gives them."""
    names = tuple(f"class{i}" for i in range(classes))
    clips = dataclasses.replace(clips, labels=module(clips.xyz).argmax(1), classes=names)
    return fb.TorchVictim(module, skeleton=clips.skeleton, classes=names, **settings), clips


def bent(clips, classes=5):
    """A victim whose borders bend."""
    inputs = clips.xyz[0].numel()
    linear, generator = torch.nn.Linear, torch.Generator().manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), linear(inputs, 24), torch.nn.Tanh(), linear(24, classes))
    for weights in module.parameters():
        weights.data = torch.randn(weights.shape, generator=generator) / weights.shape[-1] ** 0.5
    return seen_right(module, clips, classes)


@pytest.fixture(scope="module")
def planes():
    clips = random_clips(8)
    return seen_right(Planes(clips, 6), clips, 6)


@pytest.mark.parametrize(
    ("attack", "threat"),
    [(CW, Unbounded()), (DDN, L2(0.2)), (FAB, L2(0.06)), (FAB_LINF, Linf(0.02)), (FAB_T, Unbounded())],
    ids=str,
)
def test_it_passes_the_exam(attack, threat):
    check_attack(attack, threat=threat)


@every_way
def test_it_ends_at_the_border(attack, clips, victim):
    outcome = attack(victim, clips)
    assert outcome.success.all()
    ratio = ways(attack, outcome, clips) / (0.05 / dual(attack, victim.module.plane.normal[None]))
    assert ratio.min() >= 1 - 1e-4
    assert ratio.mean() <= ALLOWED[attack.name]
    assert ratio.max() <= 1.25


@every_attack
def test_of_several_borders_it_ends_at_the_nearest(attack, planes):
    victim, clips = planes
    logits, weights = victim.logits(clips.xyz).detach(), victim.module.weights.detach()
    lead = logits.gather(1, clips.labels[:, None]) - logits
    slopes = dual(attack, (weights[clips.labels][:, None] - weights).flatten(0, 1)).view_as(lead)
    exact = (lead / slopes).nan_to_num(nan=torch.inf).amin(1)
    attack = dataclasses.replace(attack, classes=5) if attack.name == "fab" else attack
    ratio = ways(attack, attack(victim, clips), clips) / exact
    assert ratio.min() >= 1 - 1e-3
    assert ratio.median() <= 1.05
    # C&W and DDN follow the most probable class, which need not be the nearest.
    assert ratio.max() <= (1.02 if attack.name == "fab" else 1.25)


@every_way
def test_more_steps_do_no_worse(attack):
    victim, clips = bent(random_clips(8))
    few, some, many = (
        ways(attack, dataclasses.replace(attack, steps=steps)(victim, clips), clips) for steps in (8, 20, 50)
    )
    assert (some <= 1.02 * few).all()
    assert (many <= 1.02 * some).all()
    assert many.mean() < few.mean()


def test_they_agree_where_borders_bend_and_a_fixed_budget_finds_no_more():
    victim, clips = bent(random_clips(8))
    found = torch.stack([ways(attack, attack(victim, clips), clips) for attack in (CW, DDN, FAB, FAB_T)])
    assert (found <= 1.1 * found.amin(0)).all()
    pgd = fb.create_attack("pgd", steps=40, loss="margin", random_start=False)
    nearer = [pgd(victim, clips[[row]], threat=L2(0.9 * float(way))) for row, way in enumerate(found.amin(0))]
    assert sum(int(outcome.success) for outcome in nearer) <= 1


@every_way
def test_a_network_falls(attack):
    network = narrow("stgcn")
    clips = random_clips(3, persons=network.persons, frames=24, skeleton=network.skeleton)
    victim, clips = seen_right(network, clips, 5)
    light = {"cw": {"binary_searches": 2}, "fab": {"targets": min(1, getattr(attack, "targets", 0)), "restarts": 1}}
    outcome = dataclasses.replace(attack, steps=20, **light.get(attack.name, {}))(victim, clips)
    assert outcome.attacked.all()
    assert outcome.success.all()


@every_way
@pytest.mark.parametrize("goal", [AnythingButTop(2), AnythingButTop(3), Specified(2), Specified()])
def test_any_goal_is_reached_and_hardly_more(attack, goal, planes):
    victim, clips = planes
    outcome = attack(victim, clips, goal=goal)
    assert outcome.attacked.any()
    assert torch.equal(outcome.success, outcome.attacked)
    before, after = (
        goal.margin(victim.logits(xyz).detach(), outcome.reference)[outcome.attacked]
        for xyz in (clips.xyz, outcome.adversarial.xyz)
    )
    assert (after < 0).all()
    assert (after > -0.1 * before).all()


@every_attack
def test_a_ball_bounds_the_result(attack, clips, victim):
    one = victim.module.plane.normal.detach()[None]
    ball = Linf if attack.minimised == "linf" else L2
    exact = float(0.05 / dual(attack, one))
    assert not attack(victim, clips, threat=ball(0.99 * exact)).success.any()
    tight = attack(victim, clips, threat=ball(1.03 * exact))
    assert tight.success.all()
    assert tight.violation.max() == 0
    # A ball in the other norm, too small for the shortest way.
    other = L2(0.06) if ball is Linf else Linf(1.6 * 0.05 / float(one.abs().sum()))
    assert other.distance(clips.xyz, attack(victim, clips).adversarial.xyz).min() > other.radius
    crossed = dataclasses.replace(attack, steps=100)(victim, clips, threat=other)
    assert crossed.success.all()
    assert crossed.violation.max() <= 1e-6


@every_way
def test_held_joints_take_no_part(attack):
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.05)
    normal = victim.module.plane.normal.detach()
    exact = 0.05 / dual(attack, normal[None, :, :, :3])
    outcome = attack(victim, clips, threat=Mask(joints=(0, 1, 2)))
    assert torch.equal(outcome.adversarial.xyz[..., 3:, :], clips.xyz[..., 3:, :])
    assert outcome.success.all()
    assert (ways(attack, outcome, clips) <= ALLOWED[attack.name] * exact).all()


@every_way
def test_composed_threat_models_hold(attack, clips, victim):
    outcome = attack(victim, clips, threat=Linf(0.03) & BoneLength(0.02) & Mask(frames=(0, 6)))
    assert outcome.violation.max() == 0
    assert torch.equal(outcome.adversarial.xyz[:, :, 6:], clips.xyz[:, :, 6:])
    assert outcome.success.all()


@every_way
def test_a_clip_goes_where_it_goes_alone(attack):
    victim, clips = bent(random_clips(6))
    together = attack(victim, clips)
    alone = attack(victim, clips[[4, 1]], batch_size=1)
    assert torch.equal(alone.queries, together.queries[[4, 1]])
    assert torch.allclose(alone.adversarial.xyz, together.adversarial.xyz[[4, 1]], atol=1e-5)


@every_way
@pytest.mark.parametrize("budget", [1, 2, 9, 26])
def test_a_budget_is_spent_and_kept(attack, budget, clips, victim):
    free, bound = attack(victim, clips), attack(victim, clips, budget=budget)
    assert torch.equal(bound.queries, free.queries.clamp(max=budget))
    assert (bound.steps < bound.queries + (budget == 1)).all()
    assert (bound.success.float().mean() > 0) == (budget > 3)


@every_way
@pytest.mark.parametrize("scale", [1e-15, 1e5])
def test_the_scale_of_logits_and_the_unit_do_not_matter(attack, scale, clips, victim):
    module = Changed(victim.module, lambda logits: scale * logits)
    other = fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes)
    plain, scaled = (ways(attack, attack(who, clips), clips) for who in (victim, other))
    assert torch.allclose(plain, scaled, rtol=0.02)
    pixels = dataclasses.replace(clips, xyz=1000 * clips.xyz)
    in_pixels = ways(attack, attack(linear_victim(pixels, distance=50.0), pixels), pixels)
    assert torch.allclose(1000 * plain, in_pixels, rtol=0.02)


@every_way
@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_a_victim_that_saturates_is_searched_as_well(attack, sharpness, clips, victim):
    """Its first gradient predicts a border that is up to thirteen times too far away."""
    module = Changed(victim.module, lambda logits: torch.tanh(sharpness * logits / 0.05))
    saturated = fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes)
    outcome = dataclasses.replace(attack, steps=60)(saturated, clips)
    assert outcome.success.all()
    exact = 0.05 / dual(attack, victim.module.plane.normal[None])
    assert (ways(attack, outcome, clips) <= 1.1 * exact).all()


@every_attack
def test_a_victim_that_draws_is_asked_for_means(attack):
    clips = random_clips(6)
    victim, clips = seen_right(Planes(clips, 4), clips, 4, stochastic=True)
    quiet = ways(attack, attack(victim, clips), clips)
    victim.module.noise = 0.1
    outcome = dataclasses.replace(attack, steps=20)(victim, clips, draws=8)
    assert (outcome.queries % 8 == 0).all()
    assert (ways(attack, outcome, clips) < 1.5 * quiet)[outcome.attacked].all()
    # Where the nearest clip is, at the border, about half of the answers are others.
    assert (outcome.agreement > 0.1)[outcome.attacked].all()
    assert (outcome.success == (outcome.attacked & (outcome.agreement > 0.5))).all()


@pytest.mark.parametrize("attack", [DDN, FAB], ids=["ddn", "fab"])
def test_what_mixed_precision_takes_for_fallen_is_asked_again(attack):
    victim, clips = bent(random_clips(6))
    plain, mixed = (attack(victim, clips, precision=precision) for precision in ("fp32", "bf16"))
    assert mixed.success.all()
    assert torch.allclose(ways(attack, plain, clips), ways(attack, mixed, clips), rtol=0.1)
    assert (mixed.queries > mixed.gradients + 1).any()


@every_way
def test_a_victim_without_gradient_is_reported_and_held_joints_are_not(attack, clips, victim):
    module = Changed(victim.module, lambda logits: logits.sign() + 0 * logits)
    blind = attack(fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes), clips)
    assert blind.attacked.all()
    assert blind.zero_gradient.all()
    assert torch.equal(blind.adversarial.xyz, clips.xyz)
    held = attack(victim, clips, threat=Mask(joints=()))
    assert not held.zero_gradient.any()
    assert torch.equal(held.adversarial.xyz, clips.xyz)


@every_way
def test_progress_never_goes_back(attack, clips, victim):
    told = []
    attack(victim, clips, progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (6, 6, 6)
    assert told == sorted(told)
