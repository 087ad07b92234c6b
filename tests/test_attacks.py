"""Attacks: the shared verdict, and each attack against answers that are known."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks import Attack, GradientAttack, Problem
from funnybone.attacks.losses import objective
from funnybone.attacks.problem import Trace
from funnybone.attacks.smart import dynamics_metric, perceptual_loss
from funnybone.motion.dynamics import derivative
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf
from parts_for_tests import loud, noisy, problem_of

ATTACKS = [fb.create_attack("pgd", steps=20), fb.create_attack("smart", steps=60)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_attack_passes_the_exam(attack):
    check_attack(attack)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Descent(GradientAttack):
    """Honest, and the base of some that are not."""

    steps: int = 10

    def length(self, problem):
        return torch.full((len(problem),), 0.01)

    def step(self, problem, xyz, gradient, k):
        direction = torch.nn.functional.normalize(gradient.flatten(1)).view_as(gradient)
        return xyz - self.length(problem)[:, None, None, None, None] * direction


class LooksBeside(Descent):
    """Clips with padding or an absent person are moved by what the clips beside them have."""

    def length(self, problem):
        whole = problem.clips.valid.flatten(1).float().mean(1)
        return 0.01 * torch.where(whole < 1, whole.mean() / whole, 1)


class GivesUp(Descent):
    """Half of the clips are hardly moved."""

    def length(self, problem):
        return torch.where(problem.clips.labels == 0, 0.01, 1e-4)


class AsksUnseen(Descent):
    """Asks once about each clip past the meter."""

    def __call__(self, victim, clips, **how):
        victim.logits(clips.xyz)
        return super().__call__(victim, clips, **how)


class AsksUnseenAlone(Descent):
    """Asks past the meter where it is given a single clip."""

    def __call__(self, victim, clips, **how):
        if len(clips) == 1:
            victim.logits(clips.xyz)
        return super().__call__(victim, clips, **how)


class SavesAnother(Descent):
    """What is written differs from what is reported by less than a success notices."""

    def __call__(self, victim, clips, **how):
        outcome = super().__call__(victim, clips, **how)

        class Shifted(fb.Outcome):
            def save(self, path):
                moved = self.adversarial.with_xyz(self.adversarial.xyz + 1e-6)
                fb.Outcome(**{**vars(self), "adversarial": moved}).save(path)

        return Shifted(**vars(outcome))


def test_an_honest_attack_passes_the_exam():
    check_attack(Descent())


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (LooksBeside, "beside"),
        (GivesUp, r"3 of 6 clips stand, though Linf\(radius=0.02\) reaches 4.5 times as far as the border"),
        (AsksUnseen, "asked the victim [0-9]+ times and counted"),
        (AsksUnseenAlone, "asked the victim [0-9]+ times and counted"),
        (SavesAnother, "the adversarial clips' xyz was not saved as it was"),
    ],
)
def test_an_attack_that_breaks_a_promise_is_told_which(kind, says):
    with pytest.raises(AssertionError, match=says):
        check_attack(kind())


def test_an_attack_that_does_not_promise_every_clip_may_miss_some():
    check_attack(GivesUp(), every=False)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_pgd_needs_little_more_than_the_exact_distance(norm):
    clips = random_clips(6)
    victim = linear_victim(clips, distance=0.05)
    normal = victim.module.plane.normal
    exact = 0.05 if norm is L2 else 0.05 / normal.abs().sum().item()
    attack = fb.create_attack("pgd", steps=40)
    assert attack(victim, clips, threat=norm(1.25 * exact)).success.all()
    assert not attack(victim, clips, threat=norm(0.99 * exact)).success.any()


def test_solved_clips_leave_and_are_not_moved_again():
    clips = random_clips(6)
    victim = linear_victim(clips, distance=0.05)
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Spy(GradientAttack):
        steps: int = 30

        def step(self, problem: Problem, xyz, gradient, k):
            seen.append(problem.rows.tolist())
            # Clip i moves i times as fast as clip 1, so they fall one after another and clip 0 never does.
            return xyz - 0.004 * problem.rows[:, None, None, None, None] * gradient / gradient.flatten(1).norm(
                dim=1
            ).clamp(min=1e-12).reshape(-1, 1, 1, 1, 1)

    outcome = Spy()(victim, clips)
    assert outcome.success.tolist() == [False, True, True, True, True, True]
    assert outcome.steps.tolist() == [30, 13, 7, 5, 4, 3]
    assert outcome.queries.tolist() == [31, 14, 8, 6, 5, 4]
    assert [len(rows) for rows in seen] == sorted((len(rows) for rows in seen), reverse=True)
    assert sum(map(len, seen)) == int(outcome.steps.sum())  # the work is the sum of each clip's own steps


def test_a_claimed_success_is_not_believed(clips, victim):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Liar(Attack):
        def run(self, problem, progress):
            everyone = torch.ones(len(problem), dtype=torch.bool)
            return Trace(problem.clean + 1e-4, everyone, torch.ones(len(problem), dtype=torch.long), ~everyone)

    outcome = Liar()(victim, clips)
    assert outcome.attacked.all()
    assert not outcome.success.any()


def test_a_success_outside_of_the_threat_model_does_not_count(clips, victim):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Escape(Attack):
        def run(self, problem, progress):
            _, _, gradient = problem.gradient(problem.clean)
            far = problem.clean - 10 * gradient
            everyone = torch.ones(len(problem), dtype=torch.bool)
            return Trace(far, everyone, torch.ones(len(problem), dtype=torch.long), ~everyone)

    free = Escape()(victim, clips)
    assert free.success.all()
    bound = Escape()(victim, clips, threat=Linf(0.001))
    assert (bound.violation > 0.001).all()
    assert not bound.success.any()


def test_a_victim_without_gradient_is_reported_not_called_strong(clips):
    class Constant(torch.nn.Module):
        def forward(self, xyz):
            logits = torch.nn.functional.one_hot(clips.labels, 2).float()[: len(xyz)]
            return logits + 0 * xyz.flatten(1).sum(1, keepdim=True)

    victim = fb.TorchVictim(Constant(), skeleton=clips.skeleton, classes=clips.classes)
    outcome = fb.create_attack("smart", steps=3)(victim, clips)
    assert outcome.attacked.all()
    assert outcome.zero_gradient.all()
    assert torch.equal(outcome.adversarial.xyz, clips.xyz)


def test_a_gradient_that_is_no_number_moves_nothing(clips):
    class Broken(torch.nn.Module):
        def forward(self, xyz):
            logits = torch.nn.functional.one_hot(clips.labels, 2).float()[: len(xyz)]
            return logits + 0 * (xyz - xyz.detach()).flatten(1).sum(1, keepdim=True).sqrt()

    victim = fb.TorchVictim(Broken(), skeleton=clips.skeleton, classes=clips.classes)
    outcome = fb.create_attack("pgd", steps=3, random_start=False)(victim, clips, threat=Linf(0.01))
    assert outcome.zero_gradient.all()
    assert torch.isfinite(outcome.adversarial.xyz).all()


@pytest.mark.parametrize("scale", [100.0, 10000.0])
def test_a_sure_victim_falls_like_an_unsure_one(scale):
    clips = random_clips(6)
    victim = linear_victim(clips, distance=0.05)
    sure = loud(victim, scale)
    attack = fb.create_attack("smart", steps=60)
    plain, scaled = attack(victim, clips), attack(sure, clips)
    assert plain.success.all()
    assert scaled.success.all()
    assert torch.allclose(plain.distances["position_m"], scaled.distances["position_m"], rtol=0.05)


def test_a_victim_that_breaks_down_has_not_fallen(clips, victim):
    class Fragile(torch.nn.Module):
        def forward(self, xyz):
            still = (xyz - clips.xyz[: len(xyz)]).abs().amax() == 0
            return victim.module(xyz) if still else victim.module(xyz) * float("nan")

    fragile = fb.TorchVictim(Fragile(), skeleton=clips.skeleton, classes=clips.classes)
    outcome = fb.create_attack("pgd", steps=2)(fragile, clips, threat=Linf(0.01))
    assert outcome.attacked.all()
    assert not outcome.success.any()

    class Broken(torch.nn.Module):
        def forward(self, xyz):
            return torch.full((len(xyz), 2), float("nan"))

    with pytest.raises(fb.DataError, match="not finite"):
        fb.create_attack("smart")(fb.TorchVictim(Broken(), skeleton=clips.skeleton, classes=clips.classes), clips)


def test_steps_say_when_the_queries_ended(clips, victim):
    outcome = fb.create_attack("smart", steps=200)(victim, clips, budget=3)
    assert outcome.queries.tolist() == [3] * 6
    assert outcome.steps.tolist() == [2] * 6


@pytest.mark.parametrize("name", ["pgd", "smart"])
@pytest.mark.parametrize(
    "settings",
    [
        {"step_size": 0.0},
        {"step_size": -1},
        {"step_size": float("nan")},
        {"step_size": float("inf")},
        {"steps": 0},
        {"steps": 2.5},
        {"steps": True},
    ],
)
def test_settings_that_do_nothing_are_refused(name, settings):
    with pytest.raises(fb.DataError, match=next(iter(settings))):
        fb.create_attack(name, **settings)


def test_batches_do_not_matter_to_a_deterministic_attack(clips, victim):
    attack = fb.create_attack("smart", steps=40)
    together, apart = (attack(victim, clips, batch_size=size) for size in (64, 2))
    assert torch.equal(together.success, apart.success)
    assert torch.allclose(together.adversarial.xyz, apart.adversarial.xyz, atol=1e-5)


def test_of_a_victim_that_draws_the_gradient_is_a_mean_and_the_verdict_a_majority():
    clips = random_clips(24)
    plain = linear_victim(clips, distance=0.05)
    logits = plain.logits(clips.xyz)
    noise = float((logits.max(1).values - logits.min(1).values).median()) / 2  # one answer in ten or so is wrong
    victim = noisy(plain, noise)
    attack = fb.create_attack("pgd", steps=20, random_start=False)
    outcome = attack(victim, clips, threat=Linf(0.02))
    assert outcome.provenance["draws"] == 20
    assert (outcome.queries % 20 == 0).all()
    assert outcome.attacked.sum() >= 22  # a single answer would call clips wrong that are right
    assert torch.equal(outcome.success, outcome.attacked & (outcome.agreement > 0.5))
    assert outcome.success.any()
    assert ((outcome.agreement * 32).round() == outcome.agreement * 32).all()
    once = attack(victim, clips, threat=Linf(0.02), draws=1)
    # What stops at the first wrong answer of one draw has mostly not left the class.
    assert once.success.sum() < outcome.success.sum()
    with pytest.raises(fb.DataError, match="20 draws"):
        attack(victim, clips, threat=Linf(0.02), budget=19)


def test_averaged_gradients_tend_to_the_gradient_without_noise(clips, victim):
    stochastic = noisy(victim, 3.0)
    gradients = [
        problem_of(who, clips, draws=draws).gradient(clips.xyz)[2] for who, draws in ((victim, 1), (stochastic, 400))
    ]
    cosine = torch.cosine_similarity(*(gradient.flatten(1) for gradient in gradients))
    assert cosine.min() > 0.999


def test_mixed_precision_searches_and_float32_judges():
    clips = random_clips(6)
    victim = linear_victim(clips, distance=0.05)
    attack = fb.create_attack("smart", steps=60)
    plain, mixed = (attack(victim, clips, precision=precision) for precision in ("fp32", "bf16"))
    assert mixed.success.all()
    assert torch.allclose(plain.distances["position_m"], mixed.distances["position_m"], rtol=0.1)
    assert (mixed.queries >= mixed.steps + 2).all()  # what bf16 took for fallen was asked again


@pytest.mark.parametrize("loss", ["goal", "ce", "margin", "dlr"])
@pytest.mark.parametrize("goal", [fb.goals.AnythingBut(), fb.goals.AnythingButTop(2), fb.goals.Specified(3)])
def test_descending_any_loss_reaches_the_goal(loss, goal):
    logits = 3 * torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    labels = logits.argmax(1)
    reference = goal.reference(labels, 6)
    descended = objective(loss, goal)
    for _ in range(300):
        logits.requires_grad_(True)
        (gradient,) = torch.autograd.grad(descended(logits, reference).sum(), logits)
        logits = logits.detach() - 0.05 * torch.nn.functional.normalize(gradient)
    assert goal.achieved(logits, reference).all()


def test_the_ratio_of_differences_does_not_know_the_scale_of_logits():
    logits = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    for goal in (fb.goals.AnythingBut(), fb.goals.Specified(2)):
        reference = goal.reference(logits.argmax(1), 6)
        ratio = objective("dlr", goal)
        assert torch.allclose(ratio(logits, reference), ratio(1000 * logits + 7, reference), atol=1e-4)
    with pytest.raises(fb.DataError, match="goal, ce, margin, dlr"):
        fb.create_attack("pgd", loss="hinge")


def test_outcome_prints_one_honest_line(clips, victim):
    outcome = fb.create_attack("pgd", steps=20)(victim, clips, threat=Linf(0.02))
    line = str(outcome)
    assert "\n" not in line
    assert line.startswith("n=6  attacked 6  success ")
    assert "[" in line


def test_an_outcome_is_never_overwritten_and_damage_is_found(tmp_path, clips, victim):
    outcome = fb.create_attack("pgd", steps=2)(victim, clips, threat=Linf(0.02))
    outcome.save(tmp_path / "run")
    with pytest.raises(fb.DataError, match="exists"):
        outcome.save(tmp_path / "run")
    assert str(fb.Outcome.load(tmp_path / "run.json")) == str(outcome)
    whole = (tmp_path / "run.safetensors").read_bytes()
    (tmp_path / "run.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(fb.DataError, match="not an outcome"):
        fb.Outcome.load(tmp_path / "run")
    (tmp_path / "run.json").unlink()
    with pytest.raises(fb.DataError, match="no such file"):
        fb.Outcome.load(tmp_path / "run")


def test_unusable_combinations_are_refused(clips, victim):
    with pytest.raises(fb.DataError, match="has no ball"):
        fb.create_attack("pgd")(victim, clips)
    with pytest.raises(fb.DataError, match="has no setting 'speed'"):
        fb.create_attack("pgd", speed=3)
    with pytest.raises(fb.DataError, match="did you mean 'smart'"):
        fb.create_attack("smort")
    with pytest.raises(fb.DataError, match="sum"):
        fb.create_attack("smart", beta=(1.0, 1.0, 1.0))
    with pytest.raises(fb.DataError, match="no clips"):
        fb.create_attack("smart")(victim, clips[:0])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"precision": "fp16"}, "precision is 'fp16'; write fp32 or bf16"),
        ({"draws": 0}, "draws is 0; give at least 1"),
        ({"draws": -1}, "draws is -1; give at least 1"),
        ({"batch_size": 0}, "batch_size is 0; attack at least 1"),
        ({"batch_size": -1}, "batch_size is -1; attack at least 1"),
    ],
)
def test_arguments_that_cannot_be_done_are_refused(clips, victim, how, says):
    call = Attack.__call__.__wrapped__  # past the tests' type checker, which users do not have
    with pytest.raises(fb.DataError, match=says):
        call(fb.create_attack("smart", steps=2), victim, clips, **how)


SMART = {"alpha": 0.5, "beta": (0.2, 0.3, 0.5), "scales": (0.05, 0.3, 2.0), "bone_scale": 0.005}


@pytest.mark.parametrize("optimiser", ["descent", "sign", "adam"])
@pytest.mark.parametrize("smooth", [True, False])
def test_every_optimiser_of_smart_passes_the_exam(optimiser, smooth):
    check_attack(fb.create_attack("smart", steps=60, optimiser=optimiser, smooth=smooth))


def test_smart_limits_a_step_and_the_whole_way_apart():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.3)
    one = fb.create_attack("smart", steps=1, step_size=0.01, clip_step=0.02)(victim, clips)
    moved = (one.adversarial.xyz - clips.xyz).flatten(1)
    assert torch.allclose(moved.norm(dim=1), torch.tensor(0.02), rtol=1e-3)
    many = fb.create_attack("smart", steps=20, step_size=0.01, clip_total=0.004)(victim, clips)
    farthest = (many.adversarial.xyz - clips.xyz).abs().amax()
    assert 0.0039 < farthest <= 0.004 + 1e-6
    short = fb.create_attack("smart", steps=20, step_size=1e-4, clip_step=1.0)(victim, clips)  # is not lengthened
    free = fb.create_attack("smart", steps=20, step_size=1e-4)(victim, clips)
    assert torch.equal(short.adversarial.xyz, free.adversarial.xyz)


def test_the_published_preset_takes_steps_of_one_length():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.3)
    attack = fb.create_attack("smart", preset="published", steps=3)
    assert (attack.steps, attack.smooth, attack.beta) == (3, False, (0.69, 0.0, 0.31))
    ways = [
        attack_steps.adversarial.xyz
        for attack_steps in (fb.create_attack("smart", preset="published", steps=n)(victim, clips) for n in (1, 2, 3))
    ]
    for before, after in zip([clips.xyz, *ways[:-1]], ways, strict=True):
        assert torch.allclose((after - before).flatten(1).norm(dim=1), torch.tensor(0.005 * 1.0349), rtol=1e-2)
    with pytest.raises(fb.DataError, match="no preset 'paper'; it has published"):
        fb.create_attack("smart", preset="paper")
    with pytest.raises(fb.DataError, match="pgd has no preset"):
        fb.create_attack("pgd", preset="published")


def test_smart_moves_the_trunk_less():
    clips = random_clips(8)
    victim = linear_victim(clips, distance=0.05)
    sided = sorted({joint for pair in clips.skeleton.pairs for joint in pair})
    middle = [joint for joint in range(17) if joint not in sided]

    def share(weight):
        attack = fb.create_attack("smart", steps=60, trunk_weight=weight)
        way = (attack(victim, clips).adversarial.xyz - clips.xyz).square().sum((0, 1, 2, 4))
        return float(way[middle].mean() / way[sided].mean())

    assert share(8.0) < 0.5 * share(1.0)


def test_the_perceptual_loss_is_zero_where_nothing_is_seen(clips):
    rest = (clips.valid, clips.fps, clips.skeleton)
    same = perceptual_loss(clips.xyz, clips.xyz, *rest, **SMART)
    assert (same == 0).all()
    # A constant offset changes neither velocity nor acceleration nor bones.
    moved = torch.where(clips.valid[..., None, None], clips.xyz + 0.05, clips.xyz)
    only_motion = {**SMART, "beta": (0.0, 0.5, 0.5)}
    assert perceptual_loss(clips.xyz, moved, *rest, **only_motion).max() < 1e-8
    # A rigid turn of the whole clip keeps every bone.
    angle = torch.tensor(0.7)
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    only_bones = {**SMART, "alpha": 0.0}
    assert perceptual_loss(clips.xyz, clips.xyz @ turn, *rest, **only_bones).max() < 1e-6


def test_one_joint_in_one_frame_accelerates_as_the_stencil_says():
    clips = random_clips(1, frames=9)
    moved = clips.xyz.clone()
    moved[0, 0, 4, 3, 1] += 0.01
    deviation = derivative(moved - clips.xyz, clips.fps, 2)
    assert deviation.square().sum() == pytest.approx(6 * 0.01**2 * 30**4, rel=1e-4)


def test_the_metric_is_the_hessian_of_the_dynamics():
    clips = random_clips(2, frames=12, persons=2, absent=True)
    generator = torch.Generator().manual_seed(2)
    change = torch.where(clips.valid[..., None, None], torch.randn(clips.xyz.shape, generator=generator), 0) * 0.01
    metric = dynamics_metric(clips.valid, clips.fps, beta=(0.2, 0.3, 0.5), scales=(0.05, 0.3, 2.0))
    quadratic = torch.einsum("nmtvc,nmts,nmsvc->n", change.double(), metric, change.double())
    direct = torch.zeros(2, dtype=torch.float64)
    for order, (weight, scale) in enumerate(((0.2, 0.05), (0.3, 0.3), (0.5, 2.0))):
        whole = clips.valid.unfold(-1, order + 1, 1).all(-1)[..., None, None]
        direct += weight * (torch.where(whole, derivative(change, clips.fps, order), 0).double() / scale).square().sum(
            (1, 2, 3, 4)
        )
    assert torch.allclose(quadratic, direct, rtol=1e-4)
    assert (torch.linalg.eigvalsh(metric) > 0).all()


def test_smart_is_smoother_than_pgd_at_equal_displacement():
    clips = random_clips(8, frames=40)
    victim = linear_victim(clips, distance=0.5)
    smart = fb.create_attack("smart", steps=400)(victim, clips)
    pgd = fb.create_attack("pgd", steps=100, step_size=0.02)(victim, clips, threat=L2(0.6))
    assert smart.success.all()
    assert pgd.success.all()
    ratio = {key: float((smart.distances[key] / pgd.distances[key]).mean()) for key in smart.distances}
    assert ratio["acceleration"] / ratio["position_m"] < 1 / 3


def test_bones_can_be_bound_in_any_attack(clips, victim):
    threat = Linf(0.02) & BoneLength(0.01)
    outcome = fb.create_attack("smart", steps=60)(victim, clips, threat=threat)
    assert outcome.violation.max() == 0
    assert outcome.distances["bone_length_change"].max() <= 0.01
