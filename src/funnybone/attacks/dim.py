"""Input diversity (Xie et al., 2019) for skeletons: gradients of changed copies of a clip."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.losses import Objective
from funnybone.attacks.mifgsm import MIFGSM
from funnybone.attacks.problem import Problem, Progress, Trace
from funnybone.chance import Chance
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.motion.warps import PLANES, at_times, turned


@register_attack("dim")
@dataclass(frozen=True, kw_only=True)
class DIM(MIFGSM):
    """Step along gradients that are taken on randomly changed copies of each clip, so that they suit other victims too.

    In every step a clip is left as it is, or (with a ``probability``) seen through a change of its own that is
    differentiated through: a part of its time stretched to its length, a turn about the vertical, a shear, and some
    joints led astray. Turn, shear and corruption are about the mean position of the clip's valid joints, in the
    clip's own unit and vertical axis; of two-dimensional clips a turn leaves the narrowing that a camera would see.
    Padding and absent persons stay absent, and a stretched clip begins and ends where its valid frames do. What is
    followed is accumulated and stepped along as in `MIFGSM`.

    The verdict, and which iterate is best, are of the clip itself: a copy that fools the victim is no success. A
    step on a copy therefore costs two queries, one of them without a gradient, and a step on the clip itself costs
    one. Clips with a single query left are taken as they are.

    Parameters
    ----------
    steps, loss, early_stop, step_size, random_start
        As in `MIFGSM`. Clips that are meant for other victims need ``early_stop=False``.
    momentum : float
        mu, what is left of a gradient one step later. With 1 this is M-DI2-FGSM, with 0 DI2-FGSM.
    probability : float
        Share of the steps whose gradient is that of a changed copy.
    crop : float
        Shortest part of a clip's valid time that is stretched to all of it; 1 for none.
    rotation : float
        Largest turn about the vertical, radians either way.
    shear : float
        Largest entry, either way, that a shear has beside the diagonal of ones.
    corruption : float
        Share of the joints that half of the copies lead astray in all frames: onto the mean position or, as often, each
        by one and the same matrix with entries between -1 and 1.

    References
    ----------
    Xie et al., "Improving Transferability of Adversarial Examples with Input Diversity", CVPR 2019, section 3.3, for
    images; from general knowledge of the paper, as is ``probability``. No paper has the changes for skeletons: crop,
    shear and corruption are a reconstruction of those in code released with a skeleton benchmark, which changes every
    clip in every step, shears by up to 1, and corrupts 15 of 25 joints drawn with replacement in place of shearing, all
    about the origin. Rotation, doing all in one copy, and the smaller shear and corruption are this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("dim", steps=2)(victim, clips, threat=fb.threat.Linf(0.01))
    >>> outcome.violation.max() <= 1e-6
    tensor(True)
    """

    probability: float = 0.5
    crop: float = 0.95
    rotation: float = 0.3
    shear: float = 0.2
    corruption: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("probability", "corruption"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"attack {self.name}: {name} is {getattr(self, name)}", hint="give a share from 0 to 1")
        if not 0 < self.crop <= 1:
            raise DataError(f"attack {self.name}: crop is {self.crop}", hint="give a share above 0, up to 1")
        for name in ("rotation", "shear"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise DataError(f"attack {self.name}: {name} is {getattr(self, name)}", hint="give at least 0")

    def run(self, problem: Problem, progress: Progress) -> Trace:
        return super().run(_Diverse(**vars(problem), attack=self), progress)


@dataclass(frozen=True)
class Change:
    """One change for each clip: when its frames are taken, and what is done to each joint about a centre."""

    times: Float[Tensor, "N T"]
    maps: Float[Tensor, "N V C C"]

    @classmethod
    def drawn(cls, attack: DIM, clips: Clips, chance: Chance) -> "Change":
        """Return random changes within the settings of an attack."""
        share, length = chance.uniform(2).unbind(1)
        length = attack.crop + (1 - attack.crop) * length
        return cls(
            stretched_times(clips.valid, share * (1 - length), length),
            _maps(attack, clips, chance),
        )

    def of(self, xyz: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]) -> Float[Tensor, "N M T V C"]:
        """Return the changed copies. A clip moved as a whole gives the same copy, moved as far."""
        there = valid[..., None, None]
        count = valid.sum((1, 2))[:, None] * xyz.shape[3]
        centre = torch.where(there, xyz, 0).sum((1, 2, 3)) / count
        centre = centre[:, None, None, None]
        mapped = torch.einsum("nmtvc,nvcd->nmtvd", xyz - centre, self.maps) + centre
        return at_times(torch.where(there, mapped, xyz), self.times, valid)


def stretched_times(
    valid: Bool[Tensor, "N M T"], start: Float[Tensor, " N"], length: Float[Tensor, " N"]
) -> Float[Tensor, "N T"]:
    """Return when to look so that a part of each clip's valid time fills all of it, and frames outside of it stay.

    Parameters
    ----------
    valid : Bool[Tensor, "N M T"]
        Valid time is that from the first to the last frame in which somebody is there.
    start, length : Float[Tensor, "N"]
        The part, as shares of the valid time; they sum to at most one.

    Examples
    --------
    >>> valid = torch.tensor([[[False, True, True, True, True, True, False]]])
    >>> stretched_times(valid, torch.tensor([0.5]), torch.tensor([0.5]))
    tensor([[0.0000, 3.0000, 3.5000, 4.0000, 4.5000, 5.0000, 6.0000]])
    """
    some = valid.any(1)
    time = torch.arange(some.shape[1], device=valid.device).expand_as(some)
    first = torch.where(some, time, some.shape[1]).amin(1, keepdim=True)
    last = torch.where(some, time, -1).amax(1, keepdim=True)
    times = first + start[:, None] * (last - first) + length[:, None] * (time - first)
    return torch.where((time >= first) & (time <= last), times, time.to(times))


def _maps(attack: DIM, clips: Clips, chance: Chance) -> Float[Tensor, "N V C C"]:
    """What positions (rows) are multiplied with: turned and sheared, or led astray."""
    n, axes = len(clips), clips.xyz.shape[-1]
    angle = attack.rotation * (2 * chance.uniform() - 1)
    # A flat clip is one without depth, whose depth is not seen after the turn either.
    basis = torch.eye(3, device=angle.device)[:axes].expand(n, axes, 3)
    turn = turned(basis, PLANES[clips.up][0], angle)[..., :axes]
    flat = torch.eye(axes, device=angle.device)
    shear = flat + (1 - flat) * attack.shear * (2 * chance.uniform(axes, axes) - 1)
    kind = chance.uniform(1, 1)
    astray = torch.where(kind < 0.25, 2 * chance.uniform(axes, axes) - 1, 0)
    corrupted = (chance.uniform(clips.xyz.shape[3]) < attack.corruption) & (kind[..., 0] < 0.5)
    return torch.where(corrupted[..., None, None], astray[:, None], (turn @ shear)[:, None])


@dataclass(frozen=True, eq=False)
class _Diverse(Problem):
    """A problem whose gradients are those of changed copies; answers are to the clips themselves."""

    attack: DIM = dataclasses.field(kw_only=True)

    def gradient(
        self, xyz: Float[Tensor, "N M T V C"], objective: Objective | None = None
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, " N"], Float[Tensor, "N M T V C"]]:
        # Drawn for all clips, whoever needs it: what a clip is given must not depend on the clips beside it.
        chosen = self.chance.uniform() < self.attack.probability
        change = Change.drawn(self.attack, self.clips, self.chance)
        chosen &= (self.victim.remaining(self.rows) >= 2 * self.draws).to(chosen.device)
        seen = dataclasses.replace(self, victim=_Seen(self.victim, chosen, change, self.clips.valid))
        logits, loss, gradient = Problem.gradient(seen, xyz, objective)
        if bool(chosen.any()):
            logits[chosen], loss[chosen] = self.keep(chosen).score(xyz[chosen], objective)
        return logits, loss, gradient


@dataclass(frozen=True)
class _Seen:
    """A victim that is shown some of the clips changed."""

    victim: Any
    chosen: Bool[Tensor, " N"]
    change: Change
    valid: Bool[Tensor, "N M T"]

    def logits(self, xyz: Float[Tensor, "N M T V C"], rows: Int[Tensor, " N"]) -> Float[Tensor, "N K"]:
        with torch.autocast(xyz.device.type, enabled=False):  # positions keep their digits whatever the victim does
            copies = self.change.of(xyz, self.valid)
        return self.victim.logits(torch.where(self.chosen[:, None, None, None, None], copies, xyz), rows)
