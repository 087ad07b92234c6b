"""Stochastic-gradient Hamiltonian Monte Carlo that adapts its scale (Springenberg et al., 2016), many chains at once.

``U`` is the negative log-posterior; a chain is a point that moves through it with a momentum. The state is a value:
`begin` makes it, `move` returns the next one.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.sampling.sgld import normal_like

TINY = 1e-12  # below which a second moment is not divided by


class Chain(NamedTuple):
    """Where chains are, and what they remember between steps: members first.

    ``mean`` and ``square`` are running moments of the gradient of U, ``window`` is how many steps they look back: each
    parameter has its own, which adapts.
    """

    position: Float[Tensor, "S ..."]
    momentum: Float[Tensor, "S ..."]
    mean: Float[Tensor, "S ..."]
    square: Float[Tensor, "S ..."]
    window: Float[Tensor, "S ..."]


def begin(position: Float[Tensor, "S ..."]) -> Chain:
    """Return chains at rest, before they have seen a gradient.

    Examples
    --------
    >>> begin(torch.ones(3, 2)).momentum.shape
    torch.Size([3, 2])
    """
    still = torch.zeros_like(position)
    return Chain(position, still, still, torch.ones_like(position), torch.ones_like(position))


def move(
    chain: Chain,
    gradient: Float[Tensor, "S ..."],
    *,
    step_size: float,
    friction: float = 0.05,
    gradient_noise: float = 1.0,
    adapt: bool = False,
    generator: torch.Generator,
) -> Chain:
    """Return the chains after one step; ``gradient`` is that of U at their positions, for the whole data set.

    With the mass ``V^{1/2}`` (V the running mean of the squared gradient) and the friction ``C = alpha V^{1/2} / eps``,
    the paper's choice that makes each step lose the share alpha of the momentum, its update is ::

        m <- m - eps^2 V^{-1/2} g - alpha m + N(0, 2 eps^2 alpha V^{-1/2} - eps^4 I)
        x <- x + m

    The momentum persists, and the number in the brackets is a variance. On a quadratic U with exact gradients the
    stationary variance is right but for a share of order eps^2, whatever alpha is. ``- eps^4`` takes back the noise
    that a mini-batch's gradient brings along, where its variance is V.

    Parameters
    ----------
    chain : Chain
        The last state.
    gradient : Tensor
        Of U; that of a mini-batch scaled to all data.
    step_size : float
        eps, a share: how far a parameter moves is ``eps`` in units that its own gradients set.
    friction : float
        alpha, the share of the momentum that is lost at each step; above 0, at most 1.
    gradient_noise : float
        The share of V that is a mini-batch's noise: 0 where gradients are exact, 1 in the paper.
    adapt : bool
        Whether V and its window follow this gradient. During burn-in alone: a chain whose metric keeps following its
        own path does not have the posterior as its stationary law.
    generator : torch.Generator
        The only source of chance.

    References
    ----------
    Springenberg, Klein, Falkner and Hutter, "Bayesian Optimization with Robust Bayesian Neural Networks", NIPS 2016,
    section 4: the scale-adapted update and the estimates during burn-in. What a step is given in units of is theirs.

    Examples
    --------
    >>> chance, chain = torch.Generator().manual_seed(0), begin(torch.zeros(20_000, 1))
    >>> for k in range(300):  # U = x^2 / 8: standard deviation 2
    ...     exact = {"step_size": 0.2, "gradient_noise": 0.0, "adapt": k < 20}
    ...     chain = move(chain, chain.position / 4, **exact, generator=chance)
    >>> bool((chain.position.std() - 2).abs() < 0.06)
    True
    """
    mean, square, window = chain.mean, chain.square, chain.window
    if adapt:
        rate = 1 / (window + 1)
        kept = 1 - (mean.square() / square.clamp(min=TINY)).clamp(max=1)
        window = 1 + window * kept
        mean = torch.lerp(mean, gradient, rate)
        square = torch.lerp(square, gradient.square(), rate)
    inverse_mass = square.clamp(min=TINY).rsqrt()
    variance = 2 * step_size**2 * friction * inverse_mass - gradient_noise * step_size**4
    momentum = (1 - friction) * chain.momentum - step_size**2 * inverse_mass * gradient
    momentum = momentum + variance.clamp(min=0).sqrt() * normal_like(gradient, generator)
    return Chain(chain.position + momentum, momentum, mean, square, window)


def released(
    position: Float[Tensor, "S ..."],
    gradient: Float[Tensor, "S ..."],
    *,
    step_size: float,
    repeats: int = 30,
    generator: torch.Generator,
) -> Float[Tensor, "S ..."]:
    """Return positions after one call of the optimiser that the BEAT authors released: no sampler, for comparison.

    It takes the same gradient ``repeats`` times, forgets momentum and second moment before each, and multiplies noise
    of variance one by what should be a variance, and by 1e-5: almost pure sign descent by ``repeats sqrt(2) eps^2``.
    The repeats are one step here, since nothing changes between them: their drifts add up, and so do the variances of
    their noise.

    Parameters
    ----------
    position, gradient : Tensor
        Of the parameters, and of their loss.
    step_size : float
        eps.
    repeats : int
        Inner repeats.
    generator : torch.Generator
        The only source of chance.

    Examples
    --------
    >>> x = released(torch.zeros(2), torch.tensor([3.0, -0.5]), step_size=1e-2, generator=torch.Generator())
    >>> x.mul(1000).round(decimals=2)
    tensor([-4.2400,  4.2400])
    """
    if step_size <= 0:
        raise DataError(f"the step size is {step_size}", hint="give a number above 0")
    square = 1e-5 / 2 + gradient.square() / 2
    spread = 1e-5 * (2 * step_size**3 / square - step_size**4)
    drift = repeats * step_size**2 * gradient * square.rsqrt()
    return position - drift + math.sqrt(repeats) * spread * normal_like(gradient, generator)
