"""How each coordinate of a joint goes on from the frames before it, and what that says about a gradient over time."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.errors import DataError

BANDWIDTH = 0.25  # of the kernel, as a share of the clip: coefficients are told from half of the clip around a frame
RIDGE = 1e-8  # of the normal equations, in which a series has a standard deviation of one
# A series that varies by less than this share of its largest value does not: so much is rounding in float32.
STILL = 1e-6
SERIES = 4096  # that are solved together: their normal equations fit into memory whatever the clips


def autoregression(
    xyz: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"], order: int, *, bandwidth: float = BANDWIDTH
) -> Float[Tensor, "N M T V C P"]:
    """Return the time-varying autoregressive coefficients of each coordinate of each joint.

    The model is ``x_t = a_1(t) x_{t-1} + ... + a_P(t) x_{t-P} + b(t)`` plus noise, for each series by itself. Its
    coefficients are told by local-linear least squares: around each frame they are lines in time, and frames count by
    Epanechnikov's kernel of their distance. So coefficients that are lines in time are found exactly. A little ridge
    decides where the motion does not.

    Entry t has the coefficients by which frame t follows from those before it. They are zero where these frames are not
    all valid, and of a series that stands still, from which nothing can be told.

    Parameters
    ----------
    xyz : Float[Tensor, "N M T V C"]
        Positions.
    valid : Bool[Tensor, "N M T"]
        Frames that count.
    order : int
        P: how many frames back, 1 or 2.
    bandwidth : float
        Half the kernel's width, as a share of T. The published attacks have a package choose it by cross-validation;
        this one is fixed.

    References
    ----------
    Lu et al., "Hard No-Box Adversarial Attack on Skeleton-Based Human Action Recognition with
    Skeleton-Motion-Informed Gradient", ICCV 2023: the models TV-AR(1) and TV-AR(2) with intercepts, which are b(t)
    here. Its released code leaves the intercept out, so that coefficients depend on where the origin is.

    Examples
    --------
    >>> series = torch.zeros(20)
    >>> series[0] = 1.0
    >>> for t in range(1, 20):
    ...     series[t] = 0.8 * series[t - 1] + 0.5
    >>> xyz, valid = series.view(1, 1, 20, 1, 1), torch.ones(1, 1, 20, dtype=torch.bool)
    >>> autoregression(xyz, valid, 1).flatten()[[0, 1, 10]].round(decimals=2)
    tensor([0.0000, 0.8000, 0.8000])
    """
    if order not in (1, 2):
        raise DataError(f"autoregression: order is {order}", hint="give 1 or 2")
    if not 0 < bandwidth <= 1:
        raise DataError(f"autoregression: bandwidth is {bandwidth}", hint="give a share of the clip above 0, up to 1")
    n, m, frames, v, c = xyz.shape
    series = xyz.permute(0, 1, 3, 4, 2).flatten(0, 3).double()
    there = valid[:, :, None, None].expand(n, m, v, c, frames).flatten(0, 3)
    parts = zip(series.split(SERIES), there.split(SERIES), strict=True)
    found = torch.cat([_fitted(*part, order, bandwidth) for part in parts])
    return found.view(n, m, v, c, frames, order).permute(0, 1, 4, 2, 3, 5).to(xyz.dtype)


def motion_gradient(
    gradient: Float[Tensor, "N M T V C"], coefficients: Float[Tensor, "N M T V C P"]
) -> Float[Tensor, "N M T V C"]:
    """Return a gradient in which each frame also answers for the frames that follow from it.

    With coefficients of one frame back, ``G_t = g_t + A_{t+1} g_{t+1}``; of two frames back,
    ``G_t = g_t + C_{t+1} g_{t+1} + (D_{t+2} + C_{t+2} C_{t+1}) g_{t+2}``. What lies behind the last frame is zero.

    Parameters
    ----------
    gradient : Float[Tensor, "N M T V C"]
        With respect to each frame by itself.
    coefficients : Float[Tensor, "N M T V C P"]
        Of `autoregression`.

    References
    ----------
    Lu et al., ICCV 2023 (see `autoregression`): the skeleton-motion-informed gradient of first and second order.

    Examples
    --------
    >>> gradient = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1, 1)
    >>> motion_gradient(gradient, torch.full((1, 1, 3, 1, 1, 1), 0.5)).flatten()
    tensor([  6.,  60., 100.])
    """
    first = _earlier(coefficients[..., 0] * gradient, 1)
    if coefficients.shape[-1] == 1:
        return gradient + first
    through = _earlier(coefficients[..., 0] * first, 1)  # on the next frame, and by that on the one after it
    return gradient + first + through + _earlier(coefficients[..., 1] * gradient, 2)


def _earlier(values: Float[Tensor, "N M T V C"], frames: int) -> Float[Tensor, "N M T V C"]:
    """Each frame's value at a frame so much before it; zeros come in at the end."""
    later = values[:, :, frames:]
    return torch.cat([later, torch.zeros_like(values[:, :, : values.shape[2] - later.shape[2]])], 2)


def _fitted(
    series: Float[Tensor, "S T"], there: Bool[Tensor, "S T"], order: int, bandwidth: float
) -> Float[Tensor, "S T P"]:
    """The coefficients of series, in float64."""
    count = there.sum(1, keepdim=True).clamp(min=1)
    mean = torch.where(there, series, 0).sum(1, keepdim=True) / count
    size = torch.where(there, series, 0).abs().amax(1, keepdim=True)
    series = torch.where(there, series - mean, 0)
    spread = (series.square().sum(1, keepdim=True) / count).sqrt()
    moving = spread > STILL * size
    series = series / torch.where(moving, spread, 1)

    frames = series.shape[1]
    lags = [_later(series, lag) for lag in range(1, order + 1)]
    usable = torch.stack([there, *(_later(there, lag) for lag in range(1, order + 1))]).all(0) & moving
    columns = torch.where(usable[..., None], torch.stack([*lags, torch.ones_like(series)], -1), 0)
    time = torch.arange(frames, dtype=series.dtype, device=series.device)
    away = (time - time[:, None]) / (bandwidth * max(frames, 1))
    weights = (1 - away.square()).clamp(min=0)
    # Moments of the columns and of those times the distance in time: what the normal equations are made of.
    products = (columns[..., :, None] * columns[..., None, :]).flatten(2)
    answers = columns * series[..., None]
    (zero, one, two), (level, slope) = (
        [torch.einsum("tk,skq->stq", weights * away**power, what) for power in range(powers)]
        for powers, what in ((3, products), (2, answers))
    )
    blocks = [part.unflatten(-1, (order + 1, order + 1)) for part in (zero, one, two)]
    matrix = torch.cat([torch.cat([blocks[0], blocks[1]], -1), torch.cat([blocks[1], blocks[2]], -1)], -2)
    ridge = RIDGE * torch.eye(2 * (order + 1), dtype=series.dtype, device=series.device)
    solved = torch.linalg.solve(matrix + ridge, torch.cat([level, slope], -1))
    return torch.where(usable[..., None], solved[..., :order], 0)


def _later(values: Tensor, frames: int) -> Tensor:
    """Each value of (S, T) at a frame so much after it; zeros come in at the beginning."""
    return torch.nn.functional.pad(values, (frames, 0))[:, : values.shape[1]]
