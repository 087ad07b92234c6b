"""Samplers against posteriors whose moments are known, and the released optimiser, which does not pass."""

import importlib
import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from funnybone.defenses.beat import BEAT
from funnybone.sampling import begin, move, released, sgld

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHAINS = 2500
CORRELATED = torch.tensor([[1.0, 0.8], [0.8, 1.5]])
DEVIATIONS = 4.5  # standard errors that a moment may be off: one seed in 150,000 is worse


def hamiltonian(gradient, start, generator, *, burn_in, steps, step_size=0.2):
    """Positions of all chains after burn-in and so many steps."""
    chain = begin(start)
    for k in range(burn_in + steps):
        exact = {"gradient_noise": 0.0, "adapt": k < burn_in}
        chain = move(chain, gradient(chain.position), step_size=step_size, **exact, generator=generator)
    return chain.position


def langevin(gradient, start, generator, *, burn_in, steps, step_size=0.02):
    """The same by Langevin dynamics; a linear function whose slope is that gradient stands for the log-density."""
    return sgld(
        lambda x: -(gradient(x).detach() * x).sum(1),
        start,
        steps=5 * (burn_in + steps),
        step_size=step_size,
        generator=generator,
    )


def descent(gradient, start, generator, *, burn_in, steps, step_size=0.1):
    """The same by the optimiser that was released."""
    for _ in range(burn_in + steps):
        start = released(start, gradient(start), step_size=step_size, generator=generator)
    return start


def has_moments(samples, mean, covariance, bias=0.03):
    """Whether samples have these moments, within Monte-Carlo error and the share that a step's length costs."""
    errors = (samples.mean(0) - mean) / (covariance.diagonal() / len(samples)).sqrt()
    found = samples.T.cov().reshape(covariance.shape)
    scale = covariance.diagonal().outer(covariance.diagonal())
    allowed = DEVIATIONS * ((scale + covariance.square()) / len(samples)).sqrt() + bias * scale.sqrt()
    return bool((errors.abs() < DEVIATIONS).all() and ((found - covariance).abs() < allowed).all())


@pytest.mark.parametrize("sampler", [hamiltonian, langevin])
@pytest.mark.parametrize("covariance", [torch.tensor([[4.0]]), torch.tensor([[0.25]]), CORRELATED], ids=len)
def test_a_gaussian_is_sampled_with_its_moments(sampler, covariance, generator):
    mean, precision = torch.arange(1.0, 1 + len(covariance)), covariance.inverse()
    start = torch.zeros(CHAINS, len(covariance))
    samples = sampler(lambda x: (x - mean) @ precision, start, generator, burn_in=50, steps=250)
    assert has_moments(samples, mean, covariance)


def test_the_released_optimiser_is_no_sampler(generator):
    precision = CORRELATED.inverse()
    start = torch.randn(CHAINS, 2, generator=generator) @ torch.linalg.cholesky(CORRELATED).T
    assert has_moments(start, torch.zeros(2), CORRELATED), "it starts as it should end"
    samples = descent(lambda x: x @ precision, start, generator, burn_in=50, steps=250)
    assert not has_moments(samples, torch.zeros(2), CORRELATED)
    # Where the wrong noise does not even show, it swings across the mode by less than one of its steps.
    assert samples.var(0).max() < 0.5


def reset(gradient, start, generator, *, burn_in, steps, step_size=0.2):
    """Ours, but the momentum is forgotten before each step, as published; its noise is of the right variance."""
    chain = begin(start)
    for k in range(burn_in + steps):
        chain = chain._replace(momentum=torch.zeros_like(chain.momentum))
        exact = {"gradient_noise": 0.0, "adapt": k < burn_in}
        chain = move(chain, gradient(chain.position), step_size=step_size, **exact, generator=generator)
    return chain.position


def test_resetting_the_momentum_fails_by_itself(generator):
    precision = CORRELATED.inverse()
    samples = reset(lambda x: x @ precision, torch.zeros(CHAINS, 2), generator, burn_in=50, steps=250)
    assert not has_moments(samples, torch.zeros(2), CORRELATED)
    assert (samples.var(0) < 0.5 * CORRELATED.diagonal()).all(), "too cold: friction loses what noise should give back"


