"""A cascade of attacks: the cheap ones first, each next one on the clips that still stand."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.as_text import attack_from
from funnybone.attacks.base import Attack, register_attack
from funnybone.attacks.problem import Problem, Progress, Trace, achieved
from funnybone.attacks.verdict import TOLERANCE
from funnybone.chance import Chance
from funnybone.errors import DataError
from funnybone.threat.ball import L2, Linf
from funnybone.threat.base import Threat, parts_of
from funnybone.victims.access import LEVELS, Access

# A stage, with all its runs, draws far less often than this, so that no two stages are given the same numbers.
_DRAWS_OF_A_STAGE = 1 << 40

_QUICK = ("fgsm", "pgd steps=20", "apgd steps=50 loss=dlr", "smart steps=100")
_STANDARD = ("fgsm", "pgd", "apgd", "ddn", "smart", "apgd loss=dlr targets=9", "fab targets=9", "square queries=500")
_RANDOM = ("apgd", "apgd loss=dlr", "smart")
_ADAPTIVE = (
    "pgd steps=100 step_size=0.05 loss=margin",
    "mifgsm steps=50 step_size=0.05 loss=dlr",
    "smart steps=400 loss=margin",
    "apgd restarts=5",
    "apgd loss=margin restarts=5",
    "apgd loss=dlr restarts=5",
    "apgd loss=dlr targets=9 restarts=2",
    "fab targets=9 restarts=2",
    "ddn steps=300 loss=dlr",
    "cw",
    "square queries=500",
)
_THROUGH = ("pgd steps=100 step_size=0.05 loss=margin", "apgd loss=dlr restarts=2", "smart steps=400 loss=margin")


@dataclass(frozen=True)
class CascadeTrace(Trace):
    """Also which stage made the iterate of each clip, and why stages could not run."""

    stage: Int[Tensor, " N"]
    names: tuple[str, ...]
    refused: dict[str, str]


@register_attack("cascade")
@dataclass(frozen=True, kw_only=True)
class Cascade(Attack):
    """Attack with one stage after another, each on the clips that all before it left standing.

    The worst case over several attacks for little more than the price of the cheap ones, since most clips fall to
    these: AutoAttack's order of things, with attacks that know motion, masks and metres. After each stage the victim
    is asked once more about what the stage hands back (`draws` times where it is stochastic; more than half of the
    answers must be those wanted): no stage is believed, and of a clip that never falls the iterate that misses the goal
    least is kept. A budget of queries is for all stages together, in their order.

    A stage that refuses the threat model or the goal before it has asked anything is left out: steps in a ball need
    one, searches for the smallest displacement need none. Where none of the stages can run, that is an error. A stage
    that can search in several norms, and says none, searches in that of the ball. The outcome's provenance has
    ``felled_by``, a stage or None for each clip, and ``left_out``, stages and why.

    Presets (worst cost for each clip, in gradients, where there is a ball and nothing falls):

    - ``quick``: FGSM, PGD, APGD and SMART; 170.
    - ``standard``, the default: the same with more steps, DDN, targeted APGD and targeted FAB; 2,200. Then Square,
      which needs no gradient, with 500 queries.
    - ``random``, for victims whose answers differ: APGD with both losses, and SMART; 400 times ``draws`` of the call.
      No stage that looks for the exact border, which such a victim does not have, and none by scores, as in AutoAttack.
    - ``adaptive``, for victims made to resist: every loss that is flat nowhere or does not know the scale of logits,
      smaller steps, more restarts; 6,500. Then Square with 500 queries, for a victim that hides its gradients and names
      no way in. For each way into a hardened victim 700 more and as many queries without a gradient.

    Parameters
    ----------
    stages : tuple of str
        What is run, in this order: names of attacks with their settings, as in ``"apgd loss=dlr restarts=5"``. A stage
        may need less access than gradients, and is given no more than it needs.
    through : tuple of str
        Run after these, once for each way into a hardened victim (its base, single members, ...: `Victim.ways_in`): the
        victim answers, and the gradient is that way's. A step costs what a question costs, ``draws`` queries of a
        stochastic victim, and as many of the way; one where one answer of it is as good as many.

    References
    ----------
    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020, section 5 (AutoAttack). The stages are this library's choice: AutoAttack's are APGD, targeted APGD,
    targeted FAB and Square, and, for random victims, APGD with two losses. ``through``: Athalye, Carlini and Wagner,
    "Obfuscated gradients give a false sense of security", ICML 2018, section 4.1 (BPDA).

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> attack = fb.create_attack("cascade", stages=("fgsm", "smart steps=2 step_size=0.05"))
    >>> outcome = attack(victim, clips)
    >>> outcome.provenance["left_out"]
    {'fgsm': 'threat model Unbounded() has no ball; add a budget in metres, for example linf:0.02'}
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"stages": _QUICK},
        "standard": {"stages": _STANDARD},
        "random": {"stages": _RANDOM},
        "adaptive": {"stages": _ADAPTIVE, "through": _THROUGH},
    }

    stages: tuple[str, ...] = _STANDARD
    through: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what in ("stages", "through"):
            given = getattr(self, what)
            if isinstance(given, str) or not (given or what == "through"):
                raise DataError(f"attack cascade: {what} is {given!r}", hint='give some, as in ("fgsm", "pgd")')
        for text, attack in zip(self.through, self.attacks()[len(self.stages) :], strict=True):
            if attack.access != "gradients":
                raise DataError(
                    f"attack cascade: {text} goes through no gradient", hint="of through, name attacks that see some"
                )

    def attacks(self) -> tuple[Attack, ...]:
        """Return the attacks that the stages name, then those that go through the ways into a victim."""
        stages = tuple(map(attack_from, (*self.stages, *self.through)))
        if any(isinstance(attack, Cascade) for attack in stages):
            raise DataError("attack cascade: a stage cannot be a cascade", hint="write its stages instead")
        return stages

    @property
    def access(self) -> Access:  # type: ignore[override]
        """The most that a stage needs, and scores at least: by these the cascade compares what stages hand back."""
        return max(("scores", *(attack.access for attack in self.attacks())), key=LEVELS.index)

    def notes(self, success: Bool[Tensor, " N"], traces: Sequence[tuple[Tensor, Trace]]) -> dict[str, Any]:
        """Return ``felled_by`` and ``left_out``."""
        by = torch.full((len(success),), -1)
        refused: dict[str, str] = {}
        names: tuple[str, ...] = ()
        for rows, trace in traces:
            assert isinstance(trace, CascadeTrace)  # as `run` hands them back
            by[rows] = trace.stage.cpu()
            refused |= trace.refused
            names = trace.names
        for why in dict.fromkeys(refused.values()):
            left_out = ", ".join(text for text in refused if refused[text] == why)
            logging.getLogger("funnybone").warning("attack cascade leaves out %s: %s", left_out, why)
        felled = torch.where(success, by, -1).tolist()
        return {"felled_by": [names[row] if row >= 0 else None for row in felled], "left_out": refused}

    def run(self, problem: Problem, progress: Progress) -> CascadeTrace:
        total, device = len(problem), problem.clean.device
        best, missed = problem.clean.clone(), torch.full((total,), torch.inf, device=device)
        steps = torch.zeros(total, dtype=torch.long, device=device)
        by = torch.full_like(steps, -1)
        solved, blind = torch.zeros(2, total, dtype=torch.bool, device=device)
        refused: dict[str, str] = {}
        stages = self._plan(problem)
        for number, (text, attack, victim) in enumerate(stages):
            standing = ~solved & problem.can_ask()
            if not bool(standing.any()):
                break
            # A stage's own source: how often the stages before it drew depends on when their last clip left.
            chance = Chance(problem.chance.keys, problem.chance.drawn + number * _DRAWS_OF_A_STAGE)
            asked = narrowed(victim, attack.access)
            part = dataclasses.replace(problem, victim=asked, chance=chance, state={}).keep(standing)
            attack = in_norm_of_ball(attack, problem.threat) if "norm=" not in text else attack

            def tell(_: int, won: int, __: int, before: int = int(solved.sum())) -> None:
                progress(before + won, before + won, total)

            left = asked.remaining(part.rows)
            try:
                trace = attack.run(part, tell)
            except DataError as error:
                if not torch.equal(left, asked.remaining(part.rows)):
                    raise
                refused[text] = str(error)
                continue
            fallen, margin = confirmed(problem.keep(standing), trace)
            place = standing.nonzero().flatten()
            nearer = fallen | (margin < missed[place])
            best[place[nearer]], missed[place[nearer]] = trace.xyz[nearer], margin[nearer]
            by[place[nearer]] = number
            steps[place] += trace.steps
            solved[place], blind[place] = fallen, blind[place] | trace.zero_gradient
        names = tuple(text for text, _, _ in stages)
        if len(refused) == len(set(names)):
            why = "; ".join(f"{text}: {reason}" for text, reason in refused.items())
            raise DataError(f"attack cascade: none of its stages can run: {why}", hint="name others in stages")
        progress(total, int(solved.sum()), total)
        return CascadeTrace(best, solved, steps, blind, by, names, refused)

    def _plan(self, problem: Problem) -> list[tuple[str, Attack, Any]]:
        """What is run, how it is called, and who is asked."""
        attacks = self.attacks()
        plain = [(text, attack, problem.victim) for text, attack in zip(self.stages, attacks, strict=False)]
        ways = [
            (name, detour(problem.victim, way, 1 if getattr(name, "steady", False) else problem.draws))
            for name, way in problem.ways.items()
        ]
        return plain + [
            (f"{text} through {name}", attack, asked)
            for name, asked in ways
            for text, attack in zip(self.through, attacks[len(self.stages) :], strict=True)
        ]


