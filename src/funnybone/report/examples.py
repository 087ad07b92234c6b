"""The clips that a report shows moving: clean and adversarial side by side."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.skeletons import Skeleton


@dataclass(frozen=True, eq=False)
class Example:
    """One clean clip, its adversary, and what the victim said of both.

    ``clean`` and ``adversarial`` are (M, T, V, C) in ``unit``, ``valid`` is (M, T), ``fps`` in Hz;
    ``displacement`` is the mean joint displacement in ``unit`` ("metre", "pixel" or "normalised", as in `Clips`).
    """

    clip: str
    victim: str
    attack: str
    skeleton: Skeleton
    up: str
    fps: float
    clean: Float[Tensor, "M T V C"]
    adversarial: Float[Tensor, "M T V C"]
    valid: Bool[Tensor, "M T"]
    truth: str
    clean_prediction: str
    adversarial_prediction: str
    success: bool
    displacement: float
    unit: str = "metre"
