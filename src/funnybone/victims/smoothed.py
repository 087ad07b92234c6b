"""Randomised smoothing: a victim that answers about noisy copies of a clip, and what that certifies."""

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

from funnybone.chance import Chance
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.models.layers import present_of
from funnybone.motion.angles import AngleMotion, positions, to_angles
from funnybone.motion.turns import turns
from funnybone.settings import build
from funnybone.victims.access import offers
from funnybone.victims.base import Victim
from funnybone.victims.hardened import Hardened, register_form

ABSTAINED = -1  # the class of a clip about which the votes say too little
MOST_DRAWS = 10_000  # of one answer: a file that names more would keep its reader busy for ever
COPIES = 16  # noisy copies of a clip that are classified at once
WAY_IN = 16  # draws in the mean that an attacker descends: see `Smoothed.own_ways`


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise that a victim is smoothed with.

    Parameters
    ----------
    sigma : float
        Standard deviation: of each coordinate in metres (the clips' unit), or of each component of each rotation vector
        in radians.
    space : {"positions", "joint_angles"}
        What the noise is added to, on the frames in which a person is present: positions of joints, each for itself;
        or rotations of joints, from which positions follow by forward kinematics, so that bones stay as long as they
        are and the root stays where it is.
    draws : int
        Noisy copies that one answer is the mean of; at most 10,000.
    """

    sigma: float = 0.01
    space: Literal["positions", "joint_angles"] = "positions"
    draws: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise DataError(f"smoothing: sigma is {self.sigma}", hint="give metres, or radians, above 0")
        if not 1 <= self.draws <= MOST_DRAWS:
            raise DataError(f"smoothing: draws is {self.draws}", hint=f"give from 1 to {MOST_DRAWS}")


@dataclass(frozen=True, eq=False)
class Certificate:
    """What a smoothed victim says to each clip, and how far around it the answer is the same.

    With probability ``1 - alpha`` for each clip, over the draws, the class that noisy copies are given most often is
    ``prediction`` for all clips nearer than ``radius`` in which the same persons are present in the same frames.
    Nothing is said of one answer of the victim, which is about few noisy copies.

    Parameters
    ----------
    prediction : Int[Tensor, "N"]
        The class; -1 where the votes do not say enough (the victim abstains).
    radius : Float[Tensor, "N"]
        Euclidean distance over all coordinates of all present joints in metres, or over all rotation vectors in
        radians; 0 where it abstains.
    rms : Float[Tensor, "N"]
        The radius as a root mean square over joints and frames: 0.01 means that all joints of all frames can move by
        1 cm, or one in a hundred of them by 10 cm.
    ceiling : float
        The radius of a clip all of whose votes agree: more needs more votes.
    """

    prediction: Int[Tensor, " N"]
    radius: Float[Tensor, " N"]
    rms: Float[Tensor, " N"]
    ceiling: float


@register_form
class Smoothed(Hardened):
    """A victim that is asked about clips with Gaussian noise, whose majority vote has a certified radius.

    One answer is the log of the mean probability of ``noise.draws`` noisy copies, by default of one: as a vote counts
    in the certificate. It is differentiable and `stochastic`, so attacks average its gradients over answers, and the
    majority of fresh answers judges them: the smoothed classifier, to the precision of so many votes. With several
    draws a confident minority can outvote an unsure majority, and the answer is no longer the one that `certify` speaks
    of; it is the better one to descend (see `own_ways`).

    Draws are those of torch's global generator, as of any stochastic victim; `classify` and `certify` take a generator.

    Parameters
    ----------
    base : Victim
        Who votes; of any access.
    noise : Noise
        What is added.
    rest : Float[Tensor, "B 3"], optional
        What angles are counted from (`funnybone.motion.rest.rest_pose`), for noise on angles.
    defense, name
        As in `Hardened`.

    References
    ----------
    Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019. Angles in place
    of coordinates are this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> from funnybone.testing import linear_victim, random_clips
    >>> clips = random_clips(2)
    >>> victim = Smoothed(linear_victim(clips, distance=0.05), Noise(sigma=0.02), defense="smoothing")
    >>> found = victim.certify(clips, n=1000)
    >>> bool((found.prediction == clips.labels).all()), bool((found.radius <= found.ceiling).all())
    (True, True)
    """

    form = "smoothed"

    def __init__(
        self, base: Victim, noise: Noise, *, rest: Tensor | None = None, defense: str, name: str | None = None
    ) -> None:
        super().__init__(base, defense=defense, name=name)
        self.noise, self.stochastic, self.steady = noise, True, False
        bones = len(base.skeleton.bones)
        if noise.space == "joint_angles" and (rest is None or rest.shape != (bones, 3) or not rest.is_floating_point()):
            given = None if rest is None else f"{rest.dtype} {tuple(rest.shape)}"
            raise DataError(
                f"smoothing of angles: the rest pose is {given}",
                hint=f"give the directions of the {bones} bones, {(bones, 3)} floats",
            )
        if noise.space == "positions" and rest is not None:
            raise DataError("smoothing of positions counts from no rest pose", hint="leave it out")
        if rest is not None:
            lengths = torch.linalg.vector_norm(rest.double(), dim=-1)
            if not bool(((lengths - 1).abs() < 1e-3).all()):
                raise DataError(
                    "smoothing of angles: the rest pose has directions whose length is not 1",
                    hint="give what rest_pose returns",
                )
        self.rest = rest

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.noise)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.rest is None else {"rest": self.rest}

    @classmethod
    def restore(
        cls, base: Victim, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], *, defense: str, name: str | None
    ) -> "Smoothed":
        noise = build("form", cls.form, Noise, dict(settings))
        return cls(base, noise, rest=tensors.get("rest"), defense=defense, name=name)

    def logits(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N K"]:
        said = (self.base.logits(copies).log_softmax(1) for copies in self._drawn(xyz))
        return functools.reduce(torch.logaddexp, said) - math.log(self.noise.draws)

    def labels(self, xyz: Float[Tensor, "N M T V C"]) -> Int[Tensor, " N"]:
        if self.access == "labels":
            return torch.stack([self.base.labels(copies) for copies in self._drawn(xyz)]).mode(0).values
        return self.logits(xyz).argmax(1)

    def own_ways(self) -> dict[str, Victim]:
        """Return the victim with more draws in the mean of one answer.

        The gradient of the log of a mean probability weighs a draw by how probable it still finds the class, where the
        mean of the gradients of single answers follows those most that are fooled already (Salman et al., "Provably
        Robust Deep Learning via Adversarially Trained Smoothed Classifiers", NeurIPS 2019, equation 6). An attack on it
        needs few answers, or one: ``draws=1``.
        """
        soft = copy.copy(self)
        soft.noise = replace(self.noise, draws=max(WAY_IN, self.noise.draws))
        soft.name, soft.steady = f"{self.name}/mean of {soft.noise.draws}", True
        return {"mean": soft}

    def classify(
        self,
        clips: Clips,
        *,
        n: int = 100,
        alpha: float = 0.001,
        generator: torch.Generator | None = None,
        batch_size: int = 64,
    ) -> Int[Tensor, " N"]:
        """Return the class that noisy copies are given most often, or -1.

        It abstains where a two-sided binomial test does not tell the two most frequent classes apart at level
        ``alpha``, so that with probability ``1 - alpha`` it is right about the smoothed classifier or abstains (Cohen
        et al., PREDICT).
        """
        _check_level(alpha)
        self.check(clips)
        votes = self._votes(clips, n, _chance(clips, generator), batch_size).topk(2, dim=1)
        first, second = votes.values.unbind(1)
        doubt = torch.from_numpy(2 * special.bdtrc(first.numpy() - 1, (first + second).numpy(), 0.5))
        return torch.where(doubt <= alpha, votes.indices[:, 0], ABSTAINED)

    def certify(
        self,
        clips: Clips,
        *,
        n0: int = 100,
        n: int = 1000,
        alpha: float = 0.001,
        generator: torch.Generator | None = None,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> Certificate:
        """Return class and certified radius of each clip (Cohen et al., CERTIFY).

        The most frequent class of ``n0`` noisy copies is the one that is certified, with the exact (Clopper-Pearson)
        lower bound p at level ``1 - alpha`` of its share among ``n`` other copies: ``sigma Phi^-1(p)`` where p is above
        1/2. Votes limit it: to 2.46 sigma for 1000, 3.20 for 10,000, 3.81 for the 100,000 that are usual in print, if
        ``alpha`` is 0.001.

        Parameters
        ----------
        clips : Clips
            What is asked about; each clip's votes are the same whatever clips are beside it.
        n0, n : int
            Noisy copies that choose the class, and that measure its share.
        alpha : float
            How probable it may be, for each clip, that the radius is too large; below 1/2.
        generator : torch.Generator, optional
            The source of chance; seeded with 0 by default.
        batch_size : int
            Noisy copies classified together; at least 16.
        progress : callable, optional
            Told (copies done, copies) as it goes.

        Returns
        -------
        Certificate
        """
        _check_level(alpha)
        self.check(clips)
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        total, told = len(clips) * (n0 + n), progress or (lambda done, total: None)
        first = self._votes(clips, n0, _chance(clips, generator), batch_size, lambda done: told(done, total))
        chosen = first.argmax(1, keepdim=True)
        votes = self._votes(
            clips, n, _chance(clips, generator), batch_size, lambda done: told(len(clips) * n0 + done, total)
        )
        radius = certified_radius(votes.gather(1, chosen).squeeze(1), n, self.noise.sigma, alpha)
        moved = clips.skeleton.joints if self.rest is None else turns(clips.skeleton)
        joints = present_of(clips.xyz).sum((1, 2)).cpu() * len(moved)
        return Certificate(
            prediction=torch.where(radius > 0, chosen.squeeze(1), ABSTAINED),
            radius=radius,
            rms=radius / joints.clamp(min=1).sqrt(),
            ceiling=float(certified_radius(torch.tensor([n]), n, self.noise.sigma, alpha)),
        )

    def distance(self, clean: Float[Tensor, "N M T V C"], other: Float[Tensor, "N M T V C"]) -> Float[Tensor, " N"]:
        """Return how far clips are from others in what `certify` measures its radius in.

        Infinite where other persons are present, or not in the same frames; and in the space of angles where bones or
        roots differ by more than rounding.
        """
        there = present_of(clean)
        same = (there == present_of(other)).flatten(1).all(1)
        one, two = self._at(clean), self._at(other)
        if isinstance(one, AngleMotion) and isinstance(two, AngleMotion):
            for before, after in ((one.root, two.root), (one.lengths, two.lengths)):
                same &= ((before - after).abs() < 1e-5).flatten(1).all(1)
        moved = torch.where(there[..., None, None], _numbers(one) - _numbers(two), 0)
        return torch.where(same, torch.linalg.vector_norm(moved.flatten(1), dim=1), torch.inf)

    def to(self, device: torch.device | str) -> "Smoothed":
        moved = super().to(device)
        assert isinstance(moved, Smoothed)
        moved.rest = None if self.rest is None else self.rest.to(moved.device)
        return moved

    def _at(self, xyz: Float[Tensor, "N M T V C"]) -> Tensor | AngleMotion:
        """What noise is added to."""
        if self.rest is None:
            return xyz
        with torch.autocast(xyz.device.type, enabled=False):
            # Counted from the axes of the room: the same for all clips, so that clips compare.
            axes = torch.eye(3, device=xyz.device).expand(*xyz.shape[:2], 3, 3)
            rest = self.rest.to(xyz)
            return to_angles(xyz, present_of(xyz), self.skeleton, rest, breathing=True, facing=axes)

    def _seen(self, at: Tensor | AngleMotion, numbers: Tensor) -> Float[Tensor, "N M T V C"]:
        """The noisy clips, from standard normal numbers."""
        added = self.noise.sigma * numbers
        if isinstance(at, Tensor):
            return torch.where(present_of(at)[..., None, None], at + added, at)
        with torch.autocast(added.device.type, enabled=False):  # positions keep their digits whatever the victim does
            return positions(replace(at, theta=at.theta + added))

    def _drawn(self, xyz: Float[Tensor, "N M T V C"]) -> Iterator[Float[Tensor, "N M T V C"]]:
        """The noisy copies that one answer is about."""
        at = self._at(xyz)
        for _ in range(self.noise.draws):
            yield self._seen(at, torch.randn_like(_numbers(at)))

    @torch.no_grad()
    def _votes(
        self, clips: Clips, n: int, chance: Chance, batch_size: int, told: Callable[[int], None] | None = None
    ) -> Int[Tensor, "N K"]:
        """How many of ``n`` noisy copies of each clip the base gives each class."""
        if n < 1:
            raise DataError(f"smoothing: {n} votes", hint="ask for at least 1")
        if self.base.stochastic:
            raise DataError(
                f"victim {self.base.name!r} is stochastic: its votes are not those of one function",
                hint="smooth a victim that gives one answer to one question",
            )
        votes = torch.zeros(len(clips), len(self.classes), dtype=torch.long)
        done = 0
        for rows in torch.arange(len(clips)).split(max(1, batch_size // COPIES)):
            at, own = self._at(clips.xyz[rows].to(self.device)), chance[rows].to(self.device)
            for start in range(0, n, COPIES):
                copies = min(COPIES, n - start)
                of = torch.arange(len(rows), device=self.device).repeat_interleave(copies)
                numbers = own.normal(copies, *_numbers(at).shape[1:]).flatten(0, 1)
                said = self._vote(self._seen(at[of], numbers)).view(len(rows), copies).cpu()
                votes[rows] += torch.nn.functional.one_hot(said, len(self.classes)).sum(1)
                done += len(said) * copies
                if told is not None:
                    told(done)
        return votes

    def _vote(self, copies: Float[Tensor, "N M T V C"]) -> Int[Tensor, " N"]:
        """The base's class of each noisy copy; the largest of logits that are no numbers is no vote."""
        if not offers(self.base, "scores"):
            return self.base.labels(copies)
        logits = self.base.logits(copies)
        if not bool(torch.isfinite(logits).all()):
            raise DataError(
                f"smoothing: victim {self.base.name!r} answers NaN or infinity to noisy copies",
                hint="its votes would say nothing; look at its answers to the clips themselves",
            )
        return logits.argmax(1)


def certified_radius(count: Int[Tensor, " N"], n: int, sigma: float, alpha: float) -> Float[Tensor, " N"]:
    """Return the radius that ``count`` of ``n`` votes certify with probability ``1 - alpha``; 0 where they do not.

    ``sigma Phi^-1(p)``, p being the lower end of the one-sided Clopper-Pearson interval, in float64.

    Raises
    ------
    DataError
        For an ``alpha`` that is not between 0 and 1/2.

    References
    ----------
    Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, theorem 1 and section 3.2.

    Examples
    --------
    >>> certified_radius(torch.tensor([1000, 990, 500]), 1000, 1.0, 0.001)
    tensor([2.4633, 1.9780, 0.0000], dtype=torch.float64)
    """
    _check_level(alpha)
    found = count.cpu().double().numpy()
    lower = np.where(found > 0, special.betaincinv(np.maximum(found, 1), n - found + 1, alpha), 0)
    return torch.from_numpy(sigma * special.ndtri(np.maximum(lower, 0.5)))


def _check_level(alpha: float) -> None:
    if not 0 < alpha < 0.5:
        raise DataError(f"smoothing: alpha is {alpha}", hint="give a probability above 0 and below 1/2")


def _numbers(at: Tensor | AngleMotion) -> Tensor:
    return at if isinstance(at, Tensor) else at.theta


def _chance(clips: Clips, generator: torch.Generator | None) -> Chance:
    return Chance.of(clips, generator if generator is not None else torch.Generator().manual_seed(0))
