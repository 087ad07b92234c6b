"""What the 3-D player is given: each example's motion as small integers, and where to look from.

Positions are int16 steps of 0.1 mm from the middle of the clip (coarser only where a clip spans more than 6.5 m). The
displacement of the adversary is kept apart, in int16 steps fitted to its own largest value: an attack of half a
millimetre would drown in the rounding of the positions otherwise.
"""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from funnybone.errors import DataError
from funnybone.report.examples import Example
from funnybone.units import UNITS

_MISSING = -32768  # a joint that was not seen: drawn by nobody
_LIMIT = 32767
_STEP = 1e-4
# Axes turned in a circle, so that the vertical one comes second and left stays left.
_UPRIGHT = {"x": (2, 0, 1), "y": (0, 1, 2), "z": (1, 2, 0)}


def encode(example: Example) -> dict[str, Any]:
    """Return one example as plain values for JSON, y up, without the padding at both ends.

    Parameters
    ----------
    example : Example
        Clean and adversarial motion of 2 or 3 dimensions.

    Raises
    ------
    DataError
        When the shapes disagree, the vertical axis is unknown or no frame is valid.
    """
    _, frames, _, dimensions = example.clean.shape
    _check(example)
    valid = example.valid.detach().cpu().numpy()
    seen = np.flatnonzero(valid.any(0))
    first, last = int(seen[0]), int(seen[-1]) + 1
    valid = valid[:, first:last]
    clean, adversarial = (
        motion.detach().cpu().to(torch.float64).numpy()[:, first:last]
        for motion in (example.clean, example.adversarial)
    )
    # Pose estimators write the joint that they did not find as the origin.
    found = np.isfinite(clean).all(-1) & valid[..., None]
    if dimensions == 2:
        found &= (clean != 0).any(-1)
    if not found.any():
        raise DataError(f"example {example.clip}: no joint was seen in any valid frame", hint="choose another clip")
    clean, displacement = _upright(example, clean, adversarial - clean, found)
    moved = found & np.isfinite(displacement).all(-1)
    low, high = clean[found].min(0), clean[found].max(0)
    offset = (low + high) / 2
    unit = UNITS[example.unit]
    return {
        "clip": example.clip,
        "victim": example.victim,
        "attack": example.attack,
        "truth": example.truth,
        "cleanPrediction": example.clean_prediction,
        "adversarialPrediction": example.adversarial_prediction,
        "success": example.success,
        "displacement": example.displacement if math.isfinite(example.displacement) else None,
        "unit": unit.distance,
        "unitScale": float(unit.scale),
        "fps": example.fps,
        "firstFrame": first,
        "persons": len(valid),
        "frames": last - first,
        "totalFrames": frames,
        "joints": list(example.skeleton.joints),
        "parents": list(example.skeleton.parents),
        "dimensions": dimensions,
        "facing": _facing(example, clean, found),
        "valid": _base64(valid.astype(np.uint8)),
        "offset": offset.tolist(),
        "positions": _quantise(clean - offset, found, finest=_STEP if example.unit == "metre" else 0.0),
        "displacements": _quantise(displacement, moved, finest=0.0),
    }


def to_script(examples: Sequence[Example]) -> str:
    """Return JSON that may stand between script tags, whatever names the clips and classes carry.

    Examples
    --------
    >>> to_script([])
    '[]'
    """
    text = json.dumps([encode(example) for example in examples], ensure_ascii=True, allow_nan=False)
    # ASCII leaves three characters by which text could leave a script element or an HTML comment.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _check(example: Example) -> None:
    shape = tuple(example.clean.shape)
    where = f"example {example.clip}"
    if tuple(example.adversarial.shape) != shape or tuple(example.valid.shape) != shape[:2]:
        raise DataError(
            f"{where}: clean is {shape}, adversarial {tuple(example.adversarial.shape)}, valid "
            f"{tuple(example.valid.shape)}",
            hint="give (M, T, V, C), (M, T, V, C) and (M, T)",
        )
    if shape[2] != len(example.skeleton.joints) or shape[3] not in (2, 3):
        raise DataError(f"{where}: {shape[2]} joints of {shape[3]} dimensions on {example.skeleton.name}")
    if example.up not in _UPRIGHT or example.unit not in UNITS:
        raise DataError(
            f"{where}: up is {example.up!r}, unit {example.unit!r}",
            hint=f"up is one of {', '.join(_UPRIGHT)}, unit one of {', '.join(UNITS)}",
        )
    if not example.fps > 0 or not math.isfinite(example.fps):
        raise DataError(f"{where}: fps is {example.fps}", hint="give frames per second")
    if not bool(example.valid.any()):
        raise DataError(f"{where}: no valid frame", hint="choose another clip")


def _upright(
    example: Example, clean: np.ndarray, displacement: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn both so that the second axis points up."""
    if clean.shape[-1] == 3:
        order = list(_UPRIGHT[example.up])
        return clean[..., order], displacement[..., order]
    # Images count rows downwards, some pose files do not: whoever stands on his head is turned over.
    turn = np.array([1.0, _picture_sign(example, clean, found)])
    return clean * turn, displacement * turn


def _picture_sign(example: Example, clean: np.ndarray, found: np.ndarray) -> float:
    names = [joint.lower() for joint in example.skeleton.joints]
    heights = []
    for words in (("head", "nose", "neck"), ("ankle", "foot", "toe", "knee")):
        chosen = np.array([any(word in name for word in words) for name in names])
        heights.append(clean[..., 1][found & chosen])
    if not all(len(height) for height in heights):
        return 1.0 if example.unit == "metre" else -1.0
    return 1.0 if np.median(heights[0]) >= np.median(heights[1]) else -1.0


def _facing(example: Example, clean: np.ndarray, found: np.ndarray) -> float | None:
    """Angle about the vertical that the first person faces at the start, in radians from +z to +x; None if unknown."""
    pairs = example.skeleton.pairs
    if clean.shape[-1] != 3 or not pairs:
        return None
    left, right = (list(side) for side in zip(*pairs, strict=True))
    both = found[0][:, left] & found[0][:, right]
    rows = np.flatnonzero(both.any(1))[: max(1, len(both) // 4)]
    across = (clean[0][:, left] - clean[0][:, right])[rows][both[rows]]
    x, _, z = across.sum(0) if len(across) else (0.0, 0.0, 0.0)
    # Left crossed with up is forward: (x, z) becomes (-z, x).
    return math.atan2(-z, x) if math.hypot(x, z) > 1e-9 else None


def _quantise(values: np.ndarray, present: np.ndarray, finest: float) -> dict[str, Any]:
    """Integer steps, the step being no finer than asked for and no coarser than the largest value needs."""
    largest = float(np.abs(values[present]).max()) if present.any() else 0.0
    step = max(finest, largest / _LIMIT) or 1.0
    steps = np.where(present[..., None], np.rint(np.where(present[..., None], values, 0) / step), _MISSING)
    return {"step": step, "data": _base64(steps.astype("<i2"))}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
