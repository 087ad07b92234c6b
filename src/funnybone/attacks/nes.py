"""NES (Ilyas et al., 2018): gradients estimated by probes in random directions and their opposites."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.losses import objective
from funnybone.attacks.problem import Problem, free
from funnybone.attacks.scored import ScoreAttack
from funnybone.attacks.spaces import smooth
from funnybone.errors import DataError
from funnybone.threat.ball import ball_of

# Pairs of probes of one clip that are asked about together: what a clip is given must not depend on the number of
# clips, so memory is bounded by this and not by what fits.
PAIRS = 8


@register_attack("nes")
@dataclass(frozen=True, kw_only=True)
class NES(ScoreAttack):
    """Estimate the gradient by the scores around an iterate, step against it with momentum, return to the budget.

    Probes come in pairs, ``x + sigma u`` and ``x - sigma u``; the estimate is the mean of ``u`` weighted by how much
    the two losses differ. Probes may lie outside of the threat model, where nothing is judged; iterates do not. The
    step is the steepest one of the threat model's ball, as in PGD, and other parts are projected onto. What cannot
    move, padding, absent persons and what a mask holds, is not probed.

    Parameters
    ----------
    queries : int
        Most queries for each clip; a budget of the call that is smaller holds. A step costs ``samples`` and one more.
    loss : {"goal", "ce", "margin", "dlr"}
        What is descended: see `funnybone.attacks.losses`.
    samples : int
        Probes of a step, an even number.
    sigma : float
        Root mean square of a coordinate's displacement in a probe, metres.
    step_size : float
        Length of a step as a share of the ball's radius.
    momentum : float
        What is left of an estimate one step later: ``g <- momentum g + (1 - momentum) estimate``.
    frequencies : int, optional
        Probe along so many cosines over time only, from the constant one on: slow motion. White noise by default.

    References
    ----------
    Ilyas et al., "Black-box Adversarial Attacks with Limited Queries and Information", ICML 2018, algorithm 1 and
    section 3.2. Its 50 samples and momentum of 0.9 are from general knowledge; its released code also shortens steps
    when the loss stands still, which this does not.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("nes", queries=12, samples=4)(victim, clips, threat=fb.threat.Linf(0.01))
    >>> outcome.violation.max() <= 1e-6
    tensor(True)
    """

    samples: int = 50
    sigma: float = 0.001
    step_size: float = 0.1
    momentum: float = 0.9
    frequencies: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2 or self.samples % 2:
            raise DataError(f"attack nes: samples is {self.samples}", hint="give an even number: probes come in pairs")
        if not 0 < self.sigma < float("inf"):
            raise DataError(f"attack nes: sigma is {self.sigma}", hint="give metres, more than zero")
        if not 0 < self.step_size < float("inf"):
            raise DataError(f"attack nes: step_size is {self.step_size}", hint="give a share of the radius, above zero")
        if not 0 <= self.momentum < 1:
            raise DataError(f"attack nes: momentum is {self.momentum}", hint="give a share from 0, below 1")
        if self.frequencies is not None and self.frequencies < 1:
            raise DataError(f"attack nes: frequencies is {self.frequencies}", hint="give at least 1, or none")

    @property
    def probes(self) -> int:
        return self.samples

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        ball_of(problem.threat)  # said now, where there is none
        problem.state["free"] = free(problem)
        problem.state["momentum"] = torch.zeros_like(problem.clean)
        return problem.clean

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], loss: Float[Tensor, " N"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        state, gradient = problem.state, self.estimate(problem, xyz)
        state["momentum"] = self.momentum * state["momentum"] + (1 - self.momentum) * gradient
        return xyz - self.step_size * ball_of(problem.threat).steepest(state["momentum"])

    def estimate(self, problem: Problem, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        """Return the estimated gradient; of slow motion, its part along the slow cosines. Asks ``samples`` questions.

        Where an answer is no number, the whole estimate of that clip is zero.
        """
        n, m, t, v, c = xyz.shape
        descended, pairs = objective(self.loss, problem.goal), self.samples // 2
        # Coefficients of unit variance on few orthonormal cosines make small coordinates; sigma is said of coordinates.
        slow = self.frequencies is not None and self.frequencies < t
        scale = (t / self.frequencies) ** 0.5 if slow and self.frequencies else 1.0
        gradient = torch.zeros_like(xyz)
        for done in range(0, pairs, PAIRS):
            some = min(PAIRS, pairs - done)
            noise = smooth(problem.chance, (some, m, t, v * c), self.frequencies).unflatten(-1, (v, c))
            noise = torch.where(problem.state["free"][:, None], noise, 0)
            way = self.sigma * scale * torch.stack([noise, -noise], 1)  # (N, 2, some, ...)
            probes = (xyz[:, None, None] + way).flatten(0, 2)
            owner = torch.arange(n, device=xyz.device).repeat_interleave(2 * some)
            answers = problem.scored(probes, owner, descended)[1].view(n, 2, some)
            slope = (answers[:, 0] - answers[:, 1]) / (2 * self.sigma * scale)
            gradient = gradient + torch.einsum("nk,nkmtvc->nmtvc", slope, noise) / pairs
        known = torch.isfinite(gradient).flatten(1).all(1)
        return torch.where(known[:, None, None, None, None], gradient, 0)
