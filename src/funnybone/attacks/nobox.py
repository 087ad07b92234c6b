"""Hard no-box (Lu et al., 2023): away from what a clip is like, by an encoder learned without labels or a victim."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.base import Attack, register_attack
from funnybone.attacks.contrast import Contrast, learn_contrast
from funnybone.attacks.mifgsm import of_length_one
from funnybone.attacks.problem import Problem, Progress, Trace
from funnybone.errors import DataError
from funnybone.models import models
from funnybone.motion.autoregression import autoregression, motion_gradient
from funnybone.threat.ball import ball_of
from funnybone.victims.access import Access


@dataclass(frozen=True)
class NoBoxTrace(Trace):
    """Also what the encoder was learned from."""

    encoder: dict[str, Any]


@register_attack("nobox")
@dataclass(frozen=True, kw_only=True)
class NoBox(Attack):
    """Move clips away from what they are like, and towards what others are like, asking no victim anything.

    The attacker has motions without labels, ``starts`` of the call, or the clips under attack themselves. From these an
    encoder is learned by contrast (see `funnybone.attacks.contrast`), once for each call; k-means finds centres of
    their embeddings. Of a clip, the centres that are not nearest to it are what it is to become like:

        descend  cos(f(x'), f(x)) - log sum_j exp cos(f(x'), c_j).

    The gradient is that of motion: by autoregressive coefficients of the clean clip, each frame also answers for the
    one or two frames that follow from it. Steps are those of `MIFGSM`; of the iterates the one with the lowest loss is
    kept.

    No labels are used, no query is made, and the attack does not know whether it succeeds: it takes every goal and aims
    at no class, claims no success, and does the same to a clip whoever the victim is. Its result depends on ``starts``,
    and on the seed of the call's generator, by the encoder.

    Presets:

    - ``published``: the paper's backbone, epochs, steps and steps' length; hours on a processor. The steps are one
      hundredth of the ball's radius: 0.1 mm in the published ball of 10 mm. The paper's budgets on NTU, .01, .008 and
      .006, are metres; its HDM05 is of another, undocumented scale, so its .001 there is none of ours.

    Parameters
    ----------
    steps : int
        Steps for each clip.
    step_size : float
        Length of a step as a share of the ball's radius.
    momentum : float
        What is left of a gradient one step later: 1 as published (MI), 0 for the iterative FGSM (I).
    order : {0, 1, 2}
        Of the motion gradient: how many frames a frame follows from. 0 for the gradient as it is.
    backbone : str
        Which of `funnybone.models` the encoder is; the paper's is AGCN.
    width : int
        The encoder's width, where its family has one.
    epochs : int
        Passes over ``starts`` in which it is learned: with the number of clips, what learning costs.
    optimiser : {"adamw", "sgd"}
        What learns it; the paper's is SGD.
    learning_rate : float
        Of the optimiser: the first one, which falls to zero as a cosine does.
    clusters : int
        Centres of k-means. Of fewer clips there are as many as clips.
    dropped : int
        Centres nearest to a clip that it is not to become like; of fewer clusters fewer, in proportion, one at least.

    References
    ----------
    Lu, Wang, Chang, Yang, Shum, "Hard No-Box Adversarial Attack on Skeleton-Based Human Action Recognition with
    Skeleton-Motion-Informed Gradient", ICCV 2023: the loss, the motion gradient, 120 clusters and 10 dropped, AGCN for
    450 epochs, 400 steps. A reconstruction in part: see `learn_contrast` for the encoder. The kernel's width of the
    autoregression is this library's, as are the defaults here, for two processor cores. Left out on purpose: the other
    clips of the batch as further negatives, and 0.1 in place of zero in the cosine's denominator, both of the released
    code; a clip's result must not depend on those beside it.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:4]
    >>> attack = fb.create_attack("nobox", epochs=1, steps=2, width=4)
    >>> outcome = attack(victim, clips, threat=fb.threat.Linf(0.02))
    >>> int(outcome.queries.sum()), outcome.provenance["encoder"]["clusters"]
    (0, 4)
    """

    access: ClassVar[Access] = "nothing"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {
            **{"backbone": "agcn", "width": 64, "epochs": 450, "optimiser": "sgd", "learning_rate": 0.01},
            **{"steps": 400, "step_size": 0.01, "momentum": 1.0, "order": 2, "clusters": 120, "dropped": 10},
        }
    }

    steps: int = 100
    step_size: float = 0.025
    momentum: float = 1.0
    order: int = 2
    backbone: str = "stgcn"
    width: int = 16
    epochs: int = 30
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    clusters: int = 120
    dropped: int = 10

    def __post_init__(self) -> None:
        least = {"steps": 1, "width": 1, "epochs": 1, "clusters": 2, "dropped": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise DataError(f"attack nobox: {name} is {getattr(self, name)}", hint=f"give at least {low}")
        for name in ("step_size", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise DataError(f"attack nobox: {name} is {getattr(self, name)}", hint="give a number above zero")
        if not 0 <= self.momentum <= 1:
            raise DataError(f"attack nobox: momentum is {self.momentum}", hint="give a share from 0 to 1")
        if self.order not in (0, 1, 2):
            raise DataError(f"attack nobox: order is {self.order}", hint="give 0, 1 or 2")
        if self.dropped >= self.clusters:
            raise DataError(
                f"attack nobox: dropped is {self.dropped} of {self.clusters} clusters", hint="leave at least one"
            )
        models[self.backbone]  # said now, where there is none of that name

    def run(self, problem: Problem, progress: Progress) -> NoBoxTrace:
        ball, clean, total = ball_of(problem.threat), problem.clean, len(problem)
        contrast = self.learned(problem, progress)
        with torch.no_grad():
            own = contrast.embedded(clean)
        found = len(contrast.centres)
        dropped = min(math.ceil(self.dropped * found / self.clusters), found - 1)
        others = contrast.unlike(own, dropped)
        coefficients = autoregression(clean, problem.clips.valid, self.order) if self.order else None
        xyz, best, followed = clean, clean.clone(), torch.zeros_like(clean)
        lowest = torch.full((total,), torch.inf, device=clean.device)
        for k in range(self.steps + 1):
            xyz = xyz.detach().requires_grad_(True)
            with torch.enable_grad():
                loss = latent_loss(contrast.embedded(xyz), own, others)
                (gradient,) = torch.autograd.grad(loss.sum(), xyz)
            better = loss.detach() < lowest
            best[better], lowest[better] = xyz.detach()[better], loss.detach()[better]
            progress(total if k == self.steps else 0, 0, total)
            gradient = of_length_one(torch.where(problem.movable, gradient, 0))
            if coefficients is not None:
                gradient = motion_gradient(gradient, coefficients)
            followed = self.momentum * followed + gradient
            xyz = problem.constrain(xyz.detach() - self.step_size * ball.steepest(followed))
        nothing = torch.zeros(total, dtype=torch.bool, device=clean.device)
        steps = torch.full((total,), self.steps, device=clean.device)
        encoder = {"clips": contrast.clips, "loss": contrast.loss, "clusters": found, "dropped": dropped}
        return NoBoxTrace(best, nothing, steps, nothing.clone(), encoder)

    def learned(self, problem: Problem, progress: Progress) -> Contrast:
        """Return the encoder of a call, learned when it is first asked for."""
        if self not in problem.shared:
            assert problem.starts is not None  # `Attack.__call__` gives some
            log = logging.getLogger("funnybone")

            def told(epoch: int, loss: float) -> None:
                log.info("attack nobox: encoder, epoch %d of %d, loss %.3f", epoch, self.epochs, loss)
                progress(0, 0, len(problem))

            contrast = learn_contrast(
                problem.starts,
                backbone=self.backbone,
                width=self.width,
                epochs=self.epochs,
                optimiser=self.optimiser,
                learning_rate=self.learning_rate,
                clusters=self.clusters,
                seed=problem.seed,
                told=told,
            )
            if (found := len(contrast.centres)) < self.clusters:
                log.info("attack nobox: %d clusters in place of %d, one for each clip", found, self.clusters)
            problem.shared[self] = contrast
        return problem.shared[self]

    def notes(self, success: Bool[Tensor, " N"], traces: Sequence[tuple[Tensor, Trace]]) -> dict[str, Any]:
        """Return ``encoder``: how many clips it was learned from, its last loss, clusters and how many are dropped."""
        found = [trace.encoder for _, trace in traces if isinstance(trace, NoBoxTrace)]
        return {"encoder": found[0]} if found else {}


def latent_loss(
    embedded: Float[Tensor, "N D"], own: Float[Tensor, "N D"], others: Float[Tensor, "N L D"]
) -> Float[Tensor, " N"]:
    """Return how much more a clip is like itself than like others; embeddings have length one.

    Examples
    --------
    >>> near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[[-1.0, 0.0]]])
    >>> latent_loss(near, near, far), latent_loss(-near, near, far)
    (tensor([2.]), tensor([-2.]))
    """
    return (embedded * own).sum(1) - torch.einsum("nd,nld->nl", embedded, others).logsumexp(1)
