"""Rotation vectors over time: one rotation has many, a turn apart, and motion goes on from one to the next."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TURN = 2 * torch.pi


def held(values: Float[Tensor, "*batch T C"], valid: Bool[Tensor, "*batch T"]) -> Float[Tensor, "*batch T C"]:
    """Return values that stay, where a frame is not valid, at the last one before it that is, or else at the first.

    Examples
    --------
    >>> values = torch.tensor([5.0, 1.0, 7.0, 2.0]).reshape(4, 1)
    >>> held(values, torch.tensor([False, True, False, True])).flatten()
    tensor([1., 1., 1., 2.])
    """
    time = torch.arange(valid.shape[-1], device=valid.device)
    last = torch.where(valid, time, -1).cummax(-1).values
    first = valid.to(torch.uint8).argmax(-1, keepdim=True)
    return values.take_along_dim(torch.where(last < 0, first, last)[..., None], -2)


def _axis(rotvec: Tensor) -> tuple[Tensor, Tensor]:
    """The axis of each rotation vector, zero where there is none to speak of, and its angle, with one value."""
    angle = torch.linalg.vector_norm(rotvec, dim=-1, keepdim=True)
    some = angle > torch.finfo(rotvec.dtype).eps ** 0.75
    return torch.where(some, rotvec / torch.where(some, angle, 1), 0), angle


def _whole(angle: Tensor) -> Tensor:
    """An angle rounded to whole turns."""
    return TURN * torch.round(angle.detach() / TURN)


def nearest_turn(rotvec: Float[Tensor, "*batch 3"], to: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Return the rotation vectors of the same rotations, whole turns more or less, that are nearest to others.

    Examples
    --------
    >>> nearest_turn(torch.tensor([0.0, 0.0, -3.0]), torch.tensor([0.0, 0.0, 3.1]))
    tensor([0.0000, 0.0000, 3.2832])
    """
    axis, angle = _axis(rotvec)
    axis = torch.where((axis != 0).any(-1, keepdim=True), axis, _axis(to.detach())[0])
    return rotvec + _whole((to * axis).sum(-1, keepdim=True) - angle) * axis


def unwrapped(
    rotvec: Float[Tensor, "*batch T 3"], valid: Bool[Tensor, "*batch T"] | None = None
) -> Float[Tensor, "*batch T 3"]:
    """Return rotation vectors of the same rotations that do not jump from frame to frame.

    A rotation about an axis by an angle is one about the opposite axis by the rest of the turn, and one by any number
    of turns more. Of these forms each frame gets the one that goes on from the frame before: axes are brought to one
    side of their sphere, and the angles about them, which are then signed, are unwrapped as a phase is. The frame that
    turns least keeps its shortest form.

    Some paths have no continuous form. Where neighbouring frames lie more than a right angle apart in all their forms,
    a joint was lost rather than moved, and what follows starts anew from its own shortest form. And at each full turn
    all axes are one rotation, so that what has turned by more about an axis that wanders jumps there: a piece with a
    jump of more than half a turn is left in its shortest forms.

    Parameters
    ----------
    rotvec : Float[Tensor, "*batch T 3"]
        Rotation vectors over time.
    valid : Bool[Tensor, "*batch T"], optional
        Frames that count. The others do not disturb these, and stay at the last valid one (see `held`).

    Examples
    --------
    >>> from funnybone.motion.rotations import quaternion, rotvec_of
    >>> ramp = torch.linspace(0, 6 * torch.pi, 50)[:, None] * torch.tensor([0.0, 1.0, 0.0])
    >>> torch.allclose(unwrapped(rotvec_of(quaternion(ramp))), ramp, atol=1e-4)
    True
    """
    rotvec = rotvec if valid is None else held(rotvec, valid)
    own, long = _axis(rotvec)
    with torch.no_grad():
        some = (own != 0).any(-1)
        axis, angle = held(own, some), long - _whole(long)
        short = angle * axis
        gap = short[..., 1:, :] - short[..., :-1, :]
        # The same frame, whole turns about its axis away, may lie nearer to the one before.
        gap = gap - _whole((gap * axis[..., 1:, :]).sum(-1, keepdim=True)) * axis[..., 1:, :]
        lost = torch.linalg.vector_norm(gap, dim=-1) > torch.pi / 2
        piece = _first(lost.long()).cumsum(-1)

        together = (axis[..., 1:, :] * axis[..., :-1, :]).sum(-1) >= 0
        side = _first(torch.where(together, 1.0, -1.0).to(angle.dtype), 1.0).cumprod(-1)
        angle = angle.squeeze(-1)
        turns = -_first(_whole((side * angle).diff(dim=-1))).cumsum(-1)
        # Among frames that turn as little as each other the first counts.
        size = angle.abs() + 1e-6 * torch.arange(angle.shape[-1], device=angle.device)
        turns = turns - _over(piece, torch.where(size == _over(piece, size, "amin"), turns, -torch.inf), "amax")
        turns = side * turns
        jump = torch.linalg.vector_norm(((angle + turns)[..., None] * axis).diff(dim=-2), dim=-1)
        broken = _over(piece, _first(torch.where(lost, 0, jump)), "amax") > torch.pi
        more = torch.where(broken, 0, turns)[..., None] - _whole(long)
    return rotvec + more * torch.where(some[..., None], own, axis)


def _first(differences: Tensor, value: float = 0.0) -> Tensor:
    """Differences between frames with one for the first frame, which has none before it."""
    return torch.nn.functional.pad(differences, (1, 0), value=value)


def _over(piece: Tensor, values: Tensor, reduce: str) -> Tensor:
    """The least or greatest of the values in the piece of time that each frame belongs to."""
    return torch.zeros_like(values).scatter_reduce(-1, piece, values, reduce, include_self=False).gather(-1, piece)
