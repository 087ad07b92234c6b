"""A temporal low-pass filter in front of a victim."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models.layers import present_of
from funnybone.settings import build
from funnybone.victims.base import Victim
from funnybone.victims.hardened import Hardened, register_form


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a temporal low-pass filter lets through.

    Both kinds are linear in the positions, so gradients pass them exactly. Each person is filtered alone, over the
    frames in which that person is there; a victim does not see frame rates, so frequencies are relative to them.

    Parameters
    ----------
    mode : {"dct", "gaussian"}
        ``"dct"``: the discrete cosine transform of each coordinate over the person's frames, as if gaps between
        them were not there, cut off behind the lowest coefficients. ``"gaussian"``: a weighted mean over neighbouring
        frames, of those in which the person is there.
    keep : float
        For ``"dct"``: the share of the coefficients that is kept, rounded to a number of them, at least one. It is also
        the cut-off frequency as a share of half the frame rate: 0.25 of clips at 30 Hz is 3.75 Hz.
    sigma : float
        For ``"gaussian"``: standard deviation in frames.
    taps : int
        For ``"gaussian"``: how many frames the mean is of; odd. A tap's weight is the Gaussian's mass over its frame.
    """

    mode: Literal["dct", "gaussian"] = "dct"
    keep: float = 1 / 3
    sigma: float = 1.0
    taps: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise DataError(f"lowpass: keep is {self.keep}", hint="give a share above 0, up to 1")
        if not 0 < self.sigma < float("inf"):
            raise DataError(f"lowpass: sigma is {self.sigma}", hint="give frames above 0")
        if self.taps < 1 or self.taps % 2 == 0:
            raise DataError(f"lowpass: taps is {self.taps}", hint="give an odd number of frames")

    def __call__(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        """Return filtered clips; frames in which a person is absent stay as they are.

        Examples
        --------
        >>> still = torch.rand(1, 1, 1, 17, 3).expand(1, 1, 20, 17, 3)
        >>> torch.allclose(Filter(keep=0.1)(still), still, atol=1e-6)
        True
        """
        present = present_of(xyz)
        with torch.autocast(xyz.device.type, enabled=False):  # positions keep their digits whatever the victim does
            if self.mode == "dct":
                basis = cosines(present, self.keep, xyz.dtype)
                smooth = (basis.mT @ (basis @ xyz.flatten(3))).view_as(xyz)
            else:
                weights = gaussian_weights(present, self.sigma, self.taps, xyz.dtype)
                smooth = (weights @ xyz.flatten(3)).view_as(xyz)
        return torch.where(present[..., None, None], smooth, xyz)


def cosines(present: Bool[Tensor, "N M T"], keep: float, dtype: torch.dtype) -> Float[Tensor, "N M K T"]:
    """Return the first vectors of the orthonormal cosine basis (DCT-II) over the present frames of each person.

    Zero in other frames; where a person has fewer vectors than another, the rest are zero.

    Examples
    --------
    >>> basis = cosines(torch.tensor([[[True, True, False, True]]]), 1.0, torch.float32)[0, 0]
    >>> torch.allclose(basis[:3] @ basis[:3].T, torch.eye(3), atol=1e-6), basis[:, 2].abs().max()
    (True, tensor(0.))
    """
    frames = present.sum(-1)[..., None, None]
    kept: Int[Tensor, "N M 1 1"] = (keep * frames).round().long().clamp(min=1)
    order = torch.arange(int(kept.max()) if kept.numel() else 0, device=present.device)[:, None]
    place = (present.cumsum(-1) - 0.5)[:, :, None]
    count = frames.clamp(min=1).double()  # where nobody is, no frame is either
    wave = torch.cos(torch.pi * order * place / count) * torch.where(order == 0, 1 / count, 2 / count).sqrt()
    return torch.where((order < kept) & present[:, :, None], wave, 0).to(dtype)


def gaussian_weights(
    present: Bool[Tensor, "N M T"], sigma: float, taps: int, dtype: torch.dtype
) -> Float[Tensor, "N M T T"]:
    """Return for each frame of each person the weights of all in its mean; they sum to 1 where the person is there.

    The filter that Zheng et al. ("Towards Understanding the Adversarial Vulnerability of Skeleton-based Action
    Recognition", 2020) put in front of a smoothed classifier has sigma 1 and five or seven taps; theirs pads the clip
    with copies of its ends (and delays it by a frame with five taps), this one takes the mean of the frames there are.

    Examples
    --------
    >>> gaussian_weights(torch.ones(1, 1, 9, dtype=torch.bool), 1.0, 5, torch.float32)[0, 0, 4, 2:7]
    tensor([0.0614, 0.2448, 0.3877, 0.2448, 0.0614])
    """
    frame = torch.arange(present.shape[-1], device=present.device, dtype=torch.float64)
    apart = (frame[:, None] - frame).abs()
    scale = sigma * 2**0.5
    mass = torch.where(apart <= taps // 2, torch.erf((apart + 0.5) / scale) - torch.erf((apart - 0.5) / scale), 0)
    weights = torch.where(present[:, :, None, :], mass, 0)
    return (weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)).to(dtype)


@register_form
class Filtered(Hardened):
    """A victim that sees clips through a temporal low-pass filter.

    Its gradients are exact, through the filter: an attack on it is an attack on both. What the filter takes away an
    attacker cannot use; all that it lets through, it can.

    Parameters
    ----------
    base : Victim
        Who answers; of any access.
    filter : Filter
        What it is shown.
    defense, name
        As in `Hardened`.

    Examples
    --------
    >>> import funnybone as fb
    >>> clips = fb.load_data("synthetic", split="test")[:2]
    >>> base = fb.create_victim("stgcn", data="synthetic")
    >>> bool((Filtered(base, Filter(), defense="lowpass").logits(clips.xyz) == base.logits(Filter()(clips.xyz))).all())
    True
    """

    form = "filtered"

    def __init__(self, base: Victim, filter: Filter, *, defense: str, name: str | None = None) -> None:
        super().__init__(base, defense=defense, name=name)
        self.filter = filter

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.filter)

    @classmethod
    def restore(
        cls, base: Victim, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], *, defense: str, name: str | None
    ) -> "Filtered":
        return cls(base, build("form", cls.form, Filter, dict(settings)), defense=defense, name=name)

    def logits(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N K"]:
        return self.base.logits(self.filter(xyz))

    def labels(self, xyz: Float[Tensor, "N M T V C"]) -> Int[Tensor, " N"]:
        return self.base.labels(self.filter(xyz))
