"""One step of a training: the optimiser, this process's share of a batch, and what processes agree on after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from funnybone.clips import Clips
from funnybone.models import Recipe
from funnybone.training.checkpoint import State
from funnybone.training.hardware import Plain
from funnybone.training.method import Batch, Method


def optimiser_of(module: nn.Module, objective: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of all that trains: matrices and convolutions decay, the rest does not."""
    decays: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in (*module.named_parameters(), *objective.named_parameters()):
        if parameter.requires_grad:
            decays[parameter.ndim > 1 and "weight" in name.rpartition(".")[2]].append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decays[True], "weight_decay": recipe.weight_decay},
        {"params": decays[False], "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.max_lr, momentum=0.9, nesterov=True)
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.max_lr)


def own_share(clips: Clips, place: Plain) -> tuple[Clips, float]:
    """This process's part of a batch, and its share of the whole.

    One that is left without looks at the first clip, which counts nothing: all must have the same gradients and buffers
    to average.
    """
    own = range(place.rank, len(clips), place.ranks)
    return clips[slice(own.start, None, own.step) if own else slice(1)], len(own) / len(clips)


def one_step(state: State, batch: Batch, method: Method, recipe: Recipe, place: Plain, share: float) -> float:
    """One optimiser step; return its loss."""
    state.optimiser.zero_grad()
    with _agreed(state, place, share):
        with place.autocast():
            loss = method.loss(batch)
        loss.backward()
    parameters = [parameter for group in state.optimiser.param_groups for parameter in group["params"]]
    place.average([parameter.grad for parameter in parameters if parameter.grad is not None], share)
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
    state.optimiser.step()
    mean = loss.detach().float().reshape(1).clone()
    place.average([mean], share)
    return mean.item()


@contextmanager
def _agreed(state: State, place: Plain, share: float) -> Iterator[None]:
    """Let all processes leave with the same buffers, such as the statistics of norms and an objective's prototypes."""
    if place.ranks == 1:
        yield
        return
    before = [buffer.clone() for buffer in _buffers(state)]
    yield
    # Their changes are averaged, not they themselves: what is constant, such as a graph, must not gather rounding.
    changes = [now - then for now, then in zip(_buffers(state), before, strict=True)]
    place.average(changes, share)
    for now, then, change in zip(_buffers(state), before, changes, strict=True):
        now.copy_(then + change)


def _buffers(state: State) -> list[Tensor]:
    parts = (state.module, state.objective)
    return [buffer for part in parts for buffer in part.buffers() if buffer.is_floating_point()]
