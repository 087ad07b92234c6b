"""Whether a clip is natural motion: figures of a single clip, held against those of recorded ones."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.metrics.deviations import masked_mean
from funnybone.metrics.proportions import Proportions, median_lengths, proportions_of
from funnybone.motion.angles import AngleMotion, to_angles
from funnybone.motion.dynamics import derivative, stencil
from funnybone.motion.hinges import FARTHEST, bends_of
from funnybone.motion.limits import JointLimits, limits_of
from funnybone.motion.rest import rest_pose
from funnybone.skeletons import Skeleton

FORMAT = 2
FIGURES = (
    "bone_change",
    "beyond_limits",
    "speed",
    "mean_acceleration",
    "largest_acceleration",
    "mean_jerk",
    "largest_jerk",
    "trembling",
    "asymmetry",
    "proportions",
)
BODY = ("share", "share_spread", "side_spread")  # what a file has of proportions
FALSE_ALARMS = 0.05
FOLDS = 5
RIGID = 1e-3  # a bone of 40 cm changes by 0.4 mm: simulated bodies are as rigid as rounding lets them be
UNUSUAL = 2.0  # times what is usual: all clips of one person say the same of the next, and people are few
LEAST = {"bone_change": RIGID, "asymmetry": UNUSUAL, "proportions": UNUSUAL}  # no threshold is lower
STILL = 0.01  # m/s: nobody stands stiller
SHORT = 0.01  # m: changes of shorter bones are measured against this
MOST = 4000  # clips to learn from; of more, evenly chosen ones say the same


@dataclass(frozen=True, eq=False)
class NaturalMotion:
    """What recorded motion keeps to: the test that the on-manifold rate counts, and a detector by itself.

    A clip is natural when none of its figures is above a threshold:

    - ``bone_change``: of the bone that changes most, the root mean square change, as a share of its median length;
    - ``beyond_limits`` (rad): by how much the angle that is farthest beyond its limit, or the elbow or knee that bends
      farthest beyond what anatomy has, is so, mean over frames;
    - ``speed`` (m/s): of the fastest joint in the fastest frame;
    - ``mean_acceleration``, ``largest_acceleration`` (m/s^2), ``mean_jerk``, ``largest_jerk`` (m/s^3): over joints and
      frames;
    - ``trembling`` (1/s^2): mean jerk for the mean speed, high where a body trembles, however slowly it moves;
    - ``asymmetry``: how unlike the bones of left and right are, and ``proportions``: how far the shares of bones are
      from those of the people recorded, both in what is usual for each bone
      (`funnybone.metrics.proportions.Proportions`). They see bodies that were changed for good.

    All are figures of the clip alone; nothing is compared with the clip that it was made from. The size of a body is
    none of them: recorded people are few and mostly adults, and a child is natural. One that is large moves fast.

    Parameters
    ----------
    limits : JointLimits
        How far joints turn.
    proportions : Proportions
        How long bones are for the whole, and how alike left and right.
    thresholds : Float[Tensor, "K"]
        One for each of the figures, in their order.
    false_alarms : float
        Share of new clips of the same kind that the thresholds were set to flag at most.
    clips : int
        Clips that it was learned from.
    flagged : int
        How many of them are flagged, when joint limits are learned from the others.
    frames : int
        Their length: resampling smooths, so that clips of another length do not compare.
    name : str
        The data that it was learned from.
    """

    limits: JointLimits
    proportions: Proportions
    thresholds: Float[Tensor, " K"]
    false_alarms: float
    clips: int
    flagged: int
    frames: int
    name: str

    def figures(self, clips: Clips) -> Float[Tensor, "N K"]:
        """Return the figures of each clip, in the order of ``FIGURES``."""
        if clips.xyz.shape[2] != self.frames:
            raise DataError(
                f"{clips.name}: clips of {clips.xyz.shape[2]} frames, natural motion was learned from {self.frames}",
                hint="learn it from clips of the same length",
            )
        motion = self.limits.angles(clips)
        return _figures(clips, self.limits, motion, self.proportions, median_lengths(clips))

    def holds(self, clips: Clips) -> Bool[Tensor, " N"]:
        """Return which clips are natural motion; none where a joint that is there is no number."""
        there = torch.where(clips.valid[..., None, None], clips.xyz, 0).isfinite().flatten(1).all(1)
        return there & (self.figures(clips) <= self.thresholds.to(clips.xyz.device)).all(1)

    def to(self, device: torch.device | str) -> "NaturalMotion":
        """Return the same on a device."""
        return replace(
            self,
            limits=self.limits.to(device),
            proportions=self.proportions.to(device),
            thresholds=self.thresholds.to(device),
        )

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file."""
        Path(path).write_bytes(self._bytes())

    def digest(self) -> str:
        """SHA-256 of what `save` writes."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def _bytes(self) -> bytes:
        record = {key: getattr(self, key) for key in ("false_alarms", "clips", "flagged", "frames", "name")}
        record |= {"format": FORMAT, "figures": FIGURES, "skeleton": vars(self.limits.skeleton)}
        tensors = {key: getattr(self.limits, key).cpu().contiguous() for key in ("lower", "upper", "rest")}
        tensors |= {key: getattr(self.proportions, key).cpu().contiguous() for key in BODY}
        tensors["thresholds"] = self.thresholds.cpu().contiguous()
        return save(tensors, {"natural_motion": json.dumps(record, sort_keys=True)})


def on_manifold_rate(clips: Clips, natural: NaturalMotion) -> float:
    """Return the share of clips that are natural motion, as `NaturalMotion.holds` says it of each.

    Clean clips have about ``1 - natural.false_alarms``, which is what the rate of an attack stands beside.

    Examples
    --------
    >>> import funnybone as fb
    >>> clips = fb.load_data("synthetic", split="train")[:40]
    >>> natural = learn_natural_motion(clips)
    >>> on_manifold_rate(clips, natural) >= 0.9
    True
    >>> on_manifold_rate(clips.with_xyz(clips.xyz + 0.01 * torch.randn(clips.xyz.shape)), natural)
    0.0
    """
    return float(natural.holds(clips).double().mean())


def learn_natural_motion(
    clips: Clips, *, false_alarms: float = FALSE_ALARMS, share: float = 1e-3, margin: float = 0.1
) -> NaturalMotion:
    """Return what recorded clips keep to.

    Thresholds are ranks: each figure may be as large as in all but so many of the clips, the same number for each
    figure, and that number is the largest with which at most ``false_alarms (n + 1)`` of the n clips have any figure
    above its threshold. Whether angles are beyond limits, and how unlike a body is to recorded ones, is seen in clips
    that these were not learned from: those of some subjects at a time, where there are subjects.

    A handful of people do not span humanity, and what is said of a body is said of all its clips, so no threshold of
    asymmetry and proportions is below 2, twice as far from recorded people as is usual among them. Nor is one below a
    thousandth for bones that change.

    Parameters
    ----------
    clips : Clips
        Training clips, never those that are tested.
    false_alarms : float
        Largest share of clips like these that shall be flagged. People who were not recorded may move otherwise:
        measure it on theirs.
    share, margin : float
        As for `funnybone.motion.limits.learn_limits`.

    Raises
    ------
    DataError
        For fewer than two clips, clips in two dimensions, or a share that is none.
    """
    if clips.xyz.shape[-1] != 3:
        raise DataError(f"{clips.name}: joints have two coordinates", hint="natural motion is learned in three")
    if len(clips) < 2:
        raise DataError(f"{clips.name}: {len(clips)} clip", hint="natural motion is learned from several")
    if not 0 <= false_alarms < 1:
        raise DataError(f"false alarms are {false_alarms}", hint="give a share below 1")
    clips = clips[:: -(-len(clips) // MOST)]
    rest = rest_pose(clips.xyz, clips.valid, clips.skeleton)
    motion = to_angles(clips.xyz, clips.valid, clips.skeleton, rest)
    lengths = median_lengths(clips)
    figures = clips.xyz.new_zeros(len(clips), len(FIGURES))
    for fold in _folds(clips):
        others = limits_of(motion, clips.valid & ~fold[:, None, None], share, margin)
        bodies = proportions_of(lengths[~fold], clips.skeleton)
        figures = torch.where(fold[:, None], _figures(clips, others, motion, bodies, lengths), figures)
    ranked = figures.sort(0).values
    # How many clips have a figure at least as large, of the figure in which a clip stands out most.
    worst = (len(clips) - torch.searchsorted(ranked.mT.contiguous(), figures.mT.contiguous()).mT).amin(1)
    flagged = int(false_alarms * (len(clips) + 1))
    beside = int(worst.sort().values[flagged]) if flagged < len(clips) else len(clips)
    thresholds = ranked[len(clips) - beside]
    for name, least in LEAST.items():
        thresholds[FIGURES.index(name)].clamp_(min=least)
    return NaturalMotion(
        limits=limits_of(motion, clips.valid, share, margin),
        proportions=proportions_of(lengths, clips.skeleton),
        thresholds=thresholds,
        false_alarms=false_alarms,
        clips=len(clips),
        flagged=int((figures > thresholds).any(1).sum()),
        frames=clips.xyz.shape[2],
        name=clips.name,
    )


def load_natural_motion(path: str | Path) -> NaturalMotion:
    """Read what `NaturalMotion.save` wrote.

    Raises
    ------
    DataError
        When the file is missing, cut or not of this kind.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="write one with 'funnybone data natural'")
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
            record = json.loads((file.metadata() or {})["natural_motion"])
        return _from_parts(tensors, record)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path}: not a file of natural motion ({error})", hint="write one with 'funnybone data natural'"
        ) from None


