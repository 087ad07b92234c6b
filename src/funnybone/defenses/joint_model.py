"""The joint model of a clean motion, its adversary and its label that BEAT trains: distance, chains, and replay.

``p(x, x~, y) = exp(F(x)[y] + F(x~)[y] - lambda d(x, x~)) / Z``; everything is in metres, and F is a victim's logits.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.metrics.deviations import masked_mean
from funnybone.motion.dynamics import derivative, stencil
from funnybone.sampling import sgld
from funnybone.skeletons import Skeleton

if TYPE_CHECKING:
    from funnybone.defenses.beat import BEAT

Network = Callable[[Tensor], Tensor]  # logits of positions in metres, differentiable


def motion_distance(
    clean: Float[Tensor, "N M T V C"],
    adversarial: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    skeleton: Skeleton,
    *,
    orders: Sequence[int] = (1, 2, 3),
    position: bool = True,
) -> Float[Tensor, " N"]:
    """Return d of each clip: the mean squared change of bone length, plus that of each derivative of the joints.

    Derivatives are differences between frames, not divided by their time, so that all terms are in square metres; means
    are over valid frames, persons, and bones or joints. The released code leaves positions out: a joint that is moved
    by a constant then costs nothing but its bones.

    Parameters
    ----------
    orders : sequence of int
        Derivatives that count.
    position : bool
        Whether positions themselves, order 0, count too.

    References
    ----------
    Wang et al., "Defending Black-box Skeleton-based Human Activity Classifiers", AAAI 2023, the distance of the joint
    model, with the Euclidean norm.

    Examples
    --------
    A clip that is moved as a whole by 3 mm: nothing but its position has changed.

    >>> from funnybone.testing import random_clips
    >>> clips = random_clips(1)
    >>> moved = clips.xyz + torch.tensor([0.003, 0.0, 0.0])
    >>> motion_distance(clips.xyz, moved, clips.valid, clips.skeleton).mul(1e6).round()
    tensor([9.])
    """
    change, still = adversarial - clean, clean.new_ones(len(clean))
    stretch = skeleton.bone_lengths(adversarial) - skeleton.bone_lengths(clean)
    distance = masked_mean(stretch.square(), valid[..., None])
    for order in (*((0,) if position else ()), *orders):
        square = derivative(change, still, order).square().sum(-1)
        distance = distance + masked_mean(square, stencil(valid, order)[..., None]).nan_to_num()
    return distance


def neighbours(
    answer: Network, clips: Clips, settings: "BEAT", generator: torch.Generator
) -> Float[Tensor, "N M T V C"]:
    """Return an adversary x~ of each clip: a draw from ``p(x~ | x, y)`` by Langevin dynamics, or a worst case.

    With ``log p(x~ | x, y) = log softmax(F(x~))[y] - lambda d(x, x~)``, as in the released code; the model's own
    ``F(x~)[y]`` would let a network make all adversaries likelier by adding to all logits. Chains climb
    ``adversary_power`` times this; a worst case follows the signs of its gradient, whatever that is.

    Raises
    ------
    DataError
        When chains run away to where coordinates are no longer finite.
    """
    where = clips.valid[..., None, None]
    start = near(clips.xyz, settings.radius, where, generator)

    def log_density(xyz: Tensor, towards: float = 1.0) -> Tensor:
        own = answer(xyz).log_softmax(1).gather(1, clips.labels[:, None])[:, 0]
        far = motion_distance(
            clips.xyz, xyz, clips.valid, clips.skeleton, orders=settings.orders, position=settings.position
        )
        return settings.adversary_power * (towards * own - settings.distance_weight * far)

    if settings.adversary == "worst":
        return worst_cases(
            lambda xyz: log_density(xyz, -1.0),
            start,
            clips.xyz,
            steps=settings.langevin_steps,
            step_size=settings.radius / 4,
            radius=settings.radius,
            where=where,
        )
    return _langevin(log_density, start, where, settings, generator)


def likely_motions(
    answer: Network,
    start: Float[Tensor, "N M T V C"],
    valid: Bool[Tensor, "N M T"],
    settings: "BEAT",
    generator: torch.Generator,
) -> Float[Tensor, "N M T V C"]:
    """Return where chains of ``p(x)``, the log of which is the log of the sum of exponentials of logits, have gone."""
    return _langevin(lambda xyz: answer(xyz).logsumexp(1), start, valid[..., None, None], settings, generator)


def motion_score(logits: Float[Tensor, "... K"], settings: "BEAT") -> Float[Tensor, "..."]:
    """Return ``log p(x)`` up to a constant: the log of the sum of exponentials, or the mean logit as released."""
    return logits.mean(-1) if settings.partition == "mean" else logits.logsumexp(-1)


def _langevin(
    log_density: Network, start: Tensor, where: Tensor, settings: "BEAT", generator: torch.Generator
) -> Tensor:
    found = sgld(
        log_density,
        start,
        steps=settings.langevin_steps,
        step_size=settings.langevin_step,
        noise=settings.langevin_noise,
        where=where,
        generator=generator,
    )
    if not torch.isfinite(found).all():
        raise diverged("a clip that was drawn", settings)
    return found


def diverged(what: str, settings: "BEAT") -> DataError:
    """What to say of clips that ran away while they were drawn: nothing is trained on them."""
    at_fault = ["radius"] if settings.adversary == "worst" else ["langevin_step", "distance_weight"]
    said = ", or ".join(f"{name}, now {getattr(settings, name):g}" for name in at_fault)
    weights = "; where the network's own weights are no longer finite, lr" if settings.full else ""
    return DataError(f"defense beat: {what} is no longer finite", hint=f"lower {said}{weights}")


def worst_cases(
    loss: Callable[[Tensor], Tensor],
    start: Float[Tensor, "N M T V C"],
    clean: Float[Tensor, "N M T V C"],
    *,
    steps: int,
    step_size: float,
    radius: float,
    where: Bool[Tensor, "N M T 1 1"],
) -> Float[Tensor, "N M T V C"]:
    """Return positions within ``radius`` of ``clean``, in each coordinate, to which sign steps up a loss lead.

    Examples
    --------
    >>> clean = torch.zeros(1, 1, 2, 1, 1)
    >>> where = torch.tensor([True, False]).reshape(1, 1, 2, 1, 1)
    >>> worst_cases(lambda x: x.flatten(1).sum(1), clean, clean, steps=3, step_size=0.004, radius=0.01,
    ...             where=where).flatten()
    tensor([0.0100, 0.0000])
    """
    xyz = start.detach()
    for _ in range(steps):
        xyz = xyz.requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(xyz).sum(), xyz)
        moved = xyz.detach() + step_size * gradient.sign()
        xyz = torch.where(where, clean + (moved - clean).clamp(-radius, radius), clean)
    return xyz


def near(
    clean: Float[Tensor, "N M T V C"], radius: float, where: Bool[Tensor, "N M T 1 1"], generator: torch.Generator
) -> Float[Tensor, "N M T V C"]:
    """Return clips whose coordinates are each moved by a number between plus and minus ``radius``."""
    moved = (2 * torch.rand(clean.shape, generator=generator, device=generator.device) - 1).to(clean.device)
    return torch.where(where, clean + radius * moved, clean)


def new_chains(
    clips: Clips, count: int, settings: "BEAT", generator: torch.Generator
) -> tuple[Float[Tensor, "R M T V C"], Bool[Tensor, "R M T"]]:
    """Return where chains of ``p(x)`` begin, on the valid frames of clips chosen at random: near these, or anywhere."""
    rows = torch.randint(len(clips), (count,), generator=generator).to(clips.xyz.device)
    xyz, valid = clips.xyz[rows], clips.valid[rows]
    where = valid[..., None, None]
    if settings.box is None:
        return near(xyz, settings.radius, where, generator), valid
    return near(torch.zeros_like(xyz), settings.box, where, generator), valid


class Replay:
    """Chains of p(x) that go on where they were left: the buffer of persistent contrastive divergence.

    It fills to its size, and from then on gives some of its chains, a share of which begin anew.

    Parameters
    ----------
    size : int
        Chains that are remembered; 0: all begin anew each time, as in the released code.
    anew : float
        Share of the chains that begin anew each time.
    begin : callable
        Takes how many and a generator; returns positions of new chains and where they are valid.

    Attributes
    ----------
    xyz, valid : Tensor
        What is remembered.

    Examples
    --------
    >>> still = torch.ones(2, 1, 4, dtype=torch.bool)
    >>> replay = Replay(3, 0.05, lambda n, chance: (torch.zeros(n, 1, 4, 17, 3), still[:1].expand(n, 1, 4)))
    >>> chance = torch.Generator().manual_seed(0)
    >>> for _ in range(3):
    ...     xyz, valid, rows = replay.take(2, chance)
    ...     replay.put(xyz, valid, rows)
    >>> len(replay.xyz)
    3
    """

    def __init__(self, size: int, anew: float, begin: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]) -> None:
        self.size, self.anew, self.begin = size, anew, begin
        self.xyz, self.valid = begin(0, torch.Generator())

    def take(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions of chains, where they are valid, and which of the remembered ones they are; -1: none."""
        fresh, valid = self.begin(count, generator)
        rows = torch.full((count,), -1)
        if len(self.xyz) < self.size or not self.size:
            return fresh, valid, rows
        rows = torch.randperm(self.size, generator=generator)[:count]
        fresh, valid = fresh[: len(rows)], valid[: len(rows)]
        new = (torch.rand(len(rows), generator=generator) < self.anew).to(fresh.device)
        return (
            torch.where(new[:, None, None, None, None], fresh, self.xyz[rows]),
            torch.where(new[:, None, None], valid, self.valid[rows]),
            rows,
        )

    def put(self, xyz: Tensor, valid: Tensor, rows: Tensor) -> None:
        """Remember where chains that were taken are now."""
        old = rows >= 0
        self.xyz = self.xyz.index_copy(0, rows[old].to(xyz.device), xyz[old.to(xyz.device)])
        self.valid = self.valid.index_copy(0, rows[old].to(xyz.device), valid[old.to(xyz.device)])
        room = self.size - len(self.xyz)
        added = (~old).to(xyz.device)
        self.xyz = torch.cat([self.xyz, xyz[added][:room]])
        self.valid = torch.cat([self.valid, valid[added][:room]])
