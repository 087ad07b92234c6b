"""What an attack is given of the clips that it moves, and what it hands back."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.losses import Objective
from funnybone.chance import Chance
from funnybone.clips import Clips
from funnybone.goals import Goal
from funnybone.metrics.natural import NaturalMotion
from funnybone.motion.angles import AngleMotion
from funnybone.threat.base import Threat, parts_of
from funnybone.threat.mask import Mask

Precision = Literal["fp32", "bf16"]

# Positions that a victim is asked about at once, where one clip asks about many: what fits into a processor's cache
# is fastest there.
BATCH = {"cpu": 16, "cuda": 512}

# Told after every step: clips done, of those successful, clips in all.
Progress = Callable[[int, int, int], None]


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
    natural : NaturalMotion, optional
        What recorded motion keeps to, if the attacker knows.
    starts : Clips, optional
        Motions that the attacker has, to start from.
    ways : dict of str to view
        Ways into the victim (`Victim.ways_in`), for attacks that see gradients; asked on the victim's account.
    state : dict of str to Tensor
        What an attack remembers of each clip (momenta, multipliers): N first, so that it follows the clips.
    seed : int
        Chance of what an attack makes once for all clips, which must not depend on which clips these are.
    shared : dict
        What it made so, by whatever it is known by: one dictionary in all batches of a call.
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
    natural: NaturalMotion | None = None
    starts: Clips | None = None
    ways: Mapping[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    shared: dict[Any, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def clean(self) -> Float[Tensor, "N M T V C"]:
        return self.clips.xyz

    @property
    def motions(self) -> Clips:
        """The motions to start from."""
        assert self.starts is not None  # `Attack.__call__` gives some
        return self.starts

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

    def constrain_some(self, xyz: Float[Tensor, "B M T V C"], owner: Int[Tensor, " B"]) -> Float[Tensor, "B M T V C"]:
        """Return positions inside the threat model; ``owner`` says which clip of the problem each was made from."""
        clean = self.clean[owner]
        xyz = torch.where(self.movable[owner] & torch.isfinite(xyz), xyz, clean)
        return self.threat.project(clean, xyz)

    def gradient(
        self, xyz: Float[Tensor, "N M T V C"], objective: Objective | None = None
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, " N"], Float[Tensor, "N M T V C"]]:
        """Return logits, a loss and its gradient with respect to positions (zero where not valid).

        The loss is the goal's, or ``objective`` of logits and reference class. Of a victim whose answers differ, losses
        and gradients are means over ``draws`` of them (expectation over transformation, Athalye et al., ICML 2018), and
        logits are mean log-probabilities. These have the same gradient as logits: a loss is one of differences of
        logits (log-odds, cross-entropy, margin, DLR), which what normalises them leaves alone.

        A view with a ``way`` answers for itself, and the gradient is the way's: that of the loss with respect to the
        victim's answers, their mean, passed back through as many answers of the way as ``of_way`` says.
        """
        objective = objective or self.goal.loss
        xyz = xyz.detach().requires_grad_(True)
        if hasattr(self.victim, "way"):
            logits, loss, gradient = self._through(xyz, objective)
            return logits, loss, torch.where(self.movable, gradient, 0)
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

    def _through(self, xyz: Float[Tensor, "N M T V C"], objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
        mean: tuple[Tensor, ...] = ()
        for _ in range(self.draws):
            answer = self.victim.scores(self.shown(xyz.detach()), self.rows).detach().float().requires_grad_(True)
            with torch.enable_grad():
                loss = objective(answer, self.reference)
                (slope,) = torch.autograd.grad(loss.sum(), answer)
            mean = self._added(mean, self._said(answer), loss.detach(), slope)
        logits, loss, slope = mean
        gradient = torch.zeros_like(xyz)
        for _ in range(self.victim.of_way):
            with torch.enable_grad():
                with self._autocast(xyz.device):
                    descended = self.victim.way.logits(self.shown(xyz), self.rows)
                (passed,) = torch.autograd.grad(descended.float(), xyz, slope)
            gradient += passed / self.victim.of_way
        return logits, loss, gradient

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

    def scored(
        self, xyz: Float[Tensor, "B M T V C"], owner: Int[Tensor, " B"], objective: Objective | None = None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, " B"]]:
        """Return what `score` does for some positions; ``owner`` says which clip of the problem each was made from."""
        objective = objective or self.goal.loss
        size = BATCH.get(xyz.device.type, 16)
        batches = list(zip(xyz.split(size), self.rows[owner.to(self.rows.device)].split(size), strict=True))
        mean: tuple[Tensor, ...] = ()
        for _ in range(self.draws):
            logits = torch.cat([self.victim.scores(*batch) for batch in batches]).float()
            mean = self._added(mean, self._said(logits), objective(logits, self.reference[owner]))
        logits, loss = mean
        return logits, loss

    def predicted(self, xyz: Float[Tensor, "B M T V C"], owner: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return the predicted class of some positions; ``owner`` says which clip of the problem each was made from.

        Of a victim whose answers differ, the most frequent of ``draws`` answers.
        """
        size = BATCH.get(xyz.device.type, 16)
        batches = list(zip(xyz.split(size), self.rows[owner.to(self.rows.device)].split(size), strict=True))
        answers = [torch.cat([self.victim.labels(*batch) for batch in batches]) for _ in range(self.draws)]
        return torch.stack(answers).mode(0).values

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
        } | {name: value[mask] for name, value in values.items() if isinstance(value, AngleMotion)}
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
    others: dict[str, Float[Tensor, "N M T V C"]] = field(default_factory=dict, kw_only=True)  # see `Outcome`


def achieved(goal: Goal, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Judge by logits; a victim that answers with no number has broken down, which is not what the goal asks for."""
    return goal.achieved(logits, reference) & torch.isfinite(logits).all(1)


def free(problem: Problem) -> Bool[Tensor, "N M T V 1"]:
    """Return what may move: valid frames of present persons, and of these what masks of the threat model let move.

    A question about anything else is wasted.
    """
    movable = problem.movable.expand(*problem.clean.shape[:-1], 1)
    for part in parts_of(problem.threat):
        if isinstance(part, Mask):
            movable = movable & part.free(problem.clean)
    return movable
