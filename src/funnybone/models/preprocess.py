"""What a victim does to positions before its network sees them, as one differentiable function."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models.layers import present_of
from funnybone.models.steps import in_order, padded, sampled, to_the_front, turn_onto
from funnybone.skeletons import Skeleton

_AXES = {"x": 0, "y": 1, "z": 2}
_CHOICES = {
    "centre": ("none", "clip", "first_frame", "frame"),
    "align": ("none", "hips", "spine"),
    "up": tuple(_AXES),
    "order": ("given", "deviation", "variance", "frames"),
    "trim": ("none", "each", "anyone", "first"),
    "pad": ("none", "zero", "replay"),
    "sample": ("none", "first", "resize", "segments"),
}
# What published recipes for whole clips need; of the other fields every file tells, of these where they are used.
_PUBLISHED_ONLY = ("order", "trim", "pad", "pad_to", "spine", "shoulders", "sample", "sample_to", "mean", "std")
_PAIRS = ("hips", "spine", "shoulders")
MOST_FRAMES = 10_000  # that a file may ask for; each takes memory


@dataclass(frozen=True)
class Preprocess:
    """Bring each clip to a standard place, and where a network wants it to a standard length; absent persons stay zero.

    What it is by itself are rigid motions of the whole clip, so bone lengths, velocities and the distance between two
    persons stay what they were. `named` gives the recipes that published networks were trained with, which do more. The
    steps run in the order of the list: ``order``, ``trim``, ``pad``, ``centre``, ``align``, ``sample``, ``mean`` and
    ``std``. Where a recipe says "the first person" it is the first after ``order``.

    Parameters
    ----------
    centre : {"none", "clip", "first_frame", "frame"}
        ``"clip"``: the clip is moved so that the mean of all joints of all present persons and frames lies at the
        origin. ``"first_frame"``: so that ``joint`` does in the first present frame (of the first person who is ever
        present), as published recipes do. That gives an attacker a lever: one joint moved in one frame carries the
        whole clip along, and attacks find it at once. The mean has no such point. ``"frame"``: each frame is moved so
        that ``joint`` of the first person lies at the origin; velocities are then relative to it.
    align : {"none", "hips", "spine"}
        ``"hips"``: the clip is then turned about the vertical so that the line from the right to the left hip points
        along the first horizontal axis in that frame. ``"spine"``: by the smallest turn that makes the line of the
        joints ``spine`` point along z, and then the smallest that makes the line of ``shoulders`` point along x. Three
        coordinates only.
    joint : int
        The joint that is moved to the origin.
    hips : (int, int) or None
        Left and right hip joints, for ``align``.
    up : {"x", "y", "z"}
        The vertical axis.
    order : {"given", "deviation", "variance", "frames"}
        Which person comes first: see `steps.in_order`.
    trim : {"none", "each", "anyone", "first"}
        Which frames are moved to the beginning of the clip: see `steps.to_the_front`.
    pad, pad_to : {"none", "zero", "replay"}, int
        How shorter clips become this many frames long; longer ones are cut. See `steps.padded`.
    spine, shoulders : (int, int) or None
        For ``align``: lines from the first of the two joints to the second.
    sample, sample_to : {"none", "first", "resize", "segments"}, int
        How that many frames are made of the clip: see `steps.sampled`.
    mean : tuple of tuples of float, or None
        What is subtracted from each coordinate of each joint, in the clips' unit.
    std : float
        What all coordinates are divided by after that.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> xyz = torch.randn(2, 1, 8, 25, 3) + 5
    >>> centred = Preprocess.of(NTU25)(xyz)
    >>> bool(centred.mean((1, 2, 3)).abs().max() < 1e-5)
    True
    >>> Preprocess.named("ctr-gcn", NTU25)(xyz).shape
    torch.Size([2, 1, 64, 25, 3])
    """

    centre: Literal["none", "clip", "first_frame", "frame"] = "clip"
    align: Literal["none", "hips", "spine"] = "none"
    joint: int = 0
    hips: tuple[int, int] | None = None
    up: Literal["x", "y", "z"] = "y"
    order: Literal["given", "deviation", "variance", "frames"] = "given"
    trim: Literal["none", "each", "anyone", "first"] = "none"
    pad: Literal["none", "zero", "replay"] = "none"
    pad_to: int = 300
    spine: tuple[int, int] | None = None
    shoulders: tuple[int, int] | None = None
    sample: Literal["none", "first", "resize", "segments"] = "none"
    sample_to: int = 64
    mean: tuple[tuple[float, ...], ...] | None = None
    std: float = 1.0

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                listed = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
                raise DataError(f"preprocess: {name} is {getattr(self, name)!r}", hint=f"it is {listed}")
        if self.align == "hips" and self.hips is None:
            raise DataError("preprocess: align='hips' needs the two hip joints", hint="give hips=(left, right)")
        if self.align == "spine" and (self.spine is None or self.shoulders is None):
            raise DataError(
                "preprocess: align='spine' needs two lines", hint="give spine=(below, above), shoulders=(left, right)"
            )
        for name in ("pad_to", "sample_to"):
            frames = getattr(self, name)
            if not _is_index(frames) or not 1 <= frames <= MOST_FRAMES:
                raise DataError(f"preprocess: {name} is {frames!r}", hint=f"give 1 to {MOST_FRAMES} frames")
        if not _is_number(self.std) or self.std <= 0:
            raise DataError(f"preprocess: std is {self.std!r}", hint="give a number above 0")

    @classmethod
    def of(
        cls,
        skeleton: Skeleton,
        *,
        centre: Literal["none", "clip", "first_frame", "frame"] = "clip",
        align: Literal["none", "hips"] = "none",
        up: Literal["x", "y", "z"] = "y",
    ) -> "Preprocess":
        """Return the preprocessing with this skeleton's root and hips.

        Examples
        --------
        >>> from funnybone.skeletons import NTU25
        >>> Preprocess.of(NTU25, align="hips").hips
        (12, 16)
        """
        return cls(centre, align, skeleton.root, _hips(skeleton) if align == "hips" else None, up)

    @classmethod
    def named(cls, name: str, skeleton: Skeleton) -> "Preprocess":
        """Return the preprocessing that is known by a name: see `published`.

        Examples
        --------
        >>> from funnybone.skeletons import NTU25
        >>> Preprocess.named("2s-agcn", NTU25).pad
        'replay'
        """
        from funnybone.models.published import published  # which describes the names with this class

        return published(name, skeleton)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """Return the preprocessing that `to_dict` described.

        Examples
        --------
        >>> Preprocess.from_dict(Preprocess(joint=3).to_dict()) == Preprocess(joint=3)
        True
        """
        joint, mean = values.get("joint", 0), values.get("mean")
        if not _is_index(joint):
            raise DataError(f"preprocess: joint is {joint!r}", hint="it is the index of a joint")
        for name in _PAIRS:
            pair = values.get(name)
            if pair is not None and not (_is_list(pair) and len(pair) == 2 and all(map(_is_index, pair))):
                raise DataError(f"preprocess: {name} are {pair!r}", hint="they are the indices of two joints")
        if mean is not None and not (
            _is_list(mean) and all(_is_list(row) and all(map(_is_number, row)) for row in mean)
        ):
            raise DataError(f"preprocess: mean is {str(mean)[:40]}", hint="it has the coordinates of each joint")
        tuples: dict[str, Any] = {name: tuple(values[name]) for name in _PAIRS if values.get(name) is not None}
        if mean is not None:
            tuples["mean"] = tuple(map(tuple, mean))
        try:
            return cls(**{**values, **tuples})
        except TypeError:
            known = ", ".join(field.name for field in fields(cls))
            raise DataError(f"preprocess: cannot read {str(values)[:200]}", hint=f"its fields are {known}") from None

    @property
    def sets_length(self) -> bool:
        """Whether the network is shown as many frames as it says, whatever a clip has."""
        return self.pad != "none" or self.sample != "none"

    def check(self, skeleton: Skeleton) -> None:
        """Raise `DataError` when a joint that is named is not one of the skeleton's, or means are not of its joints."""
        named = {"joint": (self.joint,), **{name: getattr(self, name) or () for name in _PAIRS}}
        for field, joints in named.items():
            for joint in joints:
                if not 0 <= joint < len(skeleton.joints):
                    raise DataError(
                        f"preprocess: {field} names joint {joint}, "
                        f"skeleton {skeleton.name} has 0 to {len(skeleton.joints) - 1}"
                    )
        if self.mean is not None and len(self.mean) != len(skeleton.joints):
            raise DataError(
                f"preprocess: mean has {len(self.mean)} joints, skeleton {skeleton.name} has {len(skeleton.joints)}"
            )
        if self.mean is not None and len(set(map(len, self.mean))) > 1:
            raise DataError("preprocess: mean has joints of different coordinates", hint="give each as many")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them; of those for published recipes, the ones that are used."""
        standard = asdict(type(self)())
        used = {"pad_to": self.pad != "none", "sample_to": self.sample != "none"}
        return {
            name: _listed(value)
            for name, value in asdict(self).items()
            if name not in _PUBLISHED_ONLY or used.get(name, value != standard[name])
        }

    def __call__(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M S V C"]:
        """Prepare clips; differentiable, also through the frames and joints that everything is measured from."""
        if self.order != "given":
            xyz = in_order(xyz, self.order)
        if self.trim != "none":
            xyz = to_the_front(xyz, self.trim)
        if self.pad != "none":
            xyz = padded(xyz, self.pad_to, self.pad)
        xyz = self._placed(xyz)
        if self.sample != "none":
            xyz = sampled(xyz, self.sample_to, self.sample)
        if self.mean is not None or self.std != 1:
            xyz = self._standardised(xyz)
        return xyz

    def _placed(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        if self.centre == "none" and self.align == "none":
            return xyz
        present = present_of(xyz)
        if self.centre == "frame":
            xyz = torch.where(present[..., None, None], xyz - xyz[:, :1, :, self.joint, None], 0)
        elif self.centre != "none":
            origin = _mean(xyz, present) if self.centre == "clip" else _first_present(xyz, present)[:, self.joint]
            xyz = torch.where(present[..., None, None], xyz - origin[:, None, None, None], 0)
        if self.align != "none":
            if xyz.shape[-1] != 3:
                raise DataError(
                    f"preprocess: align turns three coordinates, the clips have {xyz.shape[-1]}", hint="use 'none'"
                )
            first = _first_present(xyz, present)
            xyz = self._turned_by_hips(xyz, first) if self.align == "hips" else self._turned_by_spine(xyz, first)
        return xyz

    def _turned_by_hips(
        self, xyz: Float[Tensor, "N M T V C"], first: Float[Tensor, "N V C"]
    ) -> Float[Tensor, "N M T V C"]:
        assert self.hips is not None  # or it could not have been made
        left, right = self.hips
        a, b = (axis for axis in range(3) if axis != _AXES[self.up])
        line = first[:, left] - first[:, right]
        length = (line[:, a].square() + line[:, b].square()).detach() > 1e-12
        # A hip line that is vertical, or without length, has no direction: such a clip is not turned.
        cos, sin = torch.where(length, line[:, a], 1), torch.where(length, line[:, b], 0)
        norm = torch.sqrt(cos.square() + sin.square())
        cos, sin = ((part / norm)[:, None, None, None] for part in (cos, sin))
        axes = list(xyz.unbind(-1))
        axes[a], axes[b] = cos * axes[a] + sin * axes[b], cos * axes[b] - sin * axes[a]
        return torch.stack(axes, -1)

    def _turned_by_spine(
        self, xyz: Float[Tensor, "N M T V C"], first: Float[Tensor, "N V C"]
    ) -> Float[Tensor, "N M T V C"]:
        assert self.spine is not None  # or it could not have been made
        assert self.shoulders is not None
        upright, across = (first[:, end] - first[:, start] for start, end in (self.spine, self.shoulders))
        turn = turn_onto(upright, _AXES["z"])
        turn = turn_onto((turn @ across[..., None])[..., 0], _AXES["x"]) @ turn
        return xyz @ turn.transpose(1, 2)[:, None, None]

    def _standardised(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        mean = torch.zeros((), dtype=xyz.dtype, device=xyz.device)
        if self.mean is not None:
            mean = torch.tensor(self.mean, dtype=xyz.dtype, device=xyz.device)
            if mean.shape != xyz.shape[3:]:
                raise DataError(f"preprocess: mean is of {tuple(mean.shape)}, the clips of {tuple(xyz.shape[3:])}")
        return torch.where(present_of(xyz)[..., None, None], (xyz - mean) / self.std, 0)


def _listed(value: Any) -> Any:
    return [_listed(part) for part in value] if isinstance(value, tuple) else value


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _mean(xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"]) -> Float[Tensor, "N C"]:
    """The mean position of all joints of all present persons and frames; absent ones are zero and add nothing."""
    return xyz.mean(3).sum((1, 2)) / present.sum((1, 2)).clamp(min=1)[:, None]


def _first_present(xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"]) -> Float[Tensor, "N V C"]:
    """The pose of the first person who is present at all, in the first frame where he or she is."""
    index: Int[Tensor, " N"] = present.flatten(1).int().argmax(1)
    return xyz.flatten(1, 2)[torch.arange(len(xyz), device=xyz.device), index]


def _hips(skeleton: Skeleton) -> tuple[int, int]:
    """Left and right hip by name; where a set calls the pelvis' own corners hips, the thighs' upper ends are taken."""
    for word in ("upleg", "hip"):
        for pair in skeleton.pairs:
            left = skeleton.joints[pair[0]]
            if word in left.lower():
                return pair
    raise DataError(f"skeleton {skeleton.name!r} has no pair of hips", hint="use align='none'")
