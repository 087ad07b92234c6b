"""The cascade: who is asked what, who is believed, and whose work it was."""

import dataclasses
import re
from typing import ClassVar

import pytest
import torch

import funnybone as fb
from funnybone.attacks import Attack, attacks
from funnybone.attacks.as_text import attack_from
from funnybone.attacks.cascade import Cascade, detour
from funnybone.attacks.losses import LOSSES, objective
from funnybone.attacks.problem import Trace
from funnybone.auditing import Entry, Suite
from funnybone.errors import DataError
from funnybone.goals import AnythingBut, AnythingButTop, Specified
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf, Unbounded
from funnybone.threat.ball import ball_of
from funnybone.victims import CallableVictim, Meter, view
from funnybone.victims.base import predict
from funnybone.victims.smoothed import Noise, Smoothed
from parts_for_tests import noisy, problem_of

SHORT = ("fgsm", "pgd steps=10", "apgd steps=15 loss=dlr targets=2", "smart steps=20")


class Curved(torch.nn.Module):
    """A few units that bend, in float64, so that batches of any size give the same numbers."""

    def __init__(self, clips):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        size = clips.xyz[0].numel()
        self.first = torch.nn.Parameter(8 * torch.randn(size, 4, generator=generator).double() / size**0.5)
        self.second = torch.nn.Parameter(torch.randn(4, 5, generator=generator).double())

    def forward(self, xyz):
        return torch.sin(xyz.flatten(1).double() @ self.first) @ self.second


@pytest.fixture(scope="module")
def curved():
    """A victim with a border that bends, and clips that it gets right."""
    clips = random_clips(24)
    module = Curved(clips)
    clips = dataclasses.replace(clips, labels=module(clips.xyz).argmax(1), classes=tuple("abcde"))
    return fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes), clips


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandIn(Attack):
    """Fells every ``every``-th clip of the meter, and says so of all where it ``lies``."""

    every: int = 2
    lies: bool = False
    distance: float = 0.011
    seen: ClassVar[list] = []

    def run(self, problem, progress):
        assert not problem.state  # what the stage before remembered
        self.seen.append((self.every, problem.rows.tolist()))
        _, _, gradient = problem.gradient(problem.clean)
        chosen = (problem.rows % self.every == 0).to(problem.clean.device)
        step = torch.where(chosen[:, None, None, None, None], self.distance * gradient.sign(), 0)
        problem.state["chosen"] = chosen
        progress(len(problem), int(chosen.sum()), len(problem))
        steps = torch.full((len(problem),), self.every)
        return Trace(problem.clean - step, chosen | self.lies, steps, torch.zeros_like(chosen))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeedsABall(Attack):
    norm: str = "l2"
    late: bool = False
    asked_in: ClassVar[list] = []

    def run(self, problem, progress):
        if self.late:
            problem.score(problem.clean)
        ball_of(problem.threat)
        self.asked_in.append(self.norm)
        none = torch.zeros(len(problem), dtype=torch.long)
        return Trace(problem.clean, none.bool(), none, none.bool())


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlyLabels(Attack):
    """Walks in a random direction, and asks for the class."""

    access = "labels"

    def run(self, problem, progress):
        assert not hasattr(problem.victim, "scores")
        assert not hasattr(problem.victim, "logits")
        way = torch.where(problem.movable, problem.chance.normal(*problem.clean.shape[1:]), 0)
        xyz = problem.constrain(problem.clean + 0.1 * way)
        fallen = problem.victim.labels(xyz, problem.rows) != problem.reference
        return Trace(xyz, fallen, torch.ones_like(problem.rows), torch.zeros_like(fallen))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlyScores(OnlyLabels):
    access = "scores"

    def run(self, problem, progress):
        assert hasattr(problem.victim, "scores")
        assert not hasattr(problem.victim, "logits")
        inner = dataclasses.replace(problem)
        xyz = inner.constrain(inner.clean + 0.02 * (2 * inner.chance.uniform(*inner.clean.shape[1:]) - 1))
        logits, _ = inner.score(xyz)
        fallen = inner.goal.achieved(logits, inner.reference)
        return Trace(xyz, fallen, torch.ones_like(inner.rows), torch.zeros_like(fallen))


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    attacks.names()  # all that the library has are there first
    mine = {"standin": StandIn, "needsaball": NeedsABall, "onlylabels": OnlyLabels, "onlyscores": OnlyScores}
    monkeypatch.setattr(attacks, "_parts", attacks._parts | mine)
    StandIn.seen.clear()
    NeedsABall.asked_in.clear()


