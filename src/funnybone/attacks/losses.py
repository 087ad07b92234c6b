"""What gradient attacks can descend: functions of logits, one number for each clip, lower where the goal is nearer."""

from collections.abc import Callable, Mapping
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from funnybone.errors import DataError
from funnybone.goals import Goal

Loss = Literal["goal", "ce", "margin", "dlr"]
Objective = Callable[[Float[Tensor, "N K"], Int[Tensor, " N"]], Float[Tensor, " N"]]


def cross_entropy(goal: Goal, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the log-probability of the reference class, its negative for goals that lead to that class.

    As published attacks have it. Of a class that the victim is very sure of it is flat to float32; the goals' own loss,
    the log-odds, is not.
    """
    own = logits.log_softmax(1).gather(1, reference[:, None]).squeeze(1)
    return own if goal.away else -own


def dlr(goal: Goal, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the difference-of-logits ratio: the goal's margin over the spread of the highest logits.

    It does not change when logits are shifted or multiplied. The spread is ``z1 - z3`` of the sorted logits for AB and
    ``z1 - (z3 + z4) / 2`` for goals that lead to a class. For ABN it is ``z1 - z(n + 2)``, of which AB is n = 1: with
    ``z3`` the ratio would be one wherever the truth is first. Where a victim has too few classes for a spread that is
    not the margin itself, the margin is returned.

    References
    ----------
    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020, equations 6 and 7.

    Examples
    --------
    >>> import torch
    >>> from funnybone.goals import AnythingBut
    >>> dlr(AnythingBut(), torch.tensor([[4.0, 3.0, 2.0], [40.0, 30.0, 20.0]]), torch.tensor([0, 0]))
    tensor([0.5000, 0.5000])
    """
    margin = goal.margin(logits, reference)
    classes, last = logits.shape[1], goal.place + 1
    if classes <= last:
        return margin
    best = logits.topk(min(classes, last + 2), dim=1).values
    below = best[:, last] if goal.away else best[:, last:].mean(1)
    return margin / (best[:, 0] - below).clamp(min=1e-12)


LOSSES: Mapping[str, Callable[[Goal, Tensor, Tensor], Tensor]] = {
    "goal": lambda goal, logits, reference: goal.loss(logits, reference),
    "ce": cross_entropy,
    "margin": lambda goal, logits, reference: goal.margin(logits, reference),
    "dlr": dlr,
}


def objective(name: str, goal: Goal) -> Objective:
    """Return the loss of a name, for a goal.

    Examples
    --------
    >>> import torch
    >>> from funnybone.goals import Specified
    >>> objective("margin", Specified(1))(torch.tensor([[4.0, 3.0, 1.0]]), torch.tensor([1]))
    tensor([1.])
    """
    if name not in LOSSES:
        raise DataError(f"no loss is called {name!r}", hint=f"it is one of {', '.join(LOSSES)}")
    return lambda logits, reference: LOSSES[name](goal, logits, reference)
