"""Stochastic gradient Langevin dynamics (Welling and Teh, 2011), for many samples at once."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]


def sgld(
    log_density: LogDensity,
    start: Float[Tensor, "N ..."],
    *,
    steps: int,
    step_size: float,
    noise: float = 1.0,
    where: Bool[Tensor, "..."] | None = None,
    generator: torch.Generator,
) -> Float[Tensor, "N ..."]:
    """Return samples after ``steps`` moves ``x <- x + eta grad log p(x) + sqrt(2 eta) noise xi``.

    Each sample follows the gradient of its own log-density: that of the sum, never of a mean, so that the step does not
    depend on how many are moved together. With ``noise = 1`` the stationary law is p itself, up to a bias of the order
    of ``step_size``; with another factor it is p to the power ``1 / noise^2``, which published energy models use to
    climb more than they wander.

    Parameters
    ----------
    log_density : callable
        Takes (N, ...), returns (N,): log p of each sample up to a constant, differentiable. Samples must not meet in
        it.
    start : Tensor
        Where each sample begins.
    steps : int
        Moves.
    step_size : float
        eta, in the square of the samples' unit.
    noise : float
        Standard deviation of the noise, as a share of that of temperature one.
    where : Tensor, optional
        What moves, broadcast to the samples; the rest stays where it is.
    generator : torch.Generator
        The only source of chance.

    References
    ----------
    Welling and Teh, "Bayesian Learning via Stochastic Gradient Langevin Dynamics", ICML 2011. There ``step_size`` is
    half of their epsilon.

    Examples
    --------
    Samples of a normal distribution with standard deviation 2.

    >>> chance = torch.Generator().manual_seed(0)
    >>> x = sgld(lambda x: -x**2 / 8, torch.zeros(20_000), steps=100, step_size=0.2, generator=chance)
    >>> bool((x.std() - 2).abs() < 0.05)
    True
    """
    x = start.detach()
    for _ in range(steps):
        x = x.requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(log_density(x).sum(), x)
        move = step_size * gradient
        if noise:
            move = move + math.sqrt(2 * step_size) * noise * normal_like(x, generator)
        x = x.detach() + (move if where is None else torch.where(where, move, 0))
    return x


def normal_like(values: Float[Tensor, "*shape"], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Return standard normal numbers of this shape and type, drawn where the generator is."""
    drawn = torch.randn(values.shape, generator=generator, dtype=values.dtype, device=generator.device)
    return drawn.to(values.device)