@pytest.mark.parametrize("threat", [Linf(0.02), L2(0.06)], ids=repr)
def test_it_passes_the_exam(threat):
    check_attack(fb.create_attack("cascade", stages=SHORT), threat=threat)


def test_a_clip_that_fell_is_asked_nothing_more(clips, victim):
    cascade = Cascade(stages=("standin every=2", "standin every=3", "standin every=5"))
    outcome = cascade(victim, clips, threat=Linf(0.02))
    assert StandIn.seen == [(2, [0, 1, 2, 3, 4, 5]), (3, [1, 3, 5]), (5, [1, 5])]
    assert outcome.success.tolist() == [True, False, True, True, True, True]
    two, three, five = cascade.stages
    assert outcome.provenance["felled_by"] == [two, None, two, three, two, five]
    assert outcome.steps.tolist() == [2, 10, 2, 5, 2, 10]
    # One gradient and one answer for the cascade itself in each stage.
    assert outcome.gradients.tolist() == [1, 3, 1, 2, 1, 3]
    assert outcome.queries.tolist() == [2, 6, 2, 4, 2, 6]


def test_its_successes_are_those_of_its_stages_together(curved):
    victim, clips = curved
    stages = ("fgsm loss=margin", "smart steps=15 loss=dlr", "mifgsm steps=4")
    outcomes = [attack_from(text)(victim, clips, threat=Linf(0.005)) for text in stages]
    outcome = Cascade(stages=stages)(victim, clips, threat=Linf(0.005))
    any_of_them = torch.stack([one.success for one in outcomes]).any(0)
    assert len({tuple(one.success.tolist()) for one in outcomes}) > 1
    assert torch.equal(outcome.success, any_of_them)
    assert 0 < any_of_them.sum() < len(clips)
    for row, text in enumerate(outcome.provenance["felled_by"]):
        first = next((stages[i] for i, one in enumerate(outcomes) if one.success[row]), None)
        assert text == first
        if text is not None:
            assert torch.equal(outcome.adversarial.xyz[row], outcomes[stages.index(text)].adversarial.xyz[row])


def test_no_stage_is_believed(clips, victim):
    liar = Cascade(stages=("standin every=2 lies=True", "standin every=3"))(victim, clips, threat=Linf(0.02))
    assert [rows for _, rows in StandIn.seen] == [[0, 1, 2, 3, 4, 5], [1, 3, 5]]
    assert liar.success.tolist() == [True, False, True, True, True, False]
    # What is outside of the threat model has not fallen, and is not kept.
    outside = Cascade(stages=("standin every=2 distance=0.03", "standin every=4"))(victim, clips, threat=Linf(0.02))
    assert StandIn.seen[-1] == (4, [0, 1, 2, 3, 4, 5])
    assert outside.success.tolist() == [True, False, False, False, True, False]
    assert outside.violation.max() == 0


def test_of_a_clip_that_never_falls_the_nearest_miss_is_kept(clips, victim):
    lengths = (0.0002, 0.0006, 0.0004)
    cascade = Cascade(stages=tuple(f"standin every=1 distance={length}" for length in lengths))
    outcome = cascade(victim, clips, threat=Linf(0.02))
    assert not outcome.success.any()
    moved = (outcome.adversarial.xyz - clips.xyz).abs().flatten(1).amax(1)
    assert torch.allclose(moved, torch.tensor(0.0006), atol=1e-6)
    assert outcome.provenance["felled_by"] == [None] * 6
    assert outcome.steps.tolist() == [3] * 6


def test_a_stage_that_cannot_run_is_left_out_and_named(clips, victim, caplog):
    outcome = Cascade(stages=("needsaball", "fgsm", "standin every=1"))(victim, clips, threat=Unbounded())
    assert outcome.success.all()
    assert list(outcome.provenance["left_out"]) == ["needsaball", "fgsm"]
    assert "has no ball" in outcome.provenance["left_out"]["fgsm"]
    assert "leaves out needsaball, fgsm: threat model" in caplog.text
    assert (outcome.queries == 2).all()
    with pytest.raises(fb.DataError, match=r"none of its stages can run: needsaball: threat model .* has no ball"):
        Cascade(stages=("needsaball", "fgsm"))(victim, clips, threat=BoneLength(0.01))
    with pytest.raises(fb.DataError, match="has no ball"):  # it had asked already: no refusal, a fault
        Cascade(stages=("needsaball late=True", "standin"))(victim, clips)


