"""What attacks share that follow several gradients at once: gradients of one size, and Adam's moments of each clip."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.metrics.deviations import masked_mean
from funnybone.threat.ball import largest_one


def evened(gradient: Float[Tensor, "N M T V C"], where: Bool[Tensor, "N ..."]) -> Float[Tensor, "N M T V C"]:
    """Return each clip's gradient, zero elsewhere, scaled to root mean square one over the coordinates named.

    Of two gradients the balance then does not depend on how sure a victim is, or on units. One that is zero stays so.

    Examples
    --------
    >>> gradient = torch.tensor([6e-30, -8e-30, 5.0]).reshape(1, 1, 3, 1, 1)
    >>> where = torch.tensor([True, True, False]).reshape(1, 1, 3, 1, 1)
    >>> evened(gradient, where).flatten()
    tensor([ 0.8485, -1.1314,  0.0000])
    """
    gradient = largest_one(torch.where(where, gradient, 0))  # squares of a sure victim's gradient would vanish
    size = masked_mean(gradient.square(), where).sqrt().nan_to_num()
    return gradient / torch.where(size > 0, size, 1)[:, None, None, None, None]


def adam(
    state: dict[str, Tensor], name: str, gradient: Tensor, k: int, *, decay: tuple[float, float] = (0.9, 0.999)
) -> Tensor:
    """Return the direction of Adam's ``k``-th step (from 0): about one in size where the gradient keeps its sign.

    Parameters
    ----------
    state : dict of str to Tensor
        Where the moments are remembered: `Problem.state`.
    name : str
        Whose moments they are; an attack may move several things.
    gradient : Tensor
        N first.
    k : int
        Steps already made.
    decay : (float, float)
        Of the means of the gradient and of its square.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.

    Examples
    --------
    >>> state = {}
    >>> adam(state, "motion", torch.tensor([[3.0, -0.001]]), 0)
    tensor([[ 1.0000, -1.0000]])
    """
    mean, square = (state.get(f"{name}.{moment}", torch.zeros_like(gradient)) for moment in ("mean", "square"))
    mean = decay[0] * mean + (1 - decay[0]) * gradient
    square = decay[1] * square + (1 - decay[1]) * gradient.square()
    state[f"{name}.mean"], state[f"{name}.square"] = mean, square
    return mean / (1 - decay[0] ** (k + 1)) / ((square / (1 - decay[1] ** (k + 1))).sqrt() + 1e-8)
