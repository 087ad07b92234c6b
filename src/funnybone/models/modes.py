"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module has its own mode again, which need not be its parent's.

    Examples
    --------
    >>> network = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
    >>> with evaluating(network):
    ...     [module.training for module in network]
    [False, False]
    >>> [module.training for module in network]
    [False, True]
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
