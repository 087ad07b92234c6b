"""A victim whose robustness is known in closed form, and clips to attack it with."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from funnybone.clips import Clips
from funnybone.skeletons import COCO17, Skeleton
from funnybone.victims.torch import TorchVictim


class Linear(nn.Module):
    """Logits ``(+s, -s)`` with ``s = w . (x - c)``: two classes on either side of a plane."""

    def __init__(self, normal: Float[Tensor, "M T V C"], offset: float = 0.0) -> None:
        super().__init__()
        self.normal = nn.Parameter(normal)
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N 2"]:
        score = (xyz * self.normal).flatten(1).sum(1) - self.offset
        return torch.stack([score, -score], 1)


def random_clips(
    n: int = 4,
    *,
    persons: int = 1,
    frames: int = 8,
    skeleton: Skeleton = COCO17,
    absent: bool = False,
    generator: torch.Generator | None = None,
) -> Clips:
    """Return clips of smooth random motion, labelled 0 and 1 in turn.

    With ``absent``, the second half of the first clip is padding and the last person of the last clip is missing.

    Examples
    --------
    >>> random_clips(2, frames=5)
    Clips('random', n=2, persons=1, frames=5, COCO17, 2 classes, synthetic)
    """
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    joints = len(skeleton.joints)
    rest = torch.randn(n, persons, 1, joints, 3, generator=generator)
    swing, phase = 0.2 * torch.randn(2, n, persons, 1, joints, 3, generator=generator)
    time = torch.arange(frames).reshape(1, 1, frames, 1, 1) / 30
    xyz = rest + swing * torch.sin(6 * time + 10 * phase)
    valid = torch.ones(n, persons, frames, dtype=torch.bool)
    if absent:
        valid[0, :, frames // 2 :] = False
        valid[-1, -1] = persons == 1
    return Clips(
        xyz=torch.where(valid[..., None, None], xyz, 0),
        valid=valid,
        labels=torch.arange(n) % 2,
        classes=("left", "right"),
        skeleton=skeleton,
        fps=torch.full((n,), 30.0),
        ids=tuple(f"clip{i}" for i in range(n)),
        groups={"subject": tuple(f"s{i % 3}" for i in range(n))},
        name="random",
        synthetic=True,
    )


def linear_victim(clips: Clips, *, distance: float = 0.05, generator: torch.Generator | None = None) -> TorchVictim:
    """Return a two-class linear victim that gets every clip right, and clips cannot be nearer to its border than this.

    The victim sees positions relative to the clips handed in (its preprocessing subtracts what it was made from),
    so the score of clip i is exactly ``+distance`` or ``-distance`` (its label decides) times the norm of the plane's
    normal: the nearest adversary lies ``distance`` metres away in L2, and ``distance * |w|_2 / |w|_1`` in L-infinity.

    Parameters
    ----------
    clips : Clips
        Labels 0 and 1.
    distance : float
        L2 distance of every clip to the border, in metres.
    """
    generator = generator if generator is not None else torch.Generator().manual_seed(1)
    _, m, t, v, c = clips.xyz.shape
    everywhere = clips.valid.all(0)[..., None, None]  # a coordinate that some clip cannot move must not decide
    normal = torch.where(everywhere, torch.randn(m, t, v, c, generator=generator), 0)
    normal = normal / normal.norm()
    scores = (clips.xyz * normal).flatten(1).sum(1)
    wanted = torch.where(clips.labels == 0, distance, -distance).to(scores)
    module = _Remembering(normal, clips.xyz, wanted - scores)
    return TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes, name="linear")


class _Remembering(nn.Module):
    """A plane for each clip, found by its nearest clean clip: all at one distance."""

    clean: Tensor
    shift: Tensor

    def __init__(self, normal: Tensor, clean: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.plane = Linear(normal)
        self.register_buffer("clean", clean.flatten(1))
        self.register_buffer("shift", shift)

    def forward(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N 2"]:
        nearest = torch.cdist(xyz.detach().flatten(1), self.clean).argmin(1)
        return self.plane(xyz) + self.shift[nearest, None] * torch.tensor([1.0, -1.0])
