"""APGD: the border of victims where it is known, the published rules for its steps, and PGD beside it."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks.apgd import _judge_steps, checkpoints
from funnybone.attacks.losses import dlr
from funnybone.attacks.towards import Towards, wanted_classes
from funnybone.goals import AnythingBut, AnythingButTop, Specified
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf, Mask
from funnybone.victims.base import predict
from parts_for_tests import noisy

LOSSES = [{"loss": "goal"}, {"loss": "ce"}, {"loss": "dlr"}, {"loss": "dlr", "targets": 9}]


class Affine(torch.nn.Module):
    """Linear logits of the displacement from the nearest of some clips, whose own logits are given."""

    def __init__(self, weights, clean, logits):
        super().__init__()
        self.weights, self.clean, self.logits = (torch.nn.Parameter(part) for part in (weights, clean, logits))

    def forward(self, xyz):
        nearest = torch.cdist(xyz.detach().flatten(1), self.clean.flatten(1)).argmin(1)
        moved = (xyz - self.clean[nearest]).flatten(1)
        return self.logits[nearest] + moved @ self.weights.T


def at_a_distance(classes, distance, norm, *, crowded=False):
    """A linear victim of some classes, and clips that are all as far from its border in a norm.

    The nearest class is some 10 below the true one, and no other is half as near. In a crowd all are about as near,
    and so little below that a softmax hardly tells them apart.
    """
    generator = torch.Generator().manual_seed(classes)
    clips = random_clips(10)
    clips = dataclasses.replace(clips, labels=torch.arange(10) % classes, classes=tuple("abcdefgh"[:classes]))
    weights = torch.randn(classes, clips.xyz[0].numel(), generator=generator)
    short = 1 + torch.rand(10, classes, generator=generator)  # by how much each class is below the true one
    if not crowded:
        short[torch.arange(10), (clips.labels + 1) % classes] = 0.3
        weights = weights * 10 / (distance * (weights[0] - weights[1]).norm(p=2 if norm is L2 else 1))
    short.scatter_(1, clips.labels[:, None], 0)
    slope = (weights[clips.labels][:, None] - weights).norm(p=2 if norm is L2 else 1, dim=2)
    nearest = (short / slope).scatter(1, clips.labels[:, None], torch.inf).amin(1)
    victim = fb.TorchVictim(
        Affine(weights, clips.xyz, -short * (distance / nearest)[:, None]),
        skeleton=clips.skeleton,
        classes=clips.classes,
    )
    return victim, clips


class Curved(torch.nn.Module):
    """A few units that bend, in float64, so that batches of any size give the same numbers."""

    def __init__(self, clips, classes=5, scale=1.0, bend=1.0, width=12):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        inputs = clips.xyz[0].numel()
        self.first = torch.nn.Parameter(bend * torch.randn(inputs, width, generator=generator).double() / inputs**0.5)
        self.second = torch.nn.Parameter(scale * torch.randn(width, classes, generator=generator).double())

    def forward(self, xyz):
        return torch.sin(xyz.flatten(1).double() @ self.first) @ self.second


def curved(n=48, **how):
    """A victim with a border that bends, and clips that it gets right."""
    clips = random_clips(n)
    module = Curved(clips, **how)
    clips = dataclasses.replace(clips, labels=module(clips.xyz).argmax(1), classes=tuple("abcde"))
    return fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes), clips


@pytest.mark.parametrize(
    ("settings", "threat"),
    [({}, Linf(0.02)), ({"loss": "dlr", "targets": 9, "restarts": 2}, Linf(0.02)), ({"loss": "ce"}, L2(0.06))],
)
def test_it_passes_the_exam(settings, threat):
    check_attack(fb.create_attack("apgd", steps=10, **settings), threat=threat)


@pytest.mark.parametrize("settings", LOSSES, ids=str)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("norm", [Linf, L2])
def test_it_finds_the_border_whenever_the_ball_reaches_it(norm, classes, settings):
    distance = 0.05 if norm is L2 else 0.002
    victim, clips = at_a_distance(classes, distance, norm)
    attack = fb.create_attack("apgd", steps=16, **settings)
    reached = attack(victim, clips, threat=norm(1.02 * distance))
    assert reached.attacked.all()
    assert reached.success.all()
    assert not attack(victim, clips, threat=norm(0.98 * distance)).success.any()


@pytest.mark.parametrize("norm", [Linf, L2])
def test_targets_find_the_border_also_where_all_classes_are_about_as_near(norm):
    distance = 0.05 if norm is L2 else 0.002
    victim, clips = at_a_distance(5, distance, norm, crowded=True)
    soft, targeted = (fb.create_attack("apgd", steps=16, **settings) for settings in (LOSSES[0], LOSSES[-1]))
    assert targeted(victim, clips, threat=norm(1.02 * distance)).success.all()
    assert not targeted(victim, clips, threat=norm(0.98 * distance)).success.any()
    # A loss of all classes at once leads to where each of them is a little nearer, not to where one is first.
    assert not soft(victim, clips, threat=norm(1.02 * distance)).success.all()


@pytest.mark.parametrize("loss", ["goal", "dlr"])
def test_it_does_no_worse_than_pgd_with_as_many_gradients_of_a_sure_victim(loss):
    victim, clips = curved(scale=1e4, bend=4.0)
    gained = 0
    for steps in (5, 15):
        for threat in (Linf(0.01), L2(0.2)):
            apgd, pgd = (
                fb.create_attack(name, steps=steps, loss=loss)(victim, clips, threat=threat) for name in ("apgd", "pgd")
            )
            assert max(int(outcome.gradients.max()) for outcome in (apgd, pgd)) <= steps
            assert int(apgd.success.sum()) >= int(pgd.success.sum())
            gained += int(apgd.success.sum() - pgd.success.sum())
    assert gained > 0


def test_cross_entropy_is_flat_where_log_odds_are_not():
    """And where it is not flat, both lead along one path."""
    victim, clips = curved(scale=1e4)
    ce, goal = (fb.create_attack("apgd", steps=10, loss=loss) for loss in ("ce", "goal"))
    assert ce(victim, clips, threat=Linf(0.02)).zero_gradient.any()
    assert not goal(victim, clips, threat=Linf(0.02)).zero_gradient.any()
    victim, clips = curved()
    for target in (AnythingBut(), Specified()):
        paths = [attack(victim, clips, threat=L2(0.3), goal=target) for attack in (ce, goal)]
        assert 0 < paths[0].success.sum() < paths[0].attacked.sum()
        assert torch.equal(paths[0].steps, paths[1].steps)
        assert torch.allclose(paths[0].adversarial.xyz, paths[1].adversarial.xyz, atol=1e-3)


class Wavy(torch.nn.Module):
    """A margin with many hills that is nowhere below zero; remembers where it was asked."""

    def __init__(self, clean, bend):
        super().__init__()
        ways = torch.randn(clean[0].numel(), 6, generator=torch.Generator().manual_seed(7)).double()
        self.clean, self.ways = torch.nn.Parameter(clean), torch.nn.Parameter(bend * ways)
        self.seen = []

    def forward(self, xyz):
        self.seen.append(xyz.detach().clone())
        waves = torch.sin((xyz - self.clean[0]).flatten(1).double() @ self.ways)
        margin = 8 + waves.sum(1)
        return torch.stack([margin, 0 * margin], 1)


def wavy(bend):
    clips = random_clips(1)
    return fb.TorchVictim(Wavy(clips.xyz, bend), skeleton=clips.skeleton, classes=clips.classes), clips


def published(start, clean, margin, threat, steps):
    """The published algorithm for one clip, as it is written down: with lists, and no thought of others."""
    checks = [0, *(steps * per_cent // 100 for per_cent in (22, 41, 57, 70, 80, 87, 93, 99))]
    size, halvings, halved, lowest_then = 2.0, 0, True, None
    x, previous, from_loss, best = start, start, torch.inf, (torch.inf,)
    at, improved = [start], []
    for k in range(steps):
        x = x.clone().requires_grad_(True)
        loss = margin(x)
        (gradient,) = torch.autograd.grad(loss, x)
        x, loss = x.detach(), loss.item()
        improved.append(loss < from_loss if k else None)
        if loss < best[0]:
            best = (loss, x, gradient)
        from_loss = loss
        if k in checks[1:]:
            since = improved[checks[checks.index(k) - 1] + 1 : k + 1]
            stuck = not halved and best[0] == lowest_then
            halved, lowest_then = sum(since) < 0.75 * len(since) or stuck, best[0]
            if halved:
                size, halvings = size / 2, halvings + 1
                (from_loss, x, gradient) = best
        ahead = threat.project(clean, x - size * threat.steepest(gradient))
        moved = ahead if k == 0 else x + 0.75 * (ahead - x) + 0.25 * (x - previous)
        x, previous = threat.project(clean, moved), x
        at.append(x)
    return at, halvings


@pytest.mark.parametrize(("threat", "bend"), [(Linf(0.01), 1.0), (Linf(0.01), 4.0), (L2(0.3), 1.0), (L2(0.3), 4.0)])
def test_its_iterates_are_those_of_the_published_algorithm(threat, bend):
    victim, clips = wavy(bend)
    fb.create_attack("apgd", steps=100)(victim, clips, threat=threat)
    seen = victim.module.seen[1:-1]  # the first and the last are the evaluator's
    module = Wavy(clips.xyz, bend)

    def margin(xyz):
        return (module(xyz).float() @ torch.tensor([1.0, -1.0])).sum()

    at, halvings = published(seen[0], clips.xyz, margin, threat, 100)
    assert halvings >= 3
    assert len(seen) == len(at) == 101
    for mine, theirs in zip(seen, at, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_of_runs_that_all_miss_the_best_is_kept():
    victim, clips = wavy(3.0)
    lowest = []
    for runs in (1, 2, 4, 8):
        outcome = fb.create_attack("apgd", steps=2, restarts=runs)(victim, clips, threat=Linf(0.01))
        asked = torch.cat(victim.module.seen[1:-1])
        victim.module.seen.clear()
        margins = victim.logits(asked)[:, 0]
        assert torch.equal(outcome.adversarial.xyz[0], asked[margins.argmin()])
        assert len(asked) == 3 * runs
        lowest.append(float(margins.min()))
        victim.module.seen.clear()
    assert lowest == sorted(lowest, reverse=True)
    assert lowest[0] > lowest[-1]


def test_a_gradient_that_is_no_number_moves_nothing_and_is_reported():
    clips = random_clips(4)

    class Broken(torch.nn.Module):
        def forward(self, xyz):
            logits = torch.nn.functional.one_hot(clips.labels, 2).float()[: len(xyz)]
            return logits + 0 * (xyz - xyz.detach()).flatten(1).sum(1, keepdim=True).sqrt()

    victim = fb.TorchVictim(Broken(), skeleton=clips.skeleton, classes=clips.classes)
    outcome = fb.create_attack("apgd", steps=10)(victim, clips, threat=Linf(0.01))
    assert outcome.zero_gradient.all()
    assert torch.isfinite(outcome.adversarial.xyz).all()
    assert (outcome.queries == 11).all()


def test_checkpoints_are_the_published_ones():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(1000)) == [220, 410, 570, 700, 800, 870, 930, 990]
    for steps in range(1, 60):
        places = checkpoints(steps)
        assert all(0 < after < steps for after in places)
        assert sum(places.values()) == max(places, default=0)  # intervals lie end to end


def test_steps_are_halved_for_the_clips_that_need_it_and_for_no_others():
    xyz, best = torch.zeros(4, 1, 1, 1, 3), torch.ones(4, 1, 1, 1, 3)
    state = {
        "size": torch.full((4,), 2.0),
        # of 10 steps: enough; too few; enough, but nothing came of it; the same, but the step was halved before
        "improved": torch.tensor([8, 7, 10, 10]),
        "halved": torch.tensor([False, False, False, True]),
        "lowest": torch.tensor([1.0, 1.0, 2.0, 2.0]),
        "lowest_before": torch.tensor([2.0, 2.0, 2.0, 2.0]),
        "loss": torch.full((4,), 5.0),
        "best": best,
        "best_gradient": 3 * best,
    }
    moved, gradient = _judge_steps(state, xyz, 7 * best, interval=10, rho=0.75)
    assert state["size"].tolist() == [2.0, 1.0, 1.0, 2.0]
    assert state["halved"].tolist() == [False, True, True, False]
    assert moved[:, 0, 0, 0, 0].tolist() == [0, 1, 1, 0]
    assert gradient[:, 0, 0, 0, 0].tolist() == [7, 3, 3, 7]
    assert state["loss"].tolist() == [5.0, 1.0, 2.0, 5.0]  # the next step improves on where it begins
    assert state["improved"].tolist() == [0, 0, 0, 0]
    assert state["lowest_before"].tolist() == [1.0, 1.0, 2.0, 2.0]


def test_the_targeted_ratio_is_that_of_the_paper():
    logits = torch.tensor([[5.0, 1.0, 4.0, 2.0, -1.0], [0.5, 3.0, 1.0, 2.0, 2.5]])
    truth, wanted = torch.tensor([0, 1]), torch.tensor([1, 0])
    by_hand = torch.tensor([(5 - 1) / (5 - (2 + 1) / 2), (3 - 0.5) / (3 - (2 + 1) / 2)])
    assert torch.allclose(dlr(Towards(wanted), logits, truth), by_hand)
    few = dlr(Towards(wanted[:1]), logits[:1, :2], truth[:1])  # two classes: the margin itself
    assert few.tolist() == [4.0]


def test_targets_are_the_other_classes_the_likely_ones_first():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 7, generator=generator)
    truth = logits.argmax(1)
    order = logits.argsort(1, descending=True)
    for n in (1, 2, 3):
        wanted = wanted_classes(logits, truth, place=n, targets=9)
        assert torch.equal(wanted, order[:, n:])
        assert torch.equal(wanted_classes(logits, truth, place=n, targets=2), wanted[:, :2])
        # Whoever is led all the way has achieved the goal, by the class that is wanted.
        goal, shuffled = AnythingButTop(n), logits[:, torch.randperm(7, generator=generator)]
        for chosen in wanted.unbind(1):
            margin = Towards(chosen, n).margin(shuffled, truth)
            assert (margin >= goal.margin(shuffled, truth)).all()
            above = shuffled.gather(1, chosen[:, None]) > shuffled.gather(1, truth[:, None])
            assert torch.equal(margin < 0, goal.achieved(shuffled, truth) & above.squeeze(1))


def test_targets_find_what_the_likeliest_class_hides():
    """The likeliest other class can be reached nowhere in the ball, and its gradient leads away from one that can."""
    generator = torch.Generator().manual_seed(4)
    clips = random_clips(8)
    clips = dataclasses.replace(clips, labels=torch.zeros(8, dtype=torch.long), classes=tuple("abcd"))
    size = clips.xyz[0].numel()
    near = torch.randn(size, generator=generator).sign()
    # Class b rises slowly against class c, which is farther below and rises fast the other way.
    weights = torch.stack([0 * near, 0.1 * near, -near, 0 * near])
    reach = 0.01 * size
    logits = torch.tensor([[0.0, -0.11 * reach, -0.9 * reach, -5 * reach]]).expand(8, -1)
    victim = fb.TorchVictim(Affine(weights, clips.xyz, logits), skeleton=clips.skeleton, classes=clips.classes)
    plain, targeted = (
        fb.create_attack("apgd", steps=20, loss="dlr", targets=targets)(victim, clips, threat=Linf(0.01))
        for targets in (0, 9)
    )
    assert not plain.success.any()
    assert targeted.success.all()
    assert (targeted.prediction == 2).all()
    assert (targeted.steps > 20).all()  # the steps of the first target are counted


class TwoValleys(torch.nn.Module):
    """Along one direction it goes down both ways: one way to the border, the other to nowhere."""

    def __init__(self, clean, radius):
        super().__init__()
        normal = torch.randn(clean[0].numel(), generator=torch.Generator().manual_seed(3))
        self.clean, self.normal = (torch.nn.Parameter(part) for part in (clean, normal / normal.abs().sum() / radius))

    def forward(self, xyz):
        nearest = torch.cdist(xyz.detach().flatten(1), self.clean.flatten(1)).argmin(1)
        place = (xyz - self.clean[nearest]).flatten(1) @ self.normal  # from -1 to 1 within the ball
        margin = 0.5 - torch.where(place > 0, place, -0.3 * place)
        return torch.stack([margin, 0 * margin], 1)


def two_valleys(n):
    clips = dataclasses.replace(random_clips(n), labels=torch.zeros(n, dtype=torch.long))
    return fb.TorchVictim(TwoValleys(clips.xyz, 0.01), skeleton=clips.skeleton, classes=clips.classes), clips


def test_each_run_takes_the_clips_that_stand_and_makes_nothing_worse():
    victim, clips = two_valleys(32)
    once, thrice = (
        fb.create_attack("apgd", steps=5, restarts=runs)(victim, clips, threat=Linf(0.01)) for runs in (1, 3)
    )
    fell = once.success
    assert 8 <= fell.sum() <= 24  # the side on which a clip starts decides
    assert fell.sum() + 4 <= thrice.success.sum() < 32
    for vector in ("queries", "steps"):
        assert torch.equal(getattr(once, vector)[fell], getattr(thrice, vector)[fell])
    assert torch.equal(once.adversarial.xyz[fell], thrice.adversarial.xyz[fell])
    standing = ~thrice.success
    assert (thrice.queries[standing] == 3 * 6).all()
    assert (thrice.steps[standing] == 3 * 5).all()
    margins = [AnythingBut().margin(predict(victim, o.adversarial)[1], o.reference) for o in (once, thrice)]
    assert (margins[1][standing] <= margins[0][standing]).all()
    assert margins[1][standing].max() < 0.25  # the bottom of the valley that leads nowhere is kept, at 0.2


def test_it_can_go_on_after_the_first_success():
    victim, clips = curved(16)
    early, late = (
        fb.create_attack("apgd", steps=10, restarts=2, early_stop=stop)(victim, clips, threat=Linf(0.03))
        for stop in (True, False)
    )
    assert torch.equal(early.success, late.success)
    assert torch.equal(early.steps, late.steps)
    assert late.success.sum() > 8
    first = late.success & (late.steps < 10)
    assert (late.queries[first] == 11).all()
    losses = [AnythingBut().loss(predict(victim, o.adversarial)[1], o.reference)[first] for o in (early, late)]
    assert (losses[1] <= losses[0] + 1e-6).all()
    assert (losses[1] < losses[0]).float().mean() > 0.8


@pytest.mark.parametrize(
    ("made", "settings"),
    [(two_valleys, {"restarts": 5}), (curved, {"loss": "dlr", "targets": 9, "restarts": 2})],
    ids=["restarts", "targets"],
)
def test_a_clip_is_attacked_the_same_whoever_is_beside_it(made, settings):
    victim, clips = made(8)
    attack = fb.create_attack("apgd", steps=4, **settings)
    together, apart = (attack(victim, clips, threat=Linf(0.01), batch_size=size) for size in (8, 1))
    assert together.success.sum() > 0
    assert len(together.queries.unique()) > 1
    assert torch.equal(together.queries, apart.queries)
    assert torch.allclose(together.adversarial.xyz, apart.adversarial.xyz, atol=1e-6)


@pytest.mark.parametrize("goal", [AnythingButTop(2), AnythingButTop(3), Specified(), Specified(4)], ids=repr)
@pytest.mark.parametrize("settings", LOSSES, ids=str)
def test_every_goal_can_be_reached(goal, settings):
    victim, clips = curved(16)
    outcome = fb.create_attack("apgd", steps=30, **settings)(victim, clips, goal=goal, threat=Linf(0.2))
    _, logits = predict(victim, outcome.adversarial)
    assert torch.equal(outcome.success, outcome.attacked & goal.achieved(logits, outcome.reference))
    assert outcome.success.sum() >= 0.8 * outcome.attacked.sum() > 0
    assert outcome.violation.max() == 0


def test_other_parts_of_the_threat_model_hold_far_from_the_origin():
    clips = random_clips(6, persons=2, absent=True)
    far = torch.where(clips.valid[..., None, None], clips.xyz - 40.0, 0)
    clips = dataclasses.replace(clips, xyz=far)
    victim = linear_victim(clips, distance=0.05)
    threat = Linf(0.02) & BoneLength(0.02) & Mask(joints=tuple(range(12)))
    outcome = fb.create_attack("apgd", steps=20)(victim, clips, threat=threat)
    assert outcome.success.any()
    assert outcome.violation.max() <= 1e-6
    assert torch.equal(outcome.adversarial.xyz[..., 12:, :], far[..., 12:, :])
    assert torch.equal(outcome.adversarial.xyz[~clips.valid], far[~clips.valid])


def test_of_a_victim_that_draws_every_step_asks_as_often_as_it_is_told():
    plain, clips = curved(12)
    victim = noisy(plain, 0.5, own=False)
    attack = fb.create_attack("apgd", steps=10, loss="dlr", targets=2)
    outcome = attack(victim, clips, threat=Linf(0.05), draws=6)
    assert outcome.success.any()
    assert (outcome.queries % 6 == 0).all()
    assert (outcome.queries[outcome.attacked] <= 6 * (1 + 2 * 11)).all()


@pytest.mark.parametrize("settings", [{"restarts": 3}, {"loss": "dlr", "targets": 9}], ids=str)
@pytest.mark.parametrize("budget", [1, 2, 7, 12])
def test_a_budget_ends_it_wherever_it_is(budget, settings):
    victim, clips = at_a_distance(5, 0.05, Linf)
    outcome = fb.create_attack("apgd", steps=4, **settings)(victim, clips, threat=Linf(0.001), budget=budget)
    assert (outcome.queries == budget).all()
    assert outcome.violation.max() == 0


def test_settings_without_meaning_are_refused():
    for settings, word in (
        ({"targets": -1}, "targets"),
        ({"targets": 9, "loss": "ce"}, "targets go with"),
        ({"targets": 9}, "targets go with"),
        ({"restarts": 0}, "restarts"),
        ({"momentum": 0.0}, "momentum"),
        ({"rho": 1.5}, "rho"),
        ({"rho": float("nan")}, "rho"),
        ({"steps": 0}, "steps"),
        ({"loss": "hinge"}, "dlr"),
    ):
        with pytest.raises(fb.DataError, match=word):
            fb.create_attack("apgd", **settings)
    victim, clips = curved(4)
    for settings in ({}, {"loss": "dlr", "targets": 9}):
        with pytest.raises(fb.DataError, match="has no ball"):
            fb.create_attack("apgd", **settings)(victim, clips, threat=BoneLength(0.01))
