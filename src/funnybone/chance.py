"""Random numbers that belong to a clip: the same whatever batch the clip is in."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.clips import Clips

# Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014: the finaliser of SplitMix64.
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Chance:
    """A source of random numbers for each of N clips.

    What a clip is given follows from the seed, from the clip, and from how often something was drawn; not from the
    clips beside it. So a result does not change when a clip is added to a batch, leaves it, or is attacked alone.

    Parameters
    ----------
    keys : Int[Tensor, "N"]
        One for each clip; clips with one key are given the same numbers.
    drawn : int
        How often something was drawn.

    Examples
    --------
    >>> both, alone = Chance(torch.tensor([5, 7])), Chance(torch.tensor([7]))
    >>> bool((both.uniform(3)[1] == alone.uniform(3)[0]).all())
    True
    """

    def __init__(self, keys: Int[Tensor, " N"], drawn: int = 0) -> None:
        self.keys, self.drawn = keys, drawn

    @classmethod
    def of(cls, clips: Clips, generator: torch.Generator) -> "Chance":
        """Return the source for these clips, by their content; the generator gives the seed."""
        seed = torch.randint(2**62, (1,), generator=generator)
        keys = torch.tensor([int(fingerprint[:15], 16) for fingerprint in clips.fingerprints()])
        return cls(_mixed(_mixed(keys) + seed).to(clips.xyz.device))

    def __getitem__(self, kept: Int[Tensor, " K"] | Bool[Tensor, " N"]) -> "Chance":
        """The source for some of the clips, which goes on where this one is."""
        return Chance(self.keys[kept.to(self.keys.device)], self.drawn)

    def to(self, device: torch.device | str) -> "Chance":
        """The same source, giving numbers on a device."""
        return Chance(self.keys.to(device), self.drawn)

    def uniform(self, *shape: int) -> Float[Tensor, "N ..."]:
        """Return float32 numbers in [0, 1), ``shape`` of them for each clip."""
        place = torch.arange(torch.Size(shape).numel(), device=self.keys.device)
        # The counter of a draw begins where no other draw of fewer than 2^32 numbers can be.
        counter = _mixed(self.keys + self.drawn)[:, None] + (place + 1) * _signed(_STEP)
        self.drawn += 1
        return (_shifted(_mixed(counter), 40).float() * 2.0**-24).view(-1, *shape)

    def normal(self, *shape: int) -> Float[Tensor, "N ..."]:
        """Return float32 numbers of the standard normal distribution (Box and Muller, 1958)."""
        radius = (-2 * torch.log1p(-self.uniform(*shape))).sqrt()
        return radius * torch.cos(2 * torch.pi * self.uniform(*shape))

    def below(self, high: int) -> Int[Tensor, " N"]:
        """Return a whole number from 0 to ``high - 1`` for each clip."""
        return (self.uniform().double() * high).long()


def _mixed(values: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """A permutation of the 64-bit numbers in which neighbours are far apart."""
    values = (values ^ _shifted(values, 30)) * _signed(_FIRST)
    values = (values ^ _shifted(values, 27)) * _signed(_SECOND)
    return values ^ _shifted(values, 31)


def _shifted(values: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Shift right as if the numbers had no sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The number with the same 64 bits that torch takes."""
    return number - (1 << 64)
