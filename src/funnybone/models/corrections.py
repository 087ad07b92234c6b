"""Small corrections beside the frozen weights of a network: what is trained where the weights may not change."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from funnybone.errors import DataError

_BEFORE = "parametrizations."


class LowRank(nn.Module):
    """A matrix of low rank that is added to a weight: ``W + up @ down``, the trailing axes of W taken as one.

    It begins at zero: ``up`` is. After Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
    equation 3, without its scale.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        down = torch.randn(rank, weight[0].numel()) / weight[0].numel() ** 0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the corrected weight."""
        return weight + (self.up @ self.down).view_as(weight)


class Shift(nn.Module):
    """A tensor of the weight's own shape that is added to it; zero at first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the corrected weight."""
        return weight + self.by


def correct(network: nn.Module, rank: int) -> None:
    """Freeze a network, and put corrections beside its weights, which alone are trained then.

    Weights of several axes get a `LowRank` of this rank, or a `Shift` where that has no more numbers; at rank 0 they
    get nothing. Vectors, such as biases and the scales of norms, get a `Shift`. The network is left in evaluation mode,
    in which norms keep the statistics that they have learned, and should train so.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    >>> correct(network, rank=2)
    >>> sorted(corrections_of(network))
    ['0.bias.by', '0.weight.down', '0.weight.up', '1.bias.by', '1.weight.by']
    """
    network.requires_grad_(False).eval()
    for module in list(network.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            flat = weight.ndim < 2
            small = flat or rank * (len(weight) + weight[0].numel()) >= weight.numel()
            if flat or rank:
                parametrize.register_parametrization(module, name, Shift(weight) if small else LowRank(weight, rank))


def corrections_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the corrections of a network by the weight's name, and ``by``, or ``down`` and ``up``."""
    found = {}
    for key, value in network.state_dict().items():
        module, there, rest = key.rpartition(_BEFORE)
        weight, _, part = rest.partition(".")
        if there and part != "original":
            found[f"{module}{weight}.{part.removeprefix('0.')}"] = value.detach().clone()
    return found


def corrected(network: nn.Module, corrections: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a plain network with corrections added to its weights.

    Raises
    ------
    DataError
        For corrections of another network.

    Examples
    --------
    >>> network = nn.Linear(2, 1)
    >>> changed = corrected(network, {"bias.by": torch.ones(1)})
    >>> bool(changed.bias == network.bias + 1), bool((changed.weight == network.weight).all())
    (True, True)
    """
    changed = copy.deepcopy(network)
    weights = dict(changed.named_parameters())
    left = dict(corrections)
    with torch.no_grad():
        for name, weight in weights.items():
            own = {part: left.pop(f"{name}.{part}") for part in ("by", "down", "up") if f"{name}.{part}" in left}
            change = _change(own, weight)
            if change is not None:
                weight.add_(change)
                if not torch.isfinite(weight).all():  # also where finite numbers grew too large together
                    raise DataError(f"with its correction, {name} has a number that is not finite")
    if left:
        raise DataError(f"there is a correction of {next(iter(left))}, which the network does not have")
    return changed


def _change(own: Mapping[str, Tensor], weight: Tensor) -> Tensor | None:
    """What is added to a weight; shapes come from somebody's file."""
    if not own:
        return None
    odd = next((part.dtype for part in own.values() if part.dtype != weight.dtype), None)
    if odd is not None:
        raise DataError(f"a correction is of {odd}, the weight of {weight.dtype}")
    by, down, up = (own.get(part) for part in ("by", "down", "up"))
    if by is not None and len(own) == 1 and by.shape == weight.shape:
        return by
    if down is not None and up is not None and by is None and weight.ndim > 1 and down.ndim == 2:
        fits = up.shape == (len(weight), len(down)) and down.shape[1] == weight[0].numel()
        if fits:
            return (up @ down).view_as(weight)
    shapes = ", ".join(str(tuple(part.shape)) for part in own.values())
    raise DataError(f"a correction has shapes {shapes}, the weight {tuple(weight.shape)}")
