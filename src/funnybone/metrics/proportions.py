"""The proportions of recorded bodies: how long each bone is for the whole, and how alike left and right are."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.skeletons import Skeleton

UNRECORDED = 0.05  # people who were not recorded differ by a twentieth at least, in each bone
SHORTEST = 0.002  # of the sum of all bones, a centimetre of an adult: shorter bones count as that long


@dataclass(frozen=True, eq=False)
class Proportions:
    """How long the bones of recorded people are, as shares of the sum of all, so that children are as adults are.

    A body's two figures are each a root mean square over bones, of differences that are measured in what is usual for
    the bone: how far recorded clips are from the middle, root mean square too, and `UNRECORDED` added in quadrature.
    So a hand that a Kinect sees at another length in each clip weighs less than a thigh, and one joint that it lost
    less than a side that is longer as a whole. Size is no part of either.

    Parameters
    ----------
    share : Float[Tensor, "B"]
        Natural logarithm of each bone's share, in the middle of the clips; of bones that mirror each other, the mean.
    share_spread, side_spread : Float[Tensor, "B"]
        What is usual: of that logarithm, and of the logarithm of the ratio of a bone and its mirror image.
    skeleton : Skeleton
        The joints.
    """

    # Plain tensors: what comes from a file is checked below, in sentences.
    share: Tensor
    share_spread: Tensor
    side_spread: Tensor
    skeleton: Skeleton

    def __post_init__(self) -> None:
        bones = len(self.skeleton.bones)
        for what, values in vars(self).items():
            if isinstance(values, Tensor) and tuple(values.shape) != (bones,):
                raise DataError(f"proportions: {what} has shape {tuple(values.shape)}, there are {bones} bones")
        spreads = torch.cat([self.share_spread, self.side_spread])
        if not bool((spreads > 0).all()) or not bool(torch.cat([self.share, spreads]).isfinite().all()):
            raise DataError("proportions: a number is missing, or a spread is not above zero")

    def asymmetry(self, lengths: Float[Tensor, "N M B"]) -> Float[Tensor, " N"]:
        """Return how unlike left and right are, of the person of each clip in whom they are least alike.

        ``|log(left / right)|`` of each pair of bones, in what is usual for it, root mean square over pairs. Zero for
        skeletons without left and right, and for clips without persons; bones have no length there, NaN.
        """
        _, sides = _logarithms(lengths, self.skeleton)
        paired = [bone for bone, other in enumerate(self.skeleton.mirrored_bones) if bone < other]
        return _root_mean_square((sides / self.side_spread)[..., paired])

    def strangeness(self, lengths: Float[Tensor, "N M B"]) -> Float[Tensor, " N"]:
        """Return how far shares are from the middle of those recorded, of the person of each clip who is farthest.

        In what is usual for each bone, root mean square over bones; two that mirror each other count as one, by the
        mean of their logarithms, since what is between them is asymmetry.
        """
        shares, _ = _logarithms(lengths, self.skeleton)
        single = [bone for bone, other in enumerate(self.skeleton.mirrored_bones) if bone <= other]
        return _root_mean_square(((shares - self.share) / self.share_spread)[..., single])

    def to(self, device: torch.device | str) -> "Proportions":
        """Return the same on a device."""
        return replace(
            self,
            share=self.share.to(device),
            share_spread=self.share_spread.to(device),
            side_spread=self.side_spread.to(device),
        )


def median_lengths(clips: Clips) -> Float[Tensor, "N M B"]:
    """Return how long each bone of each person is in the middle of the valid frames; NaN of persons without any.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> median_lengths(random_clips(3, persons=2)).shape
    torch.Size([3, 2, 16])
    """
    lengths = torch.where(clips.valid[..., None], clips.skeleton.bone_lengths(clips.xyz), torch.nan)
    return lengths.nanmedian(2).values


def proportions_of(lengths: Float[Tensor, "N M B"], skeleton: Skeleton) -> Proportions:
    """Return the proportions of recorded people, one length of each bone a clip and person; NaN who is absent.

    Examples
    --------
    Arms of 0.3 m and 0.6 m are as unlike as recorded ones of equal length are not: by ``log 2``, in twentieths.

    >>> arms = Skeleton("arms", ("chest", "left", "right"), (-1, 0, 0), pairs=((1, 2),))
    >>> recorded = proportions_of(torch.full((4, 1, 2), 0.5), arms)
    >>> recorded.asymmetry(torch.tensor([[[0.3, 0.6]]])) * UNRECORDED
    tensor([0.6931])
    """
    people = lengths.flatten(0, 1)
    people = people[~people.isnan().any(-1)]
    shares, sides = _logarithms(people if len(people) else people.new_ones(1, people.shape[-1]), skeleton)
    share = shares.median(0).values
    spreads = [(away.square().mean(0) + UNRECORDED**2).sqrt() for away in (shares - share, sides)]
    return Proportions(share, spreads[0], spreads[1], skeleton)


def _logarithms(lengths: Float[Tensor, "*batch B"], skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """The logarithms of each bone's share, the mean of both sides, and of its ratio to its mirror image."""
    whole = lengths.sum(-1, keepdim=True).clamp(min=torch.finfo(lengths.dtype).tiny)
    log = (lengths / whole).clamp(min=SHORTEST).log()
    mirrored = log[..., list(skeleton.mirrored_bones)]
    return (log + mirrored) / 2, log - mirrored


def _root_mean_square(away: Float[Tensor, "N M K"]) -> Float[Tensor, " N"]:
    """Over bones, of the person with the largest; zero of nobody, and of no bones."""
    return (away.square().sum(-1) / max(away.shape[-1], 1)).sqrt().nan_to_num(0).amax(1)