def test_a_search_is_in_the_norm_of_the_ball_unless_it_says_its_own(clips, victim):
    for threat in (Linf(0.001), L2(0.01) & BoneLength(0.1)):
        Cascade(stages=("needsaball", "needsaball norm='l2'"))(victim, clips, threat=threat)
    assert NeedsABall.asked_in == ["linf", "l2", "l2", "l2"]


@pytest.mark.parametrize("goal", [AnythingBut(), AnythingButTop(2), Specified()], ids=repr)
@pytest.mark.parametrize("threat", [Linf(0.02), Unbounded(), L2(0.4) & BoneLength(0.05)], ids=repr)
def test_every_goal_and_threat_model(curved, goal, threat):
    victim, clips = curved
    outcome = Cascade(stages=SHORT)(victim, clips[:8], goal=goal, threat=threat)
    _, logits = predict(victim, outcome.adversarial)
    assert outcome.success.any()
    assert torch.equal(outcome.success, outcome.attacked & goal.achieved(logits, outcome.reference))
    assert outcome.violation.max() <= 1e-6


def test_a_clip_is_attacked_the_same_whoever_is_beside_it(curved):
    victim, clips = curved
    cascade = Cascade(stages=("pgd steps=3", "apgd steps=3", "onlylabels", "apgd steps=3 loss=dlr restarts=2"))
    together = cascade(victim, clips, threat=Linf(0.004))
    assert 0 < together.success.sum() < len(clips)
    apart = cascade(victim, clips, threat=Linf(0.004), batch_size=3)
    assert torch.equal(together.queries, apart.queries)
    assert torch.allclose(together.adversarial.xyz, apart.adversarial.xyz, atol=1e-6)
    assert together.provenance["felled_by"] == apart.provenance["felled_by"]


def test_no_two_stages_are_given_the_same_numbers(clips, victim):
    outcome = Cascade(stages=("onlylabels", "onlylabels"))(victim, clips, threat=Linf(0.0001))
    once = Cascade(stages=("onlylabels",))(victim, clips, threat=Linf(0.0001))
    moved = (outcome.adversarial.xyz != once.adversarial.xyz).flatten(1).any(1)
    assert moved.any()  # the second walk missed by less
    assert not moved.all()


def test_a_stage_is_given_no_more_than_it_needs_and_the_cascade_no_more_than_its_stages(clips, victim):
    assert Cascade(stages=("onlylabels", "pgd")).access == "gradients"
    assert Cascade(stages=("onlylabels",)).access == Cascade(stages=("onlyscores",)).access == "scores"
    mixed = Cascade(stages=("onlylabels", "onlyscores", "pgd steps=20"))(victim, clips, threat=Linf(0.02))
    assert mixed.success.all()
    black = CallableVictim(
        victim.module.forward, skeleton=clips.skeleton, classes=clips.classes, name="scores", access="scores"
    )
    outcome = Cascade(stages=("onlylabels", "onlyscores"))(black, clips, threat=Linf(0.02))
    assert outcome.attacked.all()
    assert not outcome.gradients.any()
    assert (outcome.queries[~outcome.success] == 4).all()
    with pytest.raises(fb.DataError, match="needs gradients"):
        Cascade(stages=("onlylabels", "pgd"))(black, clips, threat=Linf(0.02))


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 9, 30])
def test_the_budget_is_for_all_stages_together(curved, budget):
    victim, clips = curved
    outcome = Cascade(stages=SHORT)(victim, clips[:6], threat=Linf(0.001), budget=budget)
    assert int(outcome.queries.max()) == budget
    assert torch.isfinite(outcome.adversarial.xyz).all()


