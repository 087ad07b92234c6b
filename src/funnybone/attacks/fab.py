"""FAB (Croce and Hein, 2020): onto the linearised border again and again, as near to the clean clip as can be."""

from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.border import UNIT, Norm, inner, length, limited, per_clip, to_border
from funnybone.attacks.losses import Objective
from funnybone.attacks.minimum_norm import MinimumNormAttack, Visit, held_still
from funnybone.attacks.problem import Problem
from funnybone.attacks.towards import Towards, wanted_classes
from funnybone.errors import DataError
from funnybone.goals import Goal, lead
from funnybone.threat.ball import Ball

_TURNS = 10  # of projections onto a plane and into a threat model, which ask the victim nothing


@register_attack("fab")
@dataclass(frozen=True, kw_only=True)
class FAB(MinimumNormAttack):
    """Step onto the border of the linearised victim, a little beyond it, and pulled towards the clean clip.

    With d the way to that border from where the clip is, and d0 from the clean clip x0, a step leads to
    ``(1 - a) (x + eta d) + a (x0 + eta d0)`` with ``a = min(|d| / (|d| + |d0|), alpha_max)``. A clip that has fallen is
    first drawn back to ``x0 + beta (x - x0)``. There is no step size, and logits may be of any scale. Any goal and any
    threat model will do; the steps are those of the norm, whatever ball bounds them.

    Departures from the published algorithm, which was made for images in a box:

    - A step asks once: the border that is seen where a clip fell is used from where it is drawn back to.
    - A clip is pulled towards the clean one only after it has first fallen in a search. Before that, the pull can
      outweigh the steps where the border bends away, and the clip never crosses it.
    - Where a saturated victim puts the border further away than a clip that has fallen, it is not believed: from a
      fallen clip no step goes more than half of the way back, and where there is no gradient it goes that far.
    - What a threat model takes off a step, which would end short of the border, projections onto the linearised border
      and into the threat model make up in turn. The paper projects onto the border within its box.
    - In a ball the search stays inside, where AutoAttack's only asks of what it found whether it is. So it finds more.
    - There is no final search on the line from the clip found to the clean one, as in AutoAttack's code.
    - A search that has not shortened a clip's way by a thousandth in ``patience`` steps ends.

    Parameters
    ----------
    steps : int
        Of each search; 100 in AutoAttack.
    norm : {"l2", "linf"}
        What is made small.
    alpha_max, eta, beta : float
        The most pull towards the clean clip, how far steps go beyond the border, how far a fallen clip is drawn back.
    classes : int
        How many borders a step looks at, one query each: those to the most probable classes, of which the nearest is
        stepped onto; for SA those to the classes that must be passed, of which the furthest is. The paper looks at all.
    targets : int
        0: the searches are for the goal as it is. More: one search for each of that many most probable classes (9 in
        AutoAttack's FAB-T), at the price of one query to rank them; all where there are no more. For ABN the n - 1
        highest others must be passed too, which is this library's extension. SA has but its own class.
    restarts : int
        Searches, each through all targets; all but the first begin at random, half as far away as the nearest clip
        that was found. Where none was, half as far as a ball's surface, or without a ball, as the clip that missed the
        goal least.
    patience : int
        See above; 0 for never.

    References
    ----------
    Croce and Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack", ICML 2020.
    Constants, targets and restarts as in AutoAttack's code.

    Examples
    --------
    >>> from funnybone.attacks import create_attack
    >>> from funnybone.testing import linear_victim, random_clips
    >>> from funnybone.threat import Linf
    >>> clips = random_clips(4)
    >>> victim = linear_victim(clips, distance=0.05)
    >>> outcome = create_attack("fab", steps=10, norm="linf")(victim, clips)
    >>> exact = 0.05 / victim.module.plane.normal.abs().sum()
    >>> bool((Linf(1.0).distance(clips.xyz, outcome.adversarial.xyz) < 1.02 * exact).all())
    True
    """

    norm: Norm = "l2"
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    classes: int = 1
    targets: int = 0
    restarts: int = 1
    patience: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in get_args(Norm):
            raise DataError(f"attack fab: norm is {self.norm!r}", hint=f"it is one of {', '.join(get_args(Norm))}")
        for name, low, high in (("alpha_max", 0, 1), ("eta", 1, 2), ("beta", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise DataError(f"attack fab: {name} is {getattr(self, name)}", hint=f"give {low} to {high}")
        for name, least in (("classes", 1), ("targets", 0), ("restarts", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise DataError(f"attack fab: {name} is {getattr(self, name)}", hint=f"give at least {least}")
        if self.targets and self.classes > 1:
            raise DataError(
                f"attack fab: targets is {self.targets}, classes is {self.classes}",
                hint="a search for one class has one border: give classes or targets",
            )

    @property
    def minimised(self) -> Ball:
        return UNIT[self.norm]

    def searches(self, problem: Problem) -> int:
        if self.targets and problem.goal.away:
            logits, _ = problem.score(problem.clean)
            wanted = wanted_classes(logits, problem.reference, problem.goal.place, self.targets)
            problem.state["wanted"] = wanted
            return self.restarts * wanted.shape[1]
        return self.restarts

    def start(self, problem: Problem, search: int, kept: Float[Tensor, " N"]) -> Float[Tensor, "N M T V C"]:
        state, targets = problem.state, 1
        if "wanted" in state:
            targets = state["wanted"].shape[1]
            state["target"] = state["wanted"][:, search % targets]
        state.update(shortest=torch.full_like(kept, torch.inf), waited=torch.zeros_like(kept))
        if search < targets:
            return problem.clean
        shape = problem.clean.shape[1:]
        cube = self.norm == "linf"
        way = 2 * problem.chance.uniform(*shape) - 1 if cube else problem.chance.normal(*shape)
        way = held_still(problem, way)
        return problem.clean + per_clip(kept / 2 / length(way, self.minimised).clamp(min=1e-12)) * way

    def objective(self, problem: Problem) -> Objective:
        if "target" in problem.state:
            return Towards(problem.state["target"], problem.goal.place).margin
        return problem.goal.margin

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], visit: Visit, k: int
    ) -> Float[Tensor, "N M T V C"]:
        state, clean, ball = problem.state, problem.clean, self.minimised
        self._wait(state, visit)
        loss, gradient = self._nearest_border(problem, xyz, visit)
        flat = (gradient == 0).flatten(1).all(1)
        back = torch.where(visit.fallen, torch.where(flat, min(self.beta, 0.5), self.beta), 1)
        here = clean + per_clip(back) * (xyz - clean)
        ahead, behind = (loss + inner(gradient, place - xyz) for place in (here, clean))
        most = torch.where(visit.fallen, visit.norm / 2, visit.best)
        way = limited(to_border(ahead, gradient, ball), most, ball)
        from_clean = limited(to_border(behind, gradient, ball), visit.best, ball)
        near, far = length(way, ball), length(from_clean, ball)
        pull = (near / (near + far).clamp(min=1e-12)).clamp(max=self.alpha_max)
        # What is linear to a saturated victim may hold the clean clip itself for fallen.
        pull = per_clip(torch.where(state["shortest"].isfinite() & (behind > 0), pull, 0))
        there = (1 - pull) * (here + self.eta * way) + pull * (clean + self.eta * from_clean)
        return self._across(problem, there, xyz, loss, gradient)

    def _across(
        self,
        problem: Problem,
        there: Float[Tensor, "N M T V C"],
        xyz: Float[Tensor, "N M T V C"],
        loss: Float[Tensor, " N"],
        gradient: Float[Tensor, "N M T V C"],
    ) -> Float[Tensor, "N M T V C"]:
        """Return where steps lead that cross the border; those that the threat model stops short of it, across.

        What the threat model takes off, a projection (L2) onto a plane beyond the border gives back, in turn. The plane
        lies as far beyond as a step from the clean clip would lead, so that the rest of the way does not shrink for
        ever.
        """
        meant, behind = (loss + inner(gradient, place - xyz) for place in (there, problem.clean))
        beyond = (self.eta - 1) * behind.clamp(min=0)
        for _ in range(_TURNS):
            held = problem.constrain(there)
            left = loss + inner(gradient, held - xyz)
            short = (meant < 0) & (left >= 0)
            if not bool(short.any()):
                break
            there = torch.where(per_clip(short), held + to_border(left + beyond, gradient, UNIT["l2"]), there)
        return there

    def _nearest_border(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], visit: Visit
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N M T V C"]]:
        """Return the margin, and its gradient, of the border to step onto."""
        goal = problem.goal
        loss, gradient = visit.loss, visit.gradient
        distance = self._signed(goal, loss, gradient)
        for rank in range(1, min(self.classes, visit.logits.shape[1] - goal.place)):
            able = problem.can_ask()
            if not bool(able.any()):
                break
            part = problem.keep(able)
            _, other, slope, _ = self.asked(part, xyz[able], ranked(goal, goal.place + rank))
            there = self._signed(goal, other, slope)
            # To leave a class one border must be crossed, to enter one all of them.
            better = there < distance[able] if goal.away else there > distance[able]
            place = able.nonzero().flatten()[better]
            loss, gradient, distance = (
                old.index_put((place,), new[better])
                for old, new in ((loss, other), (gradient, slope), (distance, there))
            )
        return loss, gradient

    def _signed(
        self, goal: Goal, loss: Float[Tensor, " N"], gradient: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        """The distance to a border, negative beyond it; where nothing leads there, one that is never chosen."""
        size = length(to_border(loss, gradient, self.minimised), self.minimised) * loss.sign()
        never = torch.inf if goal.away else -torch.inf
        return torch.where((gradient != 0).flatten(1).any(1), size, never)

    def _wait(self, state: dict[str, Tensor], visit: Visit) -> None:
        """Count the steps since a clip's way in this search became shorter."""
        now = torch.where(visit.fallen, visit.norm, torch.inf)
        shorter = now < 0.999 * state["shortest"]
        state["waited"] = torch.where(shorter | state["shortest"].isinf(), 0, state["waited"] + 1)
        state["shortest"] = torch.minimum(state["shortest"], now)

    def converged(self, problem: Problem, visit: Visit, k: int) -> Bool[Tensor, " N"]:
        return (problem.state["waited"] >= self.patience) & (self.patience > 0)


def ranked(goal: Goal, place: int) -> Objective:
    """Return the margin over the class at another place among all but the reference than the goal's own.

    Examples
    --------
    >>> from funnybone.goals import AnythingBut
    >>> ranked(AnythingBut(), 2)(torch.tensor([[4.0, 3.0, 1.0]]), torch.tensor([0]))
    tensor([3.])
    """
    sign = 1 if goal.away else -1
    return lambda logits, reference: sign * lead(logits, reference, place)