def in_norm_of_ball(attack: Attack, threat: Threat) -> Attack:
    """Return an attack that can search in several norms with the one in which the threat model has a ball."""
    norms: dict[type[Threat], str] = {Linf: "linf", L2: "l2"}
    norm = next((norms[type(part)] for part in parts_of(threat) if type(part) in norms), None)
    if norm is None or "norm" not in attack.settings():
        return attack
    return dataclasses.replace(attack, norm=norm)  # type: ignore[call-arg]


def narrowed(asked: Any, access: Access) -> Any:
    """Return a view of a victim that answers questions of this kind and no more.

    Examples
    --------
    >>> asked = SimpleNamespace(labels=1, scores=2, logits=3, remaining=4)
    >>> narrowed(asked, "scores")
    namespace(remaining=4, labels=1, scores=2)
    """
    names = ["remaining", *("labels", "scores", "logits")[: LEVELS.index(access)]]
    if access == "gradients" and hasattr(asked, "way"):
        names += ["way", "of_way"]
    return SimpleNamespace(**{name: getattr(asked, name) for name in names})


def detour(asked: Any, way: Any, of_way: int = 1) -> Any:
    """Return a view of a victim that answers for itself and is differentiated as if it were another one.

    Parameters
    ----------
    asked, way : view
        Who answers, and who is differentiated.
    of_way : int
        Answers of the way that its gradient is the mean of.

    Examples
    --------
    >>> double, triple = (SimpleNamespace(logits=lambda xyz, rows, k=k: k * xyz, scores=lambda xyz, rows, k=k: k * xyz,
    ...                                   labels=None, remaining=lambda rows: 5) for k in (2, 3))
    >>> xyz = torch.ones(1, requires_grad=True)
    >>> logits = detour(double, triple).logits(xyz, torch.tensor([0]))
    >>> logits.item(), torch.autograd.grad(logits, xyz)[0].item()
    (2.0, 3.0)
    """

    def logits(xyz: Tensor, rows: Tensor) -> Tensor:
        descended = way.logits(xyz, rows)
        return asked.scores(xyz, rows).detach() + (descended - descended.detach())

    # A step asks both: `Problem.gradient` the way ``of_way`` times, and whoever asks for ``logits`` each as often.
    return SimpleNamespace(
        labels=asked.labels,
        scores=asked.scores,
        logits=logits,
        way=way,
        of_way=of_way,
        remaining=lambda rows: asked.remaining(rows) // 2,
    )


def confirmed(problem: Problem, trace: Trace) -> tuple[Bool[Tensor, " N"], Float[Tensor, " N"]]:
    """Return which clips have fallen to a stage, asked of the victim anew, and by how much each misses the goal.

    A clip without queries left is what its stage says it is. One outside of the threat model has not fallen.
    """
    fallen = trace.fallen.clone()
    margin = torch.where(fallen, -torch.inf, torch.finfo(torch.float32).max)
    asked = problem.can_ask()
    if bool(asked.any()):
        part = problem.keep(asked)
        logits, share = part.score(
            trace.xyz[asked], lambda logits, reference: achieved(problem.goal, logits, reference).float()
        )
        fallen[asked], margin[asked] = share > 0.5, problem.goal.margin(logits, part.reference)
    inside = problem.threat.violation(problem.clean, trace.xyz) <= TOLERANCE
    return fallen & inside, torch.where(inside, margin, torch.inf)