def test_a_logistic_posterior_has_the_moments_of_its_grid(generator):
    x = torch.randn(30, 2, generator=generator)
    y = (torch.rand(30, generator=generator) < (x @ torch.tensor([1.0, -0.5])).sigmoid()).float()

    def energy(weights):
        return F.binary_cross_entropy_with_logits(weights @ x.T, y.expand(len(weights), -1), reduction="none").sum(
            1
        ) + weights.square().sum(1) / (2 * 2.0**2)

    def gradient(weights):
        return (((weights @ x.T).sigmoid() - y) @ x) + weights / 2.0**2

    axis = torch.linspace(-4, 4, 161)
    grid = torch.cartesian_prod(axis, axis)
    mass = (-energy(grid)).softmax(0)
    mean = mass @ grid
    covariance = (mass[:, None] * (grid - mean)).T @ (grid - mean)
    for sampler in (hamiltonian, langevin):
        samples = sampler(gradient, torch.zeros(CHAINS, 2), generator, burn_in=50, steps=150)
        assert has_moments(samples, mean, covariance, bias=0.04), sampler.__name__
    assert not has_moments(
        descent(gradient, torch.zeros(CHAINS, 2), generator, burn_in=50, steps=150), mean, covariance, bias=0.04
    )


def test_the_default_of_beat_finds_the_posterior_within_its_own_budget(generator, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    spread_and_offset = partial(importlib.import_module("choose_step_size").spread_and_offset, 500)
    beat = BEAT()
    budget = (beat.friction, beat.steps * beat.burn_in, beat.steps * (beat.rounds - beat.burn_in), generator)
    spread, offset = spread_and_offset(beat.step_size, *budget)
    assert offset < 0.3
    assert ((spread - 1).abs() < 0.15).all()
    assert spread_and_offset(0.01, *budget)[1] > 1.5, "too short steps have not arrived"
    assert spread_and_offset(0.15, *budget)[0].min() > 1.3, "too long ones are too warm"


def test_noise_of_minibatches_is_taken_back(generator):
    """Gradients with noise of a known variance: with the correction the law is right, without it too warm."""
    level, friction, step = 2.0, 0.05, 0.25
    square = 1 + level**2  # what the squared gradient is on average, under the posterior N(0, 1)
    variances = []
    for share in (level**2 / square, 0.0):
        chain = begin(torch.zeros(CHAINS, 1))._replace(square=torch.full((CHAINS, 1), square))
        for _ in range(400):
            noisy = chain.position + level * torch.randn(CHAINS, 1, generator=generator)
            settings = {"step_size": step, "friction": friction, "gradient_noise": share}
            chain = move(chain, noisy, **settings, generator=generator)
        variances.append(float(chain.position.var()))
    error = DEVIATIONS * math.sqrt(2 / CHAINS)
    assert abs(variances[0] - 1) < error + 0.03
    assert variances[1] > 1 + error + 0.03


def test_what_a_chain_remembers_persists_and_the_metric_rests_after_burn_in(generator):
    chain = begin(torch.ones(3, 2))
    first = move(chain, torch.ones(3, 2), step_size=0.1, adapt=True, generator=generator)
    assert not torch.equal(
        first.square, move(first, torch.full((3, 2), 5.0), step_size=0.1, adapt=True, generator=generator).square
    )
    rested = move(first, torch.full((3, 2), 5.0), step_size=0.1, generator=generator)
    assert torch.equal(first.square, rested.square)
    # With no gradient and no noise left, the momentum decays by the friction and carries the position along.
    still = first._replace(square=torch.full((3, 2), 1e12))
    after = move(still, torch.zeros(3, 2), step_size=1e-6, friction=0.25, generator=generator)
    assert torch.allclose(after.momentum, 0.75 * first.momentum, atol=1e-6)
    assert torch.equal(after.position, still.position + after.momentum)


def test_a_langevin_step_of_one_sample_does_not_depend_on_the_others():
    start = torch.tensor([[1.0], [2.0], [3.0]])
    settings = {"steps": 3, "step_size": 0.1, "noise": 0.0}
    together = sgld(lambda x: -x.square().sum(1), start, **settings, generator=torch.Generator())
    alone = sgld(lambda x: -x.square().sum(1), start[1:2], **settings, generator=torch.Generator())
    assert torch.equal(together[1:2], alone)
    assert torch.allclose(alone, start[1:2] * 0.8**3)


def test_langevin_moves_only_where_it_may_and_repeats_with_its_seed():
    start, where = torch.zeros(4, 3), torch.tensor([True, False, True])
    one, other = (
        sgld(
            lambda x: -x.square().sum(1),
            start,
            steps=4,
            step_size=0.1,
            where=where,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (5, 5)
    )
    assert torch.equal(one, other)
    assert torch.equal(one != 0, where.expand(4, 3))


def test_the_noise_factor_is_the_root_of_the_temperature(generator):
    samples = sgld(
        lambda x: -x.square().sum(1) / 2,
        torch.zeros(CHAINS, 1),
        steps=300,
        step_size=0.02,
        noise=0.5,
        generator=generator,
    )
    assert has_moments(samples, torch.zeros(1), torch.tensor([[0.25]]))
