"""What an attack changed in the frequencies of a motion. One figure for each clip, NaN where it does not exist."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.motion.dynamics import derivative, stencil


def longest_stretch(valid: Bool[Tensor, "N M T"]) -> tuple[Bool[Tensor, "N M T"], Int[Tensor, "N M"]]:
    """Return the longest run of valid frames of each person, as a mask and as a number of frames.

    Of runs of one length the first is taken. Nothing is valid: nothing, 0.

    Examples
    --------
    >>> longest_stretch(torch.tensor([[[True, False, True, True]]]))
    (tensor([[[False, False,  True,  True]]]), tensor([[2]]))
    """
    time = torch.arange(valid.shape[-1], device=valid.device)
    gap = torch.where(valid, -1, time).cummax(-1).values  # the last frame so far that is not valid
    frames, end = (time - gap).max(-1)
    return (time <= end[..., None]) & (time > (end - frames)[..., None]), frames


def first_frame(stretch: Bool[Tensor, "N M T"]) -> Int[Tensor, "N M"]:
    """Return where each person's stretch begins; 0 where there is none.

    Examples
    --------
    >>> first_frame(torch.tensor([[[False, False, True, True]]]))
    tensor([[2]])
    """
    return stretch.to(torch.uint8).argmax(-1)


def power_spectrum(
    values: Float[Tensor, "N M T V C"], stretch: Bool[Tensor, "N M T"], frames: Int[Tensor, "N M"]
) -> Float[Tensor, "N M K V C"]:
    """Return the one-sided power spectrum of one stretch of each person's frames: |DFT|^2, in float64.

    The transform of each stretch has the stretch's own length L: bin k, from 0 to T // 2, is k cycles a stretch,
    ``k fps / L`` hertz, and zero above L / 2. Padded to a common length, each bin would be smeared over its neighbours.
    Powers of k and -k are added. All stretches of one length are transformed at once; clips that were resampled have
    one length.

    Parameters
    ----------
    values : Float[Tensor, "N M T V C"]
        Anything sampled at the frames of a clip.
    stretch, frames : Bool[Tensor, "N M T"], Int[Tensor, "N M"]
        As `longest_stretch` returns them.

    Examples
    --------
    >>> wave = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 4, 1, 1)
    >>> power_spectrum(wave, *longest_stretch(torch.ones(1, 1, 4, dtype=torch.bool))).flatten()
    tensor([ 0.,  0., 16.], dtype=torch.float64)
    """
    n, m, t, v, c = values.shape
    persons, lengths, begin = values.reshape(n * m, t, v * c), frames.flatten(), first_frame(stretch).flatten()
    power = torch.zeros(n * m, t // 2 + 1, v * c, dtype=torch.float64, device=values.device)
    for length in lengths[lengths > 0].unique().tolist():
        rows = (lengths == length).nonzero()
        place = begin[rows] + torch.arange(length, device=values.device)
        spectrum = torch.view_as_real(torch.fft.rfft(persons[rows, place].double(), dim=1))
        bins = torch.arange(spectrum.shape[1], device=values.device)
        mirrored = (bins > 0) & (2 * bins < length)
        power[rows, bins] = spectrum.square().sum(-1) * (1 + mirrored.double())[:, None]
    return power.reshape(n, m, -1, v, c)


def npss(
    clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"]
) -> Float[Tensor, " N"]:
    """Normalised power spectrum similarity: by how many cycles a stretch the power of the motion has moved.

    For each joint the power at each frequency, ``|DFT|^2`` summed over the axes, as a share of all of the joint's
    power; the earth mover's distance between the shares before and after, ``sum over k of |CDF'(k) - CDF(k)|``; and of
    these the mean over joints and persons, weighted by each one's clean power. 0 is best. It has no unit: power that
    moves from 3 to 5 cycles in the stretch counts 2, which in a stretch of 4 s is half a hertz.

    The published formula (`funnybone.metrics.published.npss`) is of angles, coordinate by coordinate. Two things are
    different, so that it can be taken of positions. The mean position is left out: where a person stands would
    outweigh all that the person does. And the features are joints instead of coordinates: the figure does not depend on
    where the clip was seen from (the same rigid motion of both clips changes nothing).

    Only each person's longest stretch of valid frames is looked at, by a transform of exactly that length
    (`power_spectrum`). A joint that was made to stand still has its power at frequency 0. NaN where nothing moves in
    the clean clip.

    References
    ----------
    Gopalakrishnan et al., "A Neural Temporal Model for Human Motion Prediction", CVPR 2019.

    Examples
    --------
    >>> turns = 2 * torch.pi * torch.arange(60) / 60
    >>> slow, fast = (torch.sin(n * turns).reshape(1, 1, 60, 1, 1) for n in (3, 5))
    >>> npss(slow, fast, torch.ones(1, 1, 60, dtype=torch.bool))
    tensor([2.])
    """
    stretch, frames = longest_stretch(valid)
    before, after = (power_spectrum(_about_its_mean(xyz, stretch), stretch, frames) for xyz in (clean, adversarial))
    before, after = before.sum(-1), after.sum(-1)
    weight, total = before.sum(2), after.sum(2)
    change = after / total.clamp(min=_TINY)[:, :, None] - before / weight.clamp(min=_TINY)[:, :, None]
    change[:, :, 0] += (total == 0).to(change)
    distance = change.cumsum(2).abs().sum(2)
    return ((weight * distance).sum((1, 2)) / weight.sum((1, 2))).to(clean.dtype)


def high_frequency_ratio(
    xyz: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"], fps: Float[Tensor, " N"], *, above: float = 8.0
) -> Float[Tensor, " N"]:
    """Share of the kinetic energy of a motion (all joints of one mass) at frequencies above so many hertz.

    A figure of one motion: compare that of the adversarial with that of the clean clip. Velocities are of each person's
    longest stretch of valid frames, under a Hann window, without which a motion that does not end as it began would
    have some of its energy at every frequency. From 0 to 1; NaN where nothing moves, and where ``fps`` is not more than
    twice ``above``, since nothing can be seen there. Frame rates limit what is seen, so only clips of similar rates
    compare.

    Parameters
    ----------
    above : float
        Where high frequencies begin, in Hz; people seldom move faster than 8.

    References
    ----------
    The ratio is in general use; velocities, window and masks are this library's.

    Examples
    --------
    A swing of 30 mm at 2 Hz and a tremor of 5 mm at 12 Hz have the same energy.

    >>> time = torch.arange(600) / 120
    >>> motion = 0.030 * torch.sin(2 * torch.pi * 2 * time) + 0.005 * torch.sin(2 * torch.pi * 12 * time)
    >>> valid = torch.ones(1, 1, 600, dtype=torch.bool)
    >>> high_frequency_ratio(motion.reshape(1, 1, 600, 1, 1), valid, torch.tensor([120.0])).round(decimals=2)
    tensor([0.4900])
    """
    velocity = derivative(xyz.double(), fps.double(), 1)
    stretch, frames = longest_stretch(stencil(valid, 1))
    place = stretch.cumsum(-1) - 0.5
    window = torch.sin(math.pi * place / frames.clamp(min=1)[..., None]).square()
    power = power_spectrum(velocity * window[..., None, None], stretch, frames).sum((3, 4))
    hertz = torch.arange(power.shape[2], device=fps.device) * (fps[:, None] / frames.clamp(min=1))[..., None]
    high = torch.where(hertz > above, power, 0).sum((1, 2)) / power.sum((1, 2))
    return torch.where(fps > 2 * above, high, torch.nan).to(xyz.dtype)


_TINY = torch.finfo(torch.float64).tiny


def _about_its_mean(xyz: Tensor, stretch: Tensor) -> Tensor:
    """Positions minus their mean over the stretch, in float64; exactly zero where nothing moves."""
    there = stretch[..., None, None]
    first = first_frame(stretch)[..., None, None, None].expand_as(xyz[:, :, :1])
    moved = torch.where(there, xyz.double() - xyz.gather(2, first).double(), 0)
    return moved - moved.sum(2, keepdim=True) / there.sum(2, keepdim=True).clamp(min=1)