def test_of_a_victim_that_draws_one_lucky_answer_is_not_enough():
    clips = random_clips(12)
    plain = linear_victim(clips, distance=0.05)
    logits = plain.logits(clips.xyz)
    victim = noisy(plain, float(logits.abs().mean()), own=False)
    # The stage leaves clips where they are and calls them fallen: so says one answer in ten or so.
    lucky = Cascade(stages=("standin every=1 distance=0.0 lies=True",) * 3)(victim, clips, threat=Linf(0.02), draws=15)
    assert not lucky.success.any()
    standing = [rows for _, rows in StandIn.seen]
    assert standing == [lucky.attacked.nonzero().flatten().tolist()] * 3
    stages = tuple(text + " steps=10" for text in ("apgd", "apgd loss=dlr"))
    outcome = Cascade(stages=stages)(victim, clips, threat=Linf(0.02), draws=15)
    assert (outcome.queries % 15 == 0).all()
    assert outcome.success.sum() >= 10


@pytest.mark.parametrize("preset", ["quick", "standard", "random", "adaptive"])
def test_a_preset_can_run_with_a_ball_and_without(curved, preset):
    victim, clips = curved
    cascade = fb.create_attack("cascade", preset=preset)
    assert len(set(cascade.stages)) == len(cascade.stages)
    for threat in (Linf(0.02), Unbounded()):
        outcome = cascade(victim, clips[:4], threat=threat)
        assert outcome.success.all()
    assert outcome.provenance["left_out"]
    assert outcome.provenance["settings"]["stages"] == cascade.stages
    if preset == "standard":
        assert fb.create_attack("cascade") == cascade


@pytest.mark.parametrize("text", sorted({text for preset in Cascade.presets.values() for text in preset["stages"]}))
def test_every_stage_of_the_presets_can_run(curved, text):
    victim, clips = curved
    outcome = Cascade(stages=(text,))(victim, clips[:2], threat=L2(0.2), budget=8)
    assert (outcome.queries > 1).all()
    assert not outcome.provenance["left_out"]


def test_the_notes_are_kept_in_the_file(tmp_path, clips, victim):
    cascade = Cascade(stages=("standin every=3", "pgd steps=20"))
    outcome = cascade(victim, clips, threat=Linf(0.02))
    outcome.save(tmp_path / "it")
    loaded = fb.Outcome.load(tmp_path / "it").provenance
    assert loaded["felled_by"] == outcome.provenance["felled_by"]
    assert loaded["felled_by"].count("standin every=3") == 2
    assert loaded["felled_by"].count("pgd steps=20") == 4
    assert loaded["settings"]["stages"] == list(cascade.stages)
    assert not vars(cascade).keys() - {"stages", "through"}  # calling it has left nothing behind
    empty = cascade(victim, dataclasses.replace(clips, labels=1 - clips.labels), threat=Linf(0.02))
    assert empty.provenance["felled_by"] == [None] * 6


def test_stages_that_say_nothing_are_refused():
    for stages, word in (
        ((), "stages is"),
        (("pgd", ""), "no attack is named ''"),
        (("pgd", "pgx"), "did you mean 'pgd'"),
        (("pgd steps",), "'steps' is not a setting"),
        (("pgd steps=many",), "steps is 'many'"),
        (("pgd speed=3",), "has no setting 'speed'"),
        (("pgd random_start=no",), "random_start is 'no'; give True or False"),
        (("cascade",), "cannot be a cascade"),
    ):
        with pytest.raises(fb.DataError, match=word):
            fb.create_attack("cascade", stages=stages)
    assert attack_from("smart preset=published steps=3").steps == 3
    assert attack_from("smart beta=(1.0,) scales=(0.02,)").beta == (1.0,)
    # A text that is not empty counts as true; what is called true by name stays a name.
    assert attack_from("basar project=false").project is attack_from("basar project=False").project is False
    assert attack_from("basar project=true tangent=true").tangent == "true"


# Ways into a victim that hides its gradient


class Rounded(fb.TorchVictim):
    """A defense that masks: scores of a linear victim in whole thousandths. An attacker who knows has the scores."""

    def __init__(self, base):
        super().__init__(base.module, skeleton=base.skeleton, classes=base.classes, name="rounded", defense="rounding")
        self.base = base

    def logits(self, xyz):
        return (1000 * self.base.logits(xyz)).round() / 1000

    def ways_in(self):
        return {"base": self.base}


THROUGH = ("pgd steps=10 loss=margin",)


