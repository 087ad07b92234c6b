"""What every attack shares: checks, metering, who is attacked, and the verdict on what is stored."""

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import funnybone
from funnybone.attacks.losses import Objective
from funnybone.chance import Chance
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.goals import AnythingBut, Goal
from funnybone.metrics.deviations import deviations
from funnybone.outcome import Outcome
from funnybone.registry import Registry
from funnybone.settings import build
from funnybone.threat.base import Threat, Unbounded
from funnybone.victims.access import LEVELS, Access, Meter, offers, view
from funnybone.victims.base import Victim, predict

# Rounding aside, a success outside of the threat model is no success.
TOLERANCE = 1e-6

# Answers of a stochastic victim: those that the attack averages over, as in AutoAttack, and fresh ones for the verdict.
DRAWS, VERDICT_DRAWS = 20, 32

Precision = Literal["fp32", "bf16"]

# Told after every step: clips done, of those successful, clips in all.
Progress = Callable[[int, int, int], None]

attacks: Registry[type["Attack"]] = Registry("attack", "funnybone.attacks")
register_attack = attacks.register


def create_attack(name: str, *, preset: str | None = None, **settings: Any) -> "Attack":
    """Return an attack by name.

    Parameters
    ----------
    name : str
        The name that it is registered under.
    preset : str, optional
        A named choice of settings, such as ``published``, under those that are given.
    **settings
        Hyper-parameters.

    Raises
    ------
    DataError
        For an unknown name, or a setting that the attack does not have or cannot take.

    Examples
    --------
    >>> create_attack("pgd", steps=20)
    PGD(steps=20, loss='goal', early_stop=True, step_size=0.1, random_start=True)
    """
    kind = attacks[name]
    if preset is not None:
        if preset not in kind.presets:
            known = ", ".join(kind.presets)
            raise DataError(
                f"attack {name} has no preset {preset!r}", hint=f"it has {known}" if known else "leave it out"
            )
        settings = {**kind.presets[preset], **settings}
    return build("attack", name, kind, settings)


