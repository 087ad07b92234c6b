"""Random numbers that are a function of what they are for: no state, so no clip depends on how many others are made."""

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """The finaliser of splitmix64 (Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def key(*parts: int | str | np.ndarray) -> UInt64[np.ndarray, " N"]:
    """Return a key for each combination of integers or keys, broadcast against each other; strings name the purpose.

    Examples
    --------
    >>> key(0, "clip", np.arange(3)).shape
    (3,)
    >>> bool(key(0, np.arange(9))[4] == key(0, 4)[0])
    True
    """
    hashed = np.zeros(1, np.uint64)
    for part in parts:
        word = np.atleast_1d(np.asarray(zlib.crc32(part.encode()) if isinstance(part, str) else part))
        if word.dtype != np.uint64:
            word = word.astype(np.int64).view(np.uint64)
        hashed = _mix((hashed + _GOLDEN) ^ _mix(word + _GOLDEN))
    return hashed


def uniform(keys: UInt64[np.ndarray, " N"], purpose: str, *shape: int) -> Float[np.ndarray, "N *shape"]:  # noqa: F821  a shape
    """Return numbers in (0, 1) for each key: ``(N, *shape)``.

    Examples
    --------
    >>> draw = uniform(key(0, np.arange(1000)), "tempo", 3)
    >>> draw.shape, bool(abs(draw.mean() - 0.5) < 0.02)
    ((1000, 3), True)
    """
    counter = np.arange(1, 1 + int(np.prod(shape)), dtype=np.uint64) * _GOLDEN
    bits = _mix(key(keys, purpose)[:, None] + counter)
    return (((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53).reshape(len(keys), *shape)


def normal(keys: UInt64[np.ndarray, " N"], purpose: str, *shape: int) -> Float[np.ndarray, "N *shape"]:  # noqa: F821  a shape
    """Return standard normal numbers for each key, cut off at 2.5 so that no virtual person is a monster."""
    from scipy.special import ndtri  # takes longer to import than naming a data set may take

    return np.clip(ndtri(uniform(keys, purpose, *shape)), -2.5, 2.5)


def wander(
    keys: UInt64[np.ndarray, " N"],
    purpose: str,
    seconds: Float[np.ndarray, " T"],
    width: int,
    hertz: Sequence[float] = (0.15, 0.4, 0.8, 1.4),
) -> Float[np.ndarray, "N T D"]:
    """Return smooth noise of unit variance over time: a stationary Gaussian process with a few low frequencies.

    Amplitudes fall as one over the frequency, as those of a standing person's sway do.
    """
    frequencies = np.asarray(hertz)
    weight = 1 / frequencies / np.sqrt(np.sum(frequencies**-2))
    turns = 2 * np.pi * frequencies[:, None] * seconds
    basis = np.concatenate([weight[:, None] * np.sin(turns), weight[:, None] * np.cos(turns)])
    return basis.T @ normal(keys, purpose, len(basis), width)