def _from_parts(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> NaturalMotion:
    if record["format"] != FORMAT or tuple(record["figures"]) != FIGURES:
        raise DataError(
            f"another version wrote it, in format {record['format']}; this one reads {FORMAT}",
            hint="write it anew with 'funnybone data natural'",
        )
    if tuple(tensors["thresholds"].shape) != (len(FIGURES),):
        raise DataError(f"it has {tuple(tensors['thresholds'].shape)} thresholds for {len(FIGURES)} figures")
    if not all(part.is_floating_point() for part in tensors.values()):
        raise DataError("a number in it is none of floating point", hint="learn it anew")
    if bool(tensors["thresholds"].isnan().any()) or not 0 <= float(record["false_alarms"]) < 1:
        raise DataError("a threshold or the share of false alarms is no number that it can be", hint="learn it anew")
    skeleton = record["skeleton"]
    if not all(isinstance(joint, str) for joint in skeleton["joints"]):
        raise DataError("a joint has no name", hint="learn it anew")
    skeleton = Skeleton(
        skeleton["name"],
        tuple(skeleton["joints"]),
        tuple(skeleton["parents"]),
        skeleton["centre"],
        tuple((left, right) for left, right in skeleton["pairs"]),
    )
    limits = JointLimits(tensors["lower"].float(), tensors["upper"].float(), tensors["rest"].float(), skeleton)
    return NaturalMotion(
        limits=limits,
        proportions=Proportions(**{key: tensors[key].float() for key in BODY}, skeleton=skeleton),
        thresholds=tensors["thresholds"].float(),
        false_alarms=float(record["false_alarms"]),
        clips=int(record["clips"]),
        flagged=int(record["flagged"]),
        frames=int(record["frames"]),
        name=str(record["name"]),
    )


def _figures(
    clips: Clips,
    limits: JointLimits,
    motion: AngleMotion,
    proportions: Proportions,
    lengths: Float[Tensor, "N M B"],
) -> Float[Tensor, "N K"]:
    """The figures of clips with such median lengths of bones; those that a clip has too few frames for are zero."""
    speed, acceleration, jerk = (
        (torch.linalg.vector_norm(derivative(clips.xyz, clips.fps, order), dim=-1), stencil(clips.valid, order))
        for order in (1, 2, 3)
    )
    means = [masked_mean(size, there[..., None]) for size, there in (speed, acceleration, jerk)]
    # A frame of zeros beside them: clips may have too few frames for any.
    largest = [
        pad(torch.where(there[..., None], size, 0), (0, 0, 0, 1)).amax((1, 2, 3))
        for size, there in (speed, acceleration, jerk)
    ]
    found = {
        "bone_change": _bone_change(clips, lengths),
        "speed": largest[0],
        "mean_acceleration": means[1],
        "largest_acceleration": largest[1],
        "mean_jerk": means[2],
        "largest_jerk": largest[2],
        "trembling": means[2] / means[0].clamp(min=STILL),
        "beyond_limits": _beyond(clips, limits, motion),
        "asymmetry": proportions.asymmetry(lengths),
        "proportions": proportions.strangeness(lengths),
    }
    return torch.stack([found[name] for name in FIGURES], 1).nan_to_num(0)


def _bone_change(clips: Clips, median: Float[Tensor, "N M B"]) -> Float[Tensor, " N"]:
    lengths = torch.where(clips.valid[..., None], clips.skeleton.bone_lengths(clips.xyz), torch.nan)
    change = ((lengths - median[:, :, None]) / median[:, :, None].clamp(min=SHORT)).square().nanmean(2).sqrt()
    return change.nan_to_num(0).amax((1, 2))


def _beyond(clips: Clips, limits: JointLimits, motion: AngleMotion) -> Tensor:
    worst = limits.excess(motion).amax((-1, -2))
    bent = (bends_of(clips.xyz, clips.skeleton) - FARTHEST).clamp(min=0)
    worst = torch.cat([worst[..., None], bent], -1).amax(-1)  # bends of the bones that were recorded, not of rigid ones
    return masked_mean(worst, motion.valid)


def _folds(clips: Clips) -> list[Bool[Tensor, " N"]]:
    """The clips in up to five parts, no subject in two of them where there are several."""
    subjects = clips.groups.get("subject", ())
    names = sorted(set(subjects))
    members = [names.index(name) for name in subjects] if len(names) > 1 else list(range(len(clips)))
    part = torch.tensor(members, device=clips.xyz.device) % FOLDS
    return [part == fold for fold in part.unique()]