@dataclass(frozen=True, eq=False)
class Problem:
    """The clips that still stand, and all that an attack may know of them.

    Attributes
    ----------
    victim : view
        The victim with the attack's access and no more; every question is metered.
    goal : Goal
        When a clip has fallen.
    threat : Threat
        Where the clips must stay.
    clean : Float[Tensor, "N M T V C"]
        Where they started.
    clips : Clips
        Labels, validity, frame rates, skeleton.
    reference : Int[Tensor, "N"]
        The class that the goal refers to.
    rows : Int[Tensor, "N"]
        Which clip of the meter each one is.
    chance : Chance
        The only source of chance: what a clip is given does not depend on the clips beside it.
    draws : int
        Answers that stand for one, of a victim whose answers differ.
    precision : {"fp32", "bf16"}
        What gradients are searched with; `confirm` asks again in float32.
    state : dict of str to Tensor
        What an attack remembers of each clip (momenta, multipliers): N first, so that it follows the clips.
    """

    victim: Any
    goal: Goal
    threat: Threat
    clips: Clips
    reference: Int[Tensor, " N"]
    rows: Int[Tensor, " N"]
    chance: Chance
    draws: int = 1
    precision: Precision = "fp32"
    state: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def clean(self) -> Float[Tensor, "N M T V C"]:
        return self.clips.xyz

    @property
    def movable(self) -> Bool[Tensor, "N M T W 1"]:
        """True on valid frames of present persons; W is one, or says it of each part of an iterate."""
        return self.clips.valid[..., None, None]

    def shown(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        """Return the positions that an iterate stands for, differentiably: itself, unless other things are searched."""
        return xyz

    def spread(self, weights: Float[Tensor, " V"]) -> Float[Tensor, "W 1"]:
        """Return weights of joints as weights of what an iterate is made of: the same, of joints."""
        return weights[:, None]

    def constrain(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        """Return clips inside the threat model, untouched where not valid."""
        xyz = torch.where(self.movable & torch.isfinite(xyz), xyz, self.clean)
        return self.threat.project(self.clean, xyz)

    def gradient(
        self, xyz: Float[Tensor, "N M T V C"], objective: Objective | None = None
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, " N"], Float[Tensor, "N M T V C"]]:
        """Return logits, a loss and its gradient with respect to positions (zero where not valid).

        The loss is the goal's, or ``objective`` of logits and reference class. Of a victim whose answers differ, losses
        and gradients are means over ``draws`` of them (expectation over transformation, Athalye et al., ICML 2018), and
        logits are mean log-probabilities.
        """
        objective = objective or self.goal.loss
        xyz = xyz.detach().requires_grad_(True)
        mean: tuple[Tensor, ...] = ()
        for _ in range(self.draws):
            with torch.enable_grad():
                with self._autocast(xyz.device):
                    logits = self.victim.logits(self.shown(xyz), self.rows)
                loss = objective(logits.float(), self.reference)
                # Clips do not meet inside a victim, so the gradient of the sum is the gradient of each.
                (gradient,) = torch.autograd.grad(loss.sum(), xyz)
            mean = self._added(mean, self._said(logits), loss.detach(), gradient)
        logits, loss, gradient = mean
        return logits, loss, torch.where(self.movable, gradient, 0)

    def score(
        self, xyz: Float[Tensor, "N M T V C"], objective: Objective | None = None
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, " N"]]:
        """Return logits and a loss without a gradient, in float32; means over ``draws`` as in `gradient`."""
        objective = objective or self.goal.loss
        mean: tuple[Tensor, ...] = ()
        for _ in range(self.draws):
            logits = self.victim.scores(self.shown(xyz), self.rows).float()
            mean = self._added(mean, self._said(logits), objective(logits, self.reference))
        logits, loss = mean
        return logits, loss

    def can_ask(self) -> Bool[Tensor, " N"]:
        """Whether the budget of each clip allows another question."""
        return (self.victim.remaining(self.rows) >= self.draws).to(self.clips.xyz.device)

    def _said(self, logits: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """What one of several answers adds to their mean: logits of one draw are not on the scale of another's."""
        logits = logits.detach().float()
        return logits.log_softmax(1) if self.draws > 1 else logits

    def _added(self, mean: tuple[Tensor, ...], *parts: Tensor) -> tuple[Tensor, ...]:
        parts = tuple(part / self.draws if self.draws > 1 else part for part in parts)
        return tuple(a + b for a, b in zip(mean, parts, strict=True)) if mean else parts

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()

    def keep(self, mask: Bool[Tensor, " N"]) -> "Problem":
        """Return the problem for those clips alone."""
        if bool(mask.all()):
            return self
        values = {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}
        tensors: dict[str, Any] = {
            name: value[mask.to(value.device)] for name, value in values.items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(
            self,
            clips=self.clips[mask],
            chance=self.chance[mask],
            state={key: value[mask] for key, value in self.state.items()},
            **tensors,
        )


@dataclass(frozen=True)
class Trace:
    """What `Attack.run` hands back for its clips: the best iterate of each, and what it took."""

    xyz: Float[Tensor, "N M T V C"]
    fallen: Bool[Tensor, " N"]  # what the attack believes; the verdict is taken anew
    steps: Int[Tensor, " N"]
    zero_gradient: Bool[Tensor, " N"]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Hyper-parameters and one rule that moves clips. Calling it attacks a victim.

    Everything that decides whether an attack succeeded is here and the same for all: authors write `run` (or, for
    gradient attacks, `GradientAttack.step`) and cannot report a success that is not one.
    """

    access: ClassVar[Access] = "gradients"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def run(self, problem: Problem, progress: Progress) -> Trace:
        """Move the clips of a problem towards its goal; return the best iterate of each."""

    def __call__(
        self,
        victim: Victim,
        clips: Clips,
        *,
        goal: Goal | None = None,
        threat: Threat | None = None,
        generator: torch.Generator | None = None,
        budget: int | None = None,
        draws: int | None = None,
        precision: Precision = "fp32",
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> Outcome:
        """Attack the clips that the victim gets right.

        Parameters
        ----------
        victim : Victim
            Who is attacked.
        clips : Clips
            Clean clips with their true labels; the others come back as they were.
        goal : Goal, optional
            `AnythingBut` by default.
        threat : Threat, optional
            Where the clips must stay; unbounded by default.
        generator : torch.Generator, optional
            The only source of chance; seeded with 0 by default.
        budget : int, optional
            Most queries for each clip.
        draws : int, optional
            Answers of a stochastic victim that stand for one, each a query; 20 by default, one of other victims. A
            stochastic victim is judged by the majority of 32 answers that the attack has not seen.
        precision : {"fp32", "bf16"}
            Search in mixed precision, and judge in float32 all the same.
        batch_size : int
            Clips attacked together.
        progress : callable, optional
            Told (clips done, successes, clips) as it goes.

        Returns
        -------
        Outcome

        Raises
        ------
        DataError
            When victim, clips, goal and threat model do not fit together.
        """
        goal = goal or AnythingBut()
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        threat = (threat or Unbounded()).bind(clips.skeleton)
        progress = progress or (lambda done, successes, total: None)
        if len(clips) == 0:
            raise DataError(f"{clips.name}: there are no clips to attack", hint="choose another split or limit")
        draws = draws or (DRAWS if victim.stochastic else 1)
        if budget is not None and budget < draws:
            raise DataError(f"a budget of {budget} queries is less than the {draws} draws of one question")
        meter = Meter(len(clips), budget)
        asked = view(victim, self.access, meter)
        self._judge(victim, goal)
        chance = Chance.of(clips, generator)
        reference = goal.reference(clips.labels, len(victim.classes), chance)
        with repeatable(victim, generator):
            before = judge(victim, clips, goal, reference, batch_size)
            if not bool(before.finite.all()):
                wrong = int((~before.finite).nonzero()[0])
                raise DataError(
                    f"victim {victim.name!r}: its logits for the clean clip {clips.ids[wrong]} are not finite numbers",
                    hint="its weights or its preprocessing are broken",
                )
            attacked = (before.prediction == clips.labels) & (before.agreement <= 0.5)

            total = int(attacked.sum())
            xyz = clips.xyz.clone()
            steps = torch.zeros(len(clips), dtype=torch.long)
            zero, claimed = torch.zeros(2, len(clips), dtype=torch.bool)
            done = successes = 0
            for rows in attacked.nonzero().flatten().split(batch_size):
                problem = Problem(
                    victim=asked,
                    goal=goal,
                    threat=threat,
                    clips=clips[rows].to(victim.device),
                    reference=reference[rows].to(victim.device),
                    rows=rows,
                    chance=chance[rows].to(victim.device),
                    draws=draws,
                    precision=precision,
                )

                def tell(more: int, won: int, _: int, done: int = done, successes: int = successes) -> None:
                    progress(done + more, successes + won, total)

                trace = self.run(problem, tell)
                found = trace.xyz.to(xyz.device, torch.float32)
                xyz[rows] = torch.where(clips.valid[rows][..., None, None], found, clips.xyz[rows])
                steps[rows], zero[rows], claimed[rows] = (
                    trace.steps.cpu(),
                    trace.zero_gradient.cpu(),
                    trace.fallen.cpu(),
                )
                done, successes = done + len(rows), successes + int(trace.fallen.sum())

            adversarial = clips.with_xyz(xyz)
            after = judge(victim, adversarial, goal, reference, batch_size)
        violation = threat.violation(clips.xyz, xyz)
        return Outcome(
            adversarial=adversarial,
            attacked=attacked,
            success=attacked & (after.agreement > 0.5) & (violation <= TOLERANCE),
            claimed=claimed,
            steps=steps,
            queries=meter.queries,
            gradients=meter.gradients,
            clean_prediction=before.prediction,
            prediction=after.prediction,
            agreement=after.agreement,
            reference=reference,
            violation=violation,
            zero_gradient=zero,
            distances=deviations(clips, xyz),
            provenance=self.provenance(
                victim, clips, goal, threat, budget=budget, draws=draws, precision=precision, batch_size=batch_size
            ),
        )

    def _judge(self, victim: Victim, goal: Goal) -> None:
        if goal.needs_scores and not offers(victim, "scores"):
            raise DataError(
                f"goal {goal.name} cannot be judged: victim {victim.name!r} offers {victim.access}",
                hint=f"choose goal ab, or a victim that offers {LEVELS[1]}",
            )

    @property
    def name(self) -> str:
        """The name that it is registered under, or that of its class."""
        return next((name for name in attacks.names() if attacks[name] is type(self)), type(self).__name__)

    def settings(self) -> dict[str, Any]:
        """Every hyper-parameter, as plain values."""
        return dataclasses.asdict(self)

    def provenance(self, victim: Victim, clips: Clips, goal: Goal, threat: Threat, **how: Any) -> dict[str, Any]:
        """What determined an outcome, as plain values; ``how`` the attack was called is among them."""
        return {
            "attack": self.name,
            "access": self.access,
            "settings": self.settings(),
            "goal": goal.name,
            "threat": repr(threat),
            "victim": {"name": victim.name, "fingerprint": victim.fingerprint},
            "data": {"name": clips.name, "synthetic": clips.synthetic},
            **how,
            "funnybone": funnybone.__version__,
            "torch": str(torch.__version__),
        }


def achieved(goal: Goal, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Judge by logits; a victim that answers with no number has broken down, which is not what the goal asks for."""
    return goal.achieved(logits, reference) & torch.isfinite(logits).all(1)


@contextlib.contextmanager
def repeatable(victim: Victim, generator: torch.Generator) -> Iterator[None]:
    """Let what a stochastic victim draws of torch's global state follow from the generator; leave that state alone."""
    if not victim.stochastic:
        yield
        return
    with torch.random.fork_rng(devices=[victim.device] if victim.device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


@dataclass(frozen=True)
class Verdict:
    """What a victim says to clips, asked by the evaluator: one answer, or the majority of many that differ."""

    prediction: Int[Tensor, " N"]
    agreement: Float[Tensor, " N"]  # share of the answers in which the goal holds
    finite: Bool[Tensor, " N"]


def judge(victim: Victim, clips: Clips, goal: Goal, reference: Int[Tensor, " N"], batch_size: int) -> Verdict:
    """Ask a victim about clips: by logits where it gives any, by labels where not."""
    answers = VERDICT_DRAWS if victim.stochastic else 1
    votes = torch.zeros(len(clips), len(victim.classes))
    met = torch.zeros(len(clips))
    finite = torch.ones(len(clips), dtype=torch.bool)
    for _ in range(answers):
        predicted, logits = predict(victim, clips, batch_size)
        votes += torch.nn.functional.one_hot(predicted, len(victim.classes))
        if logits is None:
            met += goal.achieved_by_labels(predicted, reference)
        else:
            met += achieved(goal, logits, reference)
            finite &= torch.isfinite(logits).all(1)
    return Verdict(votes.argmax(1), met / answers, finite)
