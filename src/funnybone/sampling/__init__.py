"""Samplers that defenses and attacks share: Langevin dynamics and adaptive Hamiltonian Monte Carlo, batched."""

from funnybone.sampling.sghmc import Chain, begin, move, released
from funnybone.sampling.sgld import normal_like, sgld

__all__ = ["Chain", "begin", "move", "normal_like", "released", "sgld"]
