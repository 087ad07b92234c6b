"""What every attack shares: its settings, checks, metering, and who is attacked."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import funnybone
from funnybone.attacks.problem import Precision, Problem, Progress, Trace
from funnybone.attacks.starts import check_starts
from funnybone.attacks.verdict import TOLERANCE, judge, repeatable
from funnybone.chance import Chance
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.goals import AnythingBut, Goal
from funnybone.metrics.deviations import deviations
from funnybone.metrics.natural import NaturalMotion
from funnybone.outcome import Outcome
from funnybone.registry import Registry
from funnybone.settings import build
from funnybone.threat.base import Threat, Unbounded
from funnybone.victims.access import Access, Meter, offers, view
from funnybone.victims.base import Victim

DRAWS = 20  # answers of a stochastic victim that an attack averages over, as in AutoAttack

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
    return build("attack", name, attacks[name], settings, preset)


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
        natural: NaturalMotion | None = None,
        starts: Clips | None = None,
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
        natural : NaturalMotion, optional
            What recorded motion keeps to (`fb.metrics.learn_natural_motion`): joint limits for attacks that keep them,
            and the test that ``distances["on_manifold"]`` tells the result of.
        starts : Clips, optional
            Motions that the attacker has, for attacks that start from another one; the clips themselves by default.
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
            When victim, clips, goal and threat model do not fit together, or an argument says nothing that can be done.
        """
        goal = goal or AnythingBut()
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        threat = (threat or Unbounded()).bind(clips.skeleton)
        progress = progress or (lambda done, successes, total: None)
        if len(clips) == 0:
            raise DataError(f"{clips.name}: there are no clips to attack", hint="choose another split or limit")
        if precision not in get_args(Precision):
            raise DataError(f"precision is {precision!r}", hint=f"write {' or '.join(get_args(Precision))}")
        if draws is not None and draws < 1:
            raise DataError(f"draws is {draws}", hint="give at least 1, or leave it out")
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}", hint="attack at least 1 clip at a time")
        if natural is not None:
            natural = natural.to(victim.device)
            natural.figures(clips[:1].to(victim.device))  # said now, where it was learned from other clips
        if starts is not None:
            check_starts(starts, clips)
        starts = (clips if starts is None else starts).to(victim.device)
        if draws is None:
            draws = DRAWS if victim.stochastic else 1
        if budget is not None and budget < draws:
            raise DataError(f"a budget of {budget} queries is less than the {draws} draws of one question")
        meter = Meter(len(clips), budget)
        asked = view(victim, self.access, meter)
        ways = victim.ways_in() if self.access == "gradients" else {}
        known = {name: view(way, "gradients", meter) for name, way in ways.items() if offers(way, "gradients")}
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
            others: dict[str, Tensor] = {}
            done = successes = 0
            traces = []
            shared: dict[Any, Any] = {}
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
                    natural=natural,
                    starts=starts,
                    ways=known,
                    seed=generator.initial_seed(),
                    shared=shared,
                )

                def tell(more: int, won: int, _: int, done: int = done, successes: int = successes) -> None:
                    progress(done + more, successes + won, total)

                trace = self.run(problem, tell)
                traces.append((rows, trace))
                xyz[rows] = _stored(trace.xyz, clips[rows])
                for name, found in trace.others.items():
                    others.setdefault(name, clips.xyz.clone())[rows] = _stored(found, clips[rows])
                steps[rows], zero[rows], claimed[rows] = (
                    trace.steps.cpu(),
                    trace.zero_gradient.cpu(),
                    trace.fallen.cpu(),
                )
                done, successes = done + len(rows), successes + int(trace.fallen.sum())

            adversarial = clips.with_xyz(xyz)
            after = judge(victim, adversarial, goal, reference, batch_size)
        violation = threat.violation(clips.xyz, xyz)
        judged = {"on_manifold": natural.to("cpu").holds(adversarial).float()} if natural else {}
        success = attacked & (after.agreement > 0.5) & (violation <= TOLERANCE)
        how = {"budget": budget, "draws": draws, "precision": precision, "batch_size": batch_size}
        return Outcome(
            adversarial=adversarial,
            attacked=attacked,
            success=success,
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
            distances=deviations(clips, xyz) | judged,
            others=others,
            provenance=self.provenance(victim, clips, goal, threat, **how) | self.notes(success, traces),
        )

    def notes(self, success: Bool[Tensor, " N"], traces: Sequence[tuple[Tensor, Trace]]) -> dict[str, Any]:
        """Return what else an outcome's provenance is to say; nothing, unless an attack has its own.

        Parameters
        ----------
        success : Bool[Tensor, "N"]
            The verdict.
        traces : sequence
            What `run` handed back for each batch, and which of the clips these were.
        """
        return {}

    def _judge(self, victim: Victim, goal: Goal) -> None:
        if goal.needs_scores and self.access == "labels":
            raise DataError(
                f"goal {goal.name} cannot be judged by labels, and attack {self.name} sees no more",
                hint="choose goal ab or sa, or an attack that needs scores",
            )
        if goal.needs_scores and not offers(victim, "scores"):
            raise DataError(
                f"goal {goal.name} cannot be judged: victim {victim.name!r} offers {victim.access}",
                hint="choose goal ab, or a victim that offers scores",
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


def _stored(found: Float[Tensor, "N M T V C"], clips: Clips) -> Float[Tensor, "N M T V C"]:
    """Return positions as they are kept: beside the clips, in float32, clean wherever nothing may move."""
    return torch.where(clips.valid[..., None, None], found.to(clips.xyz.device, torch.float32), clips.xyz)