def test_a_mask_stops_stages_and_not_those_that_go_through_its_base():
    clips = random_clips(6, persons=2, absent=True)
    base = linear_victim(clips, distance=0.05)
    masked = Rounded(base)
    blind = Cascade(stages=SHORT)(masked, clips, threat=Linf(0.02))
    assert blind.attacked.all()
    assert not blind.success.any()
    assert blind.zero_gradient.all()
    seeing = Cascade(stages=SHORT, through=THROUGH)(masked, clips, threat=Linf(0.02))
    assert seeing.success.all()
    assert set(seeing.provenance["felled_by"]) == {"pgd steps=10 loss=margin through base"}
    assert torch.equal(seeing.prediction, masked.labels(seeing.adversarial.xyz))  # the victim's word, not the base's
    assert float(seeing.violation.max()) <= 1e-6
    # A victim without ways in is attacked as if nobody had asked for them.
    plain, asked = (Cascade(stages=SHORT, through=through)(base, clips, threat=Linf(0.02)) for through in ((), THROUGH))
    assert torch.equal(plain.adversarial.xyz, asked.adversarial.xyz)
    assert torch.equal(plain.queries, asked.queries)


@pytest.mark.parametrize("budget", [1, 2, 3, 8])
def test_a_step_through_a_way_in_costs_two_queries(budget):
    clips = random_clips(4)
    victim = Rounded(linear_victim(clips, distance=5.0))  # too far to fall
    attack = Cascade(stages=("fgsm",), through=THROUGH)
    outcome = attack(victim, clips, threat=Linf(0.001), budget=budget)
    assert int(outcome.queries.max()) <= budget
    if budget == 8:
        assert int(outcome.gradients.max()) > 1


def test_a_way_in_needs_a_gradient():
    with pytest.raises(DataError, match="no gradient"):
        Cascade(through=("square",))
    assert fb.create_attack("cascade", preset="adaptive").through


class Counted(torch.nn.Module):
    """Counts the answers that are differentiated."""

    times: ClassVar[int] = 0

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, xyz):
        Counted.times += xyz.requires_grad
        return self.module(xyz)


def test_a_way_whose_answers_do_not_differ_is_asked_once_and_so_is_a_mean():
    clips = random_clips(4)
    module = Counted(linear_victim(clips, distance=5.0).module)  # too far to fall
    base = fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes)
    once, twice = (
        Smoothed(base, Noise(), defense="a"),
        Smoothed(Smoothed(base, Noise(), defense="a"), Noise(), defense="b"),
    )
    attack = Cascade(stages=("fgsm",), through=("pgd steps=3 loss=margin",))
    # FGSM asks 5 times before its step and 5 times after it; each stage is confirmed by 5 more. Of the rest, each step
    # through a way asks the victim 5 times and the way once, 5 times where it draws and is no mean.
    for victim, steady, drawn, forward in (
        (once, 2, 0, 5 + 3 * (1 + 16)),  # base, mean
        (twice, 2, 3, 5 + 3 * (16 + 1) + 3 * 5 * (1 + 1 + 16)),  # mean, innermost base; base, and both ways of it
    ):
        Counted.times = 0
        outcome = attack(victim, clips, threat=Linf(0.001), draws=5)
        assert not outcome.success.any()
        assert (outcome.gradients == 5 + 3 * (steady + 5 * drawn)).all()
        assert (outcome.queries == outcome.gradients + 10 + (steady + drawn) * 5 * (3 + 2)).all()
        assert Counted.times == forward


@pytest.mark.parametrize("goal", [AnythingBut(), AnythingButTop(2), Specified()], ids=repr)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_of_a_way_is_that_of_the_victims_loss_passed_back_through_it(curved, goal, loss):
    victim, clips = curved
    way = fb.TorchVictim(Curved(clips[:9]), skeleton=clips.skeleton, classes=clips.classes)
    way.module.second.data.mul_(3)
    asked, passed = (view(one, "gradients", Meter(len(clips))) for one in (victim, way))
    seen = dataclasses.replace(problem_of(victim, clips, draws=3), goal=goal, victim=detour(asked, passed))
    seen.victim.of_way = 2
    found = seen.gradient(clips.xyz, objective(loss, goal))
    xyz = clips.xyz.clone().requires_grad_(True)
    straight = objective(loss, goal)(seen.victim.logits(xyz, seen.rows).float(), seen.reference)
    assert torch.allclose(found[2], torch.autograd.grad(straight.sum(), xyz)[0], atol=1e-6)
    assert torch.allclose(found[1], straight.detach(), atol=1e-6)
    assert not torch.allclose(found[2], problem_of(victim, clips).gradient(clips.xyz, objective(loss, goal))[2])


