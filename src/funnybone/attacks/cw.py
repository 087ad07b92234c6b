"""C&W (Carlini and Wagner, 2017): the smallest L2 displacement, by Adam and a binary search for its price."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.adam import adam
from funnybone.attacks.base import register_attack
from funnybone.attacks.border import falling, per_clip
from funnybone.attacks.minimum_norm import MinimumNormAttack, Visit
from funnybone.attacks.problem import Problem
from funnybone.errors import DataError


@register_attack("cw")
@dataclass(frozen=True, kw_only=True)
class CW(MinimumNormAttack):
    """Descend ``|d|_2^2 + c max(margin + kappa, 0)`` by Adam, and search by bisection for the smallest c that will do.

    The margin is the goal's, in logits: for AB the true class's lead over the best of the others. Each clip has a c of
    its own: while no search succeeded it grows tenfold, while all did it falls to a tenth (the published code halves
    it), and then it is bisected. A search has succeeded where the clip fell in its second half: that the first steps,
    which are long, crossed the border says nothing of c. Every search begins anew at the clean clip. There is no box,
    and so no tanh that would stand for one: coordinates in metres have no end.

    Needs no scale to be given. The first gradient predicts how far the border is, and what c a linear victim would
    need; both c and the length of steps are counted in these, so that a victim whose logits are a thousand times as
    large, or clips in pixels, are attacked alike. Once a clip has fallen, its steps are measured by how far it went.
    Any goal and any threat model will do; an L2 ball bounds what is found, and Adam may pass through what lies beyond.
    Of the attacks with this aim it asks most: `DDN` comes as near with a quarter of the gradients.

    Parameters
    ----------
    steps : int
        Adam steps of one search; the published code makes up to 10,000.
    binary_searches : int
        Searches, each with a c of its own; 9 in the published code.
    step_size : float
        How far Adam moves a coordinate in the first step of a search, as a share of the root mean square, over the
        coordinates that count, of the predicted way to the border.
    last_step : float
        The same in the last one; steps fall along half a cosine. The published code's do not.
    first_c : float
        c of the first search, in units of that at which a linear victim just falls. At 1 nothing is won there.
    kappa : float
        Confidence, in logits: by how much the goal must be more than achieved. Zero is the border itself.
    abort_early : bool
        End a search in which a clip has not fallen when a tenth of the steps has not lowered the least of its
        objective by a ten-thousandth: its c is too small. The published code, whose tenth is a thousand steps, ends
        others too; of a hundred, the last ones, which are short, are what brings a fallen clip nearer.

    References
    ----------
    Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", IEEE S&P 2017: the L2 attack. The
    defaults are this library's, for some hundred gradients instead of tens of thousands; what is said of the published
    code is general knowledge of it.

    Examples
    --------
    >>> from funnybone.attacks import create_attack
    >>> from funnybone.testing import linear_victim, random_clips
    >>> from funnybone.threat import L2
    >>> clips = random_clips(4)
    >>> outcome = create_attack("cw", steps=50, binary_searches=2)(linear_victim(clips, distance=0.05), clips)
    >>> bool((L2(1.0).distance(clips.xyz, outcome.adversarial.xyz) < 1.05 * 0.05).all())
    True
    """

    stays_inside: ClassVar[bool] = False  # at a ball's surface Adam does not come to rest

    binary_searches: int = 5
    step_size: float = 0.5
    last_step: float = 0.05
    first_c: float = 2.0
    kappa: float = 0.0
    abort_early: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.binary_searches < 1:
            raise DataError(f"attack cw: binary_searches is {self.binary_searches}", hint="give at least 1")
        for name in ("step_size", "last_step", "first_c"):
            if not 0 < getattr(self, name) < float("inf"):
                raise DataError(f"attack cw: {name} is {getattr(self, name)}", hint="give a number above zero")
        if not 0 <= self.kappa < float("inf"):
            raise DataError(f"attack cw: kappa is {self.kappa}", hint="give logits, zero or more")

    def searches(self, problem: Problem) -> int:
        return self.binary_searches

    def start(self, problem: Problem, search: int, kept: Float[Tensor, " N"]) -> Float[Tensor, "N M T V C"]:
        state = problem.state
        if search == 0:
            self._predict(problem)
        else:
            state["low"] = torch.where(state["won"], state["low"], state["c"])
            state["high"] = torch.where(state["won"], state["c"], state["high"])
            state["c"] = next_c(state["low"], state["high"])
            state["way"] = torch.where(state["high"].isfinite(), kept, state["way"])
        state["lowest"], state["before"] = torch.full_like(kept, torch.inf).repeat(2, 1)
        state["lost"] = torch.ones_like(kept, dtype=torch.bool)
        for moment in [key for key in state if key.startswith("adam.")]:
            del state[moment]
        return problem.clean

    def _predict(self, problem: Problem) -> None:
        """Ask once how far the border is, were the victim linear, and at which c Adam would end there."""
        _, margin, gradient, _ = self.asked(problem, problem.clean, self.objective(problem))
        missing = (margin + self.kappa).clamp(min=torch.finfo(margin.dtype).tiny)
        way = self.predicted(problem, missing, gradient)
        # At the border 2 d = c w, and |w| is what is missing over the way.
        problem.state.update(
            way=way,
            c=self.first_c * 2 * way.square() / missing,
            low=torch.zeros_like(way),
            high=torch.full_like(way, torch.inf),
            coordinates=(gradient != 0).flatten(1).sum(1).clamp(min=1).to(way.dtype),
        )

    def fell(self, problem: Problem, logits: Float[Tensor, "N K"]) -> Bool[Tensor, " N"]:
        return super().fell(problem, logits) & (problem.goal.margin(logits, problem.reference) <= -self.kappa)

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], visit: Visit, k: int
    ) -> Float[Tensor, "N M T V C"]:
        state = problem.state
        price = torch.where(visit.loss + self.kappa > 0, state["c"], 0)
        unit = per_clip(state["way"] / state["coordinates"].sqrt())  # in it numbers are of Adam's size
        gradient = (2 * (xyz - problem.clean) + per_clip(price) * visit.gradient) / unit.clamp(min=1e-30)
        share = falling(self.step_size, self.last_step, k, self.steps)
        return xyz - share * unit * adam(state, "adam", gradient, k)

    def converged(self, problem: Problem, visit: Visit, k: int) -> Bool[Tensor, " N"]:
        state = problem.state
        objective = visit.norm.square() + state["c"] * (visit.loss + self.kappa).clamp(min=0)
        state["lowest"] = torch.minimum(state["lowest"], objective)
        state["lost"] = state["lost"] & ~visit.fallen
        if not self.abort_early or k % max(self.steps // 10, 1):
            return torch.zeros_like(visit.fallen)
        done = state["lowest"] > 0.9999 * state["before"]
        state["before"] = state["lowest"]
        return done & state["lost"]


def next_c(low: Float[Tensor, " N"], high: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the c to try next: between the largest that failed and the smallest that succeeded.

    Examples
    --------
    >>> inf = float("inf")
    >>> next_c(low=torch.tensor([1.0, 0.0, 1.0]), high=torch.tensor([inf, 1.0, 2.0]))
    tensor([10.0000,  0.1000,  1.5000])
    """
    return torch.where(high.isinf(), 10 * low, torch.where(low == 0, high / 10, (low + high) / 2))
