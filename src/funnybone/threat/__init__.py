"""Threat models: where an adversarial clip must stay. Compose them with ``&``.

>>> import torch
>>> import funnybone as fb
>>> threat = fb.threat.Linf(0.02) & fb.threat.BoneLength(0.01, skeleton=fb.skeletons.COCO17)
>>> clean = torch.rand(1, 1, 4, 17, 3)
>>> moved = threat.project(clean, clean + torch.randn(clean.shape))
>>> threat.violation(clean, moved)
tensor([0.])
"""

from funnybone.errors import DataError
from funnybone.threat.ball import L2, Ball, Linf
from funnybone.threat.base import All, Threat, Unbounded, threats
from funnybone.threat.bones import BoneLength
from funnybone.threat.mask import Mask

__all__ = ["L2", "All", "Ball", "BoneLength", "Linf", "Mask", "Threat", "Unbounded", "parse", "threats"]


def parse(text: str) -> Threat:
    """Return the threat model that the command line writes, parts joined with ``&``.

    Examples
    --------
    >>> parse("linf:0.02 & bones:0.01")
    Linf(radius=0.02) & BoneLength(tolerance=0.01)
    """
    parts: list[Threat] = []
    for part in text.split("&"):
        name, _, value = part.strip().partition(":")
        try:
            parts.append(threats[name].from_text(value.strip()))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"threat model {part.strip()!r}: {error}", hint="write for example linf:0.02") from None
    return parts[0] if len(parts) == 1 else All(tuple(parts))
