"""Time derivatives of motion, in physical units, on valid frames only."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def derivative(
    xyz: Float[Tensor, "N M T ..."], fps: Float[Tensor, " N"], order: int
) -> Float[Tensor, "N M T_less_order ..."]:
    """Return the forward difference of an order over time: metres become m/s, m/s^2, m/s^3.

    Parameters
    ----------
    xyz : Float[Tensor, "N M T ..."]
        Anything sampled at the frames of a clip.
    fps : Float[Tensor, "N"]
        Frames per second of each clip.
    order : int
        0 returns ``xyz`` itself; the result has ``order`` frames less.

    Examples
    --------
    >>> fall = -9.81 / 2 * (torch.arange(4) / 30.0) ** 2
    >>> derivative(fall.reshape(1, 1, 4, 1, 1), torch.tensor([30.0]), 2).flatten().round(decimals=2)
    tensor([-9.8100, -9.8100])
    """
    rate = (fps**order).reshape(-1, *(1,) * (xyz.ndim - 1))
    return torch.diff(xyz, n=order, dim=2) * rate


def stencil(valid: Bool[Tensor, "N M T"], order: int) -> Bool[Tensor, "N M T_less_order"]:
    """Return where a derivative rests on valid frames alone.

    Examples
    --------
    >>> stencil(torch.tensor([[[True, True, True, False]]]), 1)
    tensor([[[ True,  True, False]]])
    """
    frames = max(valid.shape[-1] - order, 0)
    windows = valid.unfold(-1, order + 1, 1) if frames else valid.new_zeros(*valid.shape[:-1], 0, order + 1)
    return windows.all(-1)
