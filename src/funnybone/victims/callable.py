"""Any function as a victim: labels, or scores."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from funnybone.errors import DataError
from funnybone.skeletons import Skeleton
from funnybone.victims.access import Access
from funnybone.victims.base import Victim


class CallableVictim(Victim):
    """A function that classifies clips, seen from outside.

    Parameters
    ----------
    function : callable
        Takes (N, M, T, V, C) and returns (N,) integer labels where ``access`` is "labels", (N, classes) logits
        where it is "scores".
    skeleton : Skeleton
        The V joints that it expects.
    classes : sequence of str, or int
        Class names, or how many classes there are.
    access : {"labels", "scores"}
        What the function answers.
    name : str, optional
        How tables call it, and what its results are filed under: nothing else is known of a function, so give
        another name when it changes.
    frames : int, optional
        The clip length that it takes.
    stochastic : bool
        Whether two answers to one question can differ.

    Examples
    --------
    >>> import funnybone as fb
    >>> tall = fb.CallableVictim(lambda xyz: (xyz[..., 1].amax((1, 2, 3)) > 1.7).long(),
    ...                          skeleton=fb.skeletons.COCO17, classes=("short", "tall"))
    >>> tall.labels(torch.full((1, 1, 4, 17, 3), 2.0))
    tensor([1])
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        skeleton: Skeleton,
        classes: tuple[str, ...] | list[str] | int,
        access: Access = "labels",
        name: str | None = None,
        frames: int | None = None,
        stochastic: bool = False,
    ) -> None:
        if access not in ("labels", "scores"):
            raise DataError(f"a function cannot offer {access!r}", hint="use TorchVictim for gradients")
        self.function = function
        self.skeleton = skeleton
        self.classes = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
        self.access = access
        self.frames, self.stochastic = frames, stochastic
        self.name = name or str(getattr(function, "__qualname__", type(function).__name__))

    @property
    def fingerprint(self) -> str:
        """The name, the classes and the access; a function has no content to hash."""
        return f"callable:{self.name}:{self.access}:{'/'.join(self.classes)}"

    def _ask(self, xyz: Tensor, shape: tuple[int, ...]) -> Tensor:
        with torch.no_grad():
            answer = torch.as_tensor(self.function(xyz.detach()))
        if answer.shape != shape:
            raise DataError(
                f"victim {self.name!r} returned shape {tuple(answer.shape)} for {len(xyz)} clips",
                hint=f"with access {self.access!r} the function must return shape {shape}",
            )
        return answer

    def logits(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N K"]:
        if self.access != "scores":
            raise DataError(f"victim {self.name!r} offers labels, not scores")
        return self._ask(xyz, (len(xyz), len(self.classes))).to(xyz.dtype)

    def labels(self, xyz: Float[Tensor, "N M T V C"]) -> Int[Tensor, " N"]:
        if self.access == "scores":
            return self.logits(xyz).argmax(1)
        return self._ask(xyz, (len(xyz),)).long()