@pytest.mark.parametrize("goal", [AnythingBut(), AnythingButTop(2), Specified()], ids=repr)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_logits_have_the_gradients_of_log_probabilities(curved, goal, loss):
    victim, clips = curved
    normalised = changed(victim, lambda logits: logits.log_softmax(1))
    (one, loss_one, gradient), (_, loss_two, same) = (
        problem_of(asked, clips).gradient(clips.xyz, objective(loss, goal)) for asked in (victim, normalised)
    )
    assert (one.logsumexp(1).abs() > 0.1).any()  # they are not normalised as they are
    assert torch.allclose(loss_one, loss_two, atol=1e-4)
    assert ((gradient - same).flatten(1).norm(dim=1) < 1e-4 * gradient.flatten(1).norm(dim=1)).all()


# Victims that hide their gradients and name no way in


def changed(victim, change, name=None):
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = victim.module

        def forward(self, xyz):
            return change(self.module(xyz))

    return fb.TorchVictim(Module(), skeleton=victim.skeleton, classes=victim.classes, name=name)


MASKS = {
    "rounded": lambda logits: (1000 * logits).round() / 1000,
    "cold": lambda logits: (logits / 1e-6).softmax(1),  # ones and zeros, of which a search by scores learns no more
}


def shortened(text):
    """A stage with few steps; what sees no gradient keeps its queries."""
    few = re.sub(r"(restarts|targets|steps)=\d+", lambda found: f"{found[1]}={1 + (found[1] == 'steps')}", text)
    return few if "queries=" in few or "steps=" in few else f"{few} steps=2"


@pytest.mark.parametrize("mask", MASKS)
def test_what_hides_its_gradient_and_names_no_way_in_falls_to_the_adaptive_preset(curved, mask):
    clips = curved[1][:8]
    victim = changed(curved[0], MASKS[mask])
    assert not victim.ways_in()
    blind = fb.create_attack("pgd", steps=5, random_start=False)(victim, clips, threat=Linf(0.1))
    assert blind.attacked.all()
    assert blind.zero_gradient.all()
    assert not blind.success.any()
    stages = tuple(dict.fromkeys(map(shortened, Cascade.presets["adaptive"]["stages"])))
    outcome = fb.create_attack("cascade", preset="adaptive", stages=stages)(victim, clips, threat=Linf(0.1))
    assert outcome.success.all()
    assert "square queries=500" in outcome.provenance["felled_by"]
    assert outcome.zero_gradient.any()


def test_an_audit_says_that_the_gradients_are_masked(tmp_path):
    clips = random_clips(8)
    pgd = fb.create_attack("pgd", steps=5, random_start=False)
    cascade = Cascade(stages=("pgd steps=2 random_start=false", "square queries=500"))
    named = {"pgd": pgd, "square": fb.create_attack("square", queries=500), "cascade": cascade}
    entries = [Entry(attack, AnythingBut(), Linf(0.02), name) for name, attack in named.items()]
    plain = linear_victim(clips, distance=0.03)
    victim = changed(plain, MASKS["rounded"], name="rounded")
    codes = {}
    for name, chosen in (("apart", entries[:2]), ("cascade", entries[2:])):
        result = fb.audit(victim, clips, suite=Suite(name, tuple(chosen)), out=tmp_path / name).result
        rates = [attack.success_rate for attack in result.victims[0].attacks]
        assert rates == ([0.0, 1.0] if name == "apart" else [1.0])
        codes[name] = {warning.code for warning in result.warnings}
    assert codes["apart"] >= {"ZERO_GRADIENT", "BLACK_BOX_STRONGER"}
    assert "ZERO_GRADIENT" in codes["cascade"]
    seen = fb.audit(plain, clips, suite=Suite("plain", tuple(entries[:2])), out=tmp_path / "plain").result
    assert not {warning.code for warning in seen.warnings} & {"ZERO_GRADIENT", "BLACK_BOX_STRONGER"}
