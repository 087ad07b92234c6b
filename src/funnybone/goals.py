"""Goals: when an attack has succeeded, and the loss that leads there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.chance import Chance
from funnybone.errors import DataError


class Goal(ABC):
    """What the attacker wants, with respect to one reference class for each clip.

    The reference is the true class for goals that lead away from it and the wanted class for goals that lead to one.

    Attributes
    ----------
    away : bool
        Whether it leads away from the reference.
    """

    away: ClassVar[bool] = True

    @property
    @abstractmethod
    def name(self) -> str:
        """The name on the command line: ``ab``, ``ab3``, ``sa:4``."""

    @property
    def needs_scores(self) -> bool:
        """Whether the predicted class alone cannot tell success."""
        return False

    @property
    def place(self) -> int:
        """The place of the class, among all but the reference, that the reference is compared with."""
        return 1

    def reference(self, labels: Int[Tensor, " N"], classes: int, chance: Chance | None = None) -> Int[Tensor, " N"]:
        """Return the class that each clip is led away from, or to."""
        return labels

    @abstractmethod
    def achieved(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Judge each clip by its logits."""

    @abstractmethod
    def margin(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return by how much the logits miss the goal: below zero where it holds, zero at the border, ties aside."""

    def loss(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return what gradient attacks descend, for each clip; the margin where a goal has nothing smoother."""
        return self.margin(logits, reference)

    def achieved_by_labels(self, predicted: Int[Tensor, " N"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Judge each clip by its predicted class alone."""
        return predicted != reference


def log_odds(logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"], place: int = 1) -> Float[Tensor, " N"]:
    """Return the reference class's logit over the log-sum-exp of the others, from the ``place``-th highest of them on.

    With the first it is ``log p / (1 - p)``, whose gradient points where that of the cross-entropy does, divided by
    ``1 - p``. The cross-entropy of a class that the victim is very sure of is flat to float32, and an attack that
    follows it stands still and calls the victim robust; the log-odds are never flat.

    Examples
    --------
    >>> log_odds(torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([0])).round()
    tensor([199.])
    >>> log_odds(torch.tensor([[200.0, 150.0, 0.0]]), torch.tensor([0]), place=2)
    tensor([200.])
    """
    own, others = _own_and_others(logits, reference, place)
    return own - others[:, place - 1 :].logsumexp(1)


def lead(logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"], place: int = 1) -> Float[Tensor, " N"]:
    """Return by how much the reference class's logit is above the ``place``-th highest of the others.

    Examples
    --------
    >>> lead(torch.tensor([[4.0, 3.0, 1.0], [4.0, 3.0, 1.0]]), torch.tensor([0, 2]))
    tensor([ 1., -3.])
    """
    own, others = _own_and_others(logits, reference, place)
    return own - others[:, place - 1]


def _own_and_others(logits: Tensor, reference: Tensor, place: int) -> tuple[Tensor, Tensor]:
    """The reference class's logit, and the others' from the highest down, of which there are to be so many."""
    if place >= logits.shape[1]:
        raise DataError(f"there are {logits.shape[1]} classes", hint=f"it takes {place + 1} to be {place} others")
    others = logits.scatter(1, reference[:, None], -torch.inf).sort(dim=1, descending=True).values
    return logits.gather(1, reference[:, None]).squeeze(1), others[:, :-1]


@dataclass(frozen=True)
class AnythingBut(Goal):
    """AB, untargeted: any class but the true one.

    References
    ----------
    Wang et al., "Understanding the Robustness of Skeleton-based Action Recognition under Adversarial Attack",
    CVPR 2021.

    Examples
    --------
    >>> AnythingBut().achieved(torch.tensor([[0.1, 0.9], [2.0, 1.0]]), torch.tensor([0, 0]))
    tensor([ True, False])
    """

    @property
    def name(self) -> str:
        return "ab"

    def achieved(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        return logits.argmax(1) != reference

    def margin(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return lead(logits, reference)

    def loss(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return log_odds(logits, reference)


@dataclass(frozen=True)
class AnythingButTop(Goal):
    """ABN, untargeted: the true class has left the n highest.

    The published loss compares logits with the uniform distribution. Here the odds of the true class against all but
    the n - 1 highest others are descended (`log_odds`). The margin over the n-th other, which is zero exactly where the
    goal begins to hold, looks at one class at a time, and trained victims withstood it on more clips.

    Parameters
    ----------
    n : int
        How many of the highest classes the true one must not be among; ``AnythingButTop(1)`` is `AnythingBut`.

    References
    ----------
    Wang et al., CVPR 2021 (goal ABN, n = 3 and 5).

    Examples
    --------
    >>> AnythingButTop(2).achieved(torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.9, 0.5]]), torch.tensor([0, 0]))
    tensor([ True, False])
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise DataError(f"goal ab{self.n}: the number of classes must be at least 1")

    @property
    def name(self) -> str:
        return f"ab{self.n}"

    @property
    def needs_scores(self) -> bool:
        return self.n > 1

    @property
    def place(self) -> int:
        return self.n

    def reference(self, labels: Int[Tensor, " N"], classes: int, chance: Chance | None = None) -> Int[Tensor, " N"]:
        if self.n >= classes:
            raise DataError(f"goal {self.name}: the victim knows only {classes} classes", hint="choose a smaller n")
        return labels

    def achieved(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        return self.margin(logits, reference) < 0

    def margin(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return lead(logits, reference, self.n)

    def loss(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return log_odds(logits, reference, self.n)

    def achieved_by_labels(self, predicted: Int[Tensor, " N"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        if self.needs_scores:
            raise DataError(f"goal {self.name} cannot be judged from labels alone", hint="give access to scores")
        return predicted != reference


@dataclass(frozen=True)
class Specified(Goal):
    """SA, targeted: one class chosen by the attacker.

    Parameters
    ----------
    target : int, optional
        The wanted class. None draws one for each clip, never the true one.

    References
    ----------
    Wang et al., CVPR 2021 (goal SA). Published code may draw the true class as the target; this does not.

    Examples
    --------
    >>> Specified(1).achieved(torch.tensor([[0.1, 0.9], [2.0, 1.0]]), torch.tensor([1, 1]))
    tensor([ True, False])
    """

    away: ClassVar[bool] = False
    target: int | None = None

    @property
    def name(self) -> str:
        return "sa" if self.target is None else f"sa:{self.target}"

    def reference(self, labels: Int[Tensor, " N"], classes: int, chance: Chance | None = None) -> Int[Tensor, " N"]:
        if self.target is None:
            if chance is None or classes < 2:
                raise DataError(f"goal sa: no class to draw among {classes}", hint="name one, as in sa:4")
            return (labels + 1 + chance.below(classes - 1)) % classes
        if not 0 <= self.target < classes:
            raise DataError(f"goal {self.name}: there is no class {self.target}", hint=f"classes are 0..{classes - 1}")
        return torch.full_like(labels, self.target)

    def achieved(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        return logits.argmax(1) == reference

    def margin(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return -lead(logits, reference)

    def loss(self, logits: Float[Tensor, "N K"], reference: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return -log_odds(logits, reference)

    def achieved_by_labels(self, predicted: Int[Tensor, " N"], reference: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        return predicted == reference


def parse(text: str, classes: tuple[str, ...] = ()) -> Goal:
    """Return the goal that the command line names: ``ab``, ``ab3``, ``sa``, ``sa:4`` or ``sa:walk``.

    Examples
    --------
    >>> parse("ab5"), parse("sa:jog", ("walk", "jog"))
    (AnythingButTop(n=5), Specified(target=1))
    """
    kind, colon, target = text.partition(":")
    if kind == "ab" and not colon:
        return AnythingBut()
    if kind.startswith("ab") and kind[2:].isdecimal() and len(kind) < 9 and not colon:
        return AnythingButTop(int(kind[2:]))
    if kind == "sa" and target in classes:
        return Specified(classes.index(target))
    if kind == "sa" and (not colon or (target.isdecimal() and len(target) < 9)):
        return Specified(int(target) if colon else None)
    if kind == "sa":
        raise DataError(f"goal {text!r}: no class is named {target!r}", hint=f"classes are {', '.join(classes)}")
    raise DataError(f"no goal is written {text!r}", hint="write ab, ab3, ab5, sa or sa:CLASS")
