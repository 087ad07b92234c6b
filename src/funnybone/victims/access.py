"""What an attacker may ask of a victim. Access is a type, and every question is counted."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from funnybone.errors import DataError

if TYPE_CHECKING:
    from funnybone.victims.base import Victim

Access = Literal["nothing", "labels", "scores", "gradients"]
# Each offers what the ones before it offer. A victim offers labels at least; an attack may do without.
LEVELS: tuple[Access, ...] = ("nothing", "labels", "scores", "gradients")


class BudgetError(RuntimeError):
    """An attack asked more often than it was allowed to. A fault of the attack, not of the user."""


@dataclass
class Meter:
    """Counts what was asked on behalf of each clip, and refuses what goes over the budget.

    Parameters
    ----------
    clips : int
        How many clips are attacked together.
    budget : int, optional
        Most queries for each clip; a query answered with its gradient is one query. None: no limit.

    Attributes
    ----------
    queries, gradients : Int[Tensor, "N"]
        Forward passes, and those of them that also gave a gradient.

    Examples
    --------
    >>> meter = Meter(2, budget=3)
    >>> meter.charge(torch.tensor([0, 0, 1]))
    >>> meter.queries, meter.remaining()
    (tensor([2, 1]), tensor([1, 2]))
    """

    clips: int
    budget: int | None = None
    queries: Tensor = field(init=False)
    gradients: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 1:
            raise DataError(f"the query budget is {self.budget}", hint="allow at least 1 query")
        self.queries = torch.zeros(self.clips, dtype=torch.long)
        self.gradients = torch.zeros(self.clips, dtype=torch.long)

    def remaining(self) -> Int[Tensor, " N"]:
        """Queries left for each clip; the largest integer where there is no budget."""
        most = torch.iinfo(torch.long).max if self.budget is None else self.budget
        return most - self.queries

    def charge(self, rows: Int[Tensor, " B"], *, gradient: bool = False) -> None:
        """Count one query for each row of a batch; ``rows`` says which clip each belongs to."""
        asked = torch.bincount(rows.cpu(), minlength=self.clips)
        if bool((asked > self.remaining()).any()):
            raise BudgetError(f"the budget of {self.budget} queries a clip is spent")
        self.queries += asked
        if gradient:
            self.gradients += asked


class Nothing(Protocol):
    """No question at all."""

    def remaining(self, rows: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return how many queries each of these clips has left."""


class Labels(Nothing, Protocol):
    """The predicted class, and nothing else."""

    def labels(self, xyz: Float[Tensor, "B M T V C"], rows: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return the predicted class of each clip of a batch; ``rows`` says on whose account."""


class Scores(Labels, Protocol):
    """Also the logits, without a gradient."""

    def scores(self, xyz: Float[Tensor, "B M T V C"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B K"]:
        """Return the logits of each clip of a batch, detached."""


class Gradients(Scores, Protocol):
    """Also logits that can be differentiated with respect to positions."""

    def logits(self, xyz: Float[Tensor, "B M T V C"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B K"]:
        """Return logits on the autograd graph of ``xyz``."""


class _View:
    """Holds its victim in closures, so that an attack has no attribute that leads to more than it may ask."""

    def __init__(self, victim: "Victim", meter: Meter) -> None:
        self.remaining = lambda rows: meter.remaining()[rows.cpu()].to(rows.device)


class _LabelsView(_View):
    def __init__(self, victim: "Victim", meter: Meter) -> None:
        super().__init__(victim, meter)

        def labels(xyz: Tensor, rows: Tensor) -> Tensor:
            meter.charge(rows)
            with torch.no_grad():
                return victim.labels(xyz.detach())

        self.labels = labels


class _ScoresView(_LabelsView):
    def __init__(self, victim: "Victim", meter: Meter) -> None:
        super().__init__(victim, meter)

        def scores(xyz: Tensor, rows: Tensor) -> Tensor:
            meter.charge(rows)
            with torch.no_grad():
                return victim.logits(xyz.detach())

        self.scores = scores


class _GradientsView(_ScoresView):
    def __init__(self, victim: "Victim", meter: Meter) -> None:
        super().__init__(victim, meter)

        def logits(xyz: Tensor, rows: Tensor) -> Tensor:
            meter.charge(rows, gradient=True)
            return victim.logits(xyz)

        self.logits = logits


_VIEWS: dict[Access, type[_View]] = {
    "nothing": _View,
    "labels": _LabelsView,
    "scores": _ScoresView,
    "gradients": _GradientsView,
}


def offers(victim: "Victim", access: Access) -> bool:
    """Whether a victim answers questions of this kind."""
    return LEVELS.index(victim.access) >= LEVELS.index(access)


def view(victim: "Victim", access: Access, meter: Meter) -> _View:
    """Return a victim that answers questions of this kind and no more, each one metered.

    Raises
    ------
    DataError
        When the victim does not offer that much.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim = fb.CallableVictim(lambda xyz: xyz.mean((1, 2, 4)), skeleton=fb.skeletons.COCO17,
    ...                            classes=fb.skeletons.COCO17.joints, access="scores")
    >>> hasattr(view(victim, "labels", Meter(1)), "scores")
    False
    """
    if not offers(victim, access):
        raise DataError(
            f"the attack needs {access}, victim {victim.name!r} offers {victim.access}",
            hint=f"choose an attack that needs {' or '.join(LEVELS[: LEVELS.index(victim.access) + 1])}",
        )
    return _VIEWS[access](victim, meter)
