"""What a victim does to positions before its network sees them, as one differentiable function."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.errors import DataError
from funnybone.skeletons import Skeleton

_AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class Preprocess:
    """Move and turn each clip to a standard place, keeping absent persons and padding frames at zero.

    Both are rigid motions of the whole clip, so bone lengths, velocities and the distance between two persons stay what
    they were.

    Parameters
    ----------
    centre : {"none", "clip", "first_frame"}
        ``"clip"``: the clip is moved so that the mean of all joints of all present persons and frames lies at the
        origin. ``"first_frame"``: so that ``joint`` does in the first present frame (of the first person who is ever
        present), as published recipes do. That gives an attacker a lever: one joint moved in one frame carries the
        whole clip along, and attacks find it at once. The mean has no such point.
    align : {"none", "hips"}
        ``"hips"``: the clip is then turned about the vertical so that the line from the right to the left hip points
        along the first horizontal axis in that frame. Three coordinates only.
    joint : int
        The joint that is moved to the origin.
    hips : (int, int) or None
        Left and right hip joints, for ``align``.
    up : {"x", "y", "z"}
        The vertical axis.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> xyz = torch.randn(2, 1, 8, 25, 3) + 5
    >>> centred = Preprocess.of(NTU25)(xyz)
    >>> bool(centred.mean((1, 2, 3)).abs().max() < 1e-5)
    True
    """

    centre: Literal["none", "clip", "first_frame"] = "clip"
    align: Literal["none", "hips"] = "none"
    joint: int = 0
    hips: tuple[int, int] | None = None
    up: Literal["x", "y", "z"] = "y"

    def __post_init__(self) -> None:
        if self.centre not in ("none", "clip", "first_frame"):
            raise DataError(f"preprocess: centre is {self.centre!r}", hint="it is 'none', 'clip' or 'first_frame'")
        if self.align not in ("none", "hips"):
            raise DataError(f"preprocess: align is {self.align!r}", hint="it is 'none' or 'hips'")
        if self.up not in _AXES:
            raise DataError(f"preprocess: up is {self.up!r}", hint="it is 'x', 'y' or 'z'")
        if self.align == "hips" and self.hips is None:
            raise DataError("preprocess: align='hips' needs the two hip joints", hint="give hips=(left, right)")

    @classmethod
    def of(
        cls,
        skeleton: Skeleton,
        *,
        centre: Literal["none", "clip", "first_frame"] = "clip",
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
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocess":
        """Return the preprocessing that `to_dict` described.

        Examples
        --------
        >>> Preprocess.from_dict(Preprocess(joint=3).to_dict()) == Preprocess(joint=3)
        True
        """
        joint, hips = fields.get("joint", 0), fields.get("hips")
        if not _is_index(joint):
            raise DataError(f"preprocess: joint is {joint!r}", hint="it is the index of a joint")
        if hips is not None and not (isinstance(hips, list | tuple) and len(hips) == 2 and all(map(_is_index, hips))):
            raise DataError(f"preprocess: hips are {hips!r}", hint="they are the indices of two joints")
        try:
            return cls(**{**fields, "hips": None if hips is None else tuple(hips)})
        except TypeError:
            known = ", ".join(asdict(cls()))
            raise DataError(f"preprocess: cannot read {fields}", hint=f"its fields are {known}") from None

    def check(self, skeleton: Skeleton) -> None:
        """Raise `DataError` when a joint that is named is not one of the skeleton's."""
        for field, joints in (("joint", (self.joint,)), ("hips", self.hips or ())):
            for joint in joints:
                if not 0 <= joint < len(skeleton.joints):
                    raise DataError(
                        f"preprocess: {field} names joint {joint}, "
                        f"skeleton {skeleton.name} has 0 to {len(skeleton.joints) - 1}"
                    )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {**asdict(self), "hips": None if self.hips is None else list(self.hips)}

    def __call__(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        """Move and turn clips; differentiable, also through the frame that everything is measured from."""
        if self.centre == "none" and self.align == "none":
            return xyz
        present = (xyz != 0).flatten(3).any(3)
        if self.centre != "none":
            origin = _mean(xyz, present) if self.centre == "clip" else _first_present(xyz, present)[:, self.joint]
            xyz = torch.where(present[..., None, None], xyz - origin[:, None, None, None], 0)
        if self.align == "hips":
            xyz = self._turned(xyz, _first_present(xyz, present))
        return xyz

    def _turned(self, xyz: Float[Tensor, "N M T V C"], first: Float[Tensor, "N V C"]) -> Float[Tensor, "N M T V C"]:
        if xyz.shape[-1] != 3 or self.hips is None:
            raise DataError(
                f"preprocess: align turns three coordinates, the clips have {xyz.shape[-1]}", hint="use 'none'"
            )
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
