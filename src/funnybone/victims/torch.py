"""A PyTorch module as a victim: labels, scores and gradients."""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.skeletons import Skeleton
from funnybone.victims.base import Victim
from funnybone.victims.fingerprint import fingerprint

if TYPE_CHECKING:
    from funnybone.models.weights import WeightsRecord


class TorchVictim(Victim):
    """A frozen copy of a module, in evaluation mode, with its preprocessing in front.

    The module that was handed in is left as it is: an attack neither trains it nor changes its mode, and training
    it further does not change the victim. No parameter gradients are computed, which saves a third of each
    backward pass.

    Parameters
    ----------
    module : torch.nn.Module
        Takes (N, M, T, V, C), returns (N, classes) logits.
    skeleton : Skeleton
        The V joints that it expects.
    classes : sequence of str, or int
        Class names, or how many classes there are.
    preprocess : callable, optional
        A differentiable function of (N, M, T, V, C) in metres, applied before the module.
    name : str, optional
        How tables call it.
    frames, persons, up, unit : optional
        The clips that it was trained on: length, person slots, vertical axis, unit. Clips that differ in the last
        three are refused.
    defense : str, optional
        What hardened it.
    stochastic : bool
        Whether it draws: two answers to one question can differ. Draws of torch's global generator are repeatable.
    compile : bool or str
        Whether the module runs as `torch.compile` makes it, or the name of a backend of that in place of its own, which
        needs a C++ compiler. Measure whether it pays: on processors these networks are often faster as they are, and
        the first answer takes up to minutes. One compilation serves batches of all sizes, but a batch of one clip,
        another length, questions without a gradient and mixed precision have their own. The preprocessing runs as it
        is, and a gradient cannot be differentiated again. The fingerprint is the plain victim's: answers differ by
        rounding.
    record : WeightsRecord, optional
        What a weights file says of it, which a victim needs that is to be written to one.

    Raises
    ------
    DataError
        At the first question, where the module cannot be compiled on this machine.

    Examples
    --------
    >>> import funnybone as fb
    >>> module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1 * 4 * 17 * 3, 2))
    >>> victim = fb.TorchVictim(module, skeleton=fb.skeletons.COCO17, classes=("walk", "jog"))
    >>> victim.logits(torch.zeros(5, 1, 4, 17, 3)).shape
    torch.Size([5, 2])
    """

    access = "gradients"

    def __init__(
        self,
        module: nn.Module,
        *,
        skeleton: Skeleton,
        classes: tuple[str, ...] | list[str] | int,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        name: str | None = None,
        frames: int | None = None,
        persons: int | None = None,
        up: str | None = None,
        unit: str | None = None,
        defense: str | None = None,
        stochastic: bool = False,
        compile: bool | str = False,
        record: "WeightsRecord | None" = None,
    ) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.preprocess = preprocess
        self.skeleton = skeleton
        self.classes = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
        self.name = name or type(module).__name__
        self.frames, self.persons, self.up, self.unit = frames, persons, up, unit
        self.defense, self.stochastic, self.compile = defense, stochastic, compile
        self.record = record
        self.exact_gradients = getattr(module, "exact_gradients", True)
        self.parameters = sum(parameter.numel() for parameter in module.parameters())

    @property
    def device(self) -> torch.device:
        """Where the module's weights are."""
        return next((tensor.device for tensor in self.module.state_dict().values()), torch.device("cpu"))

    def to(self, device: torch.device | str) -> "TorchVictim":
        """Return the victim on a device."""
        moved = copy.copy(self)
        moved.module = copy.deepcopy(self.module).to(device)
        return moved

    @property
    def fingerprint(self) -> str:
        """Hash of the module's code and weights, the preprocessing and the classes."""
        return fingerprint(self.module, self.preprocess, self.classes, self.skeleton)

    def logits(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N K"]:
        answer = self._compiled_answer if self.compile else self.module
        logits = answer(xyz if self.preprocess is None else self.preprocess(xyz))
        if not isinstance(logits, Tensor) or logits.shape != (len(xyz), len(self.classes)):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise DataError(
                f"victim {self.name!r} returned {got} for {len(xyz)} clips",
                hint=f"the module must return logits of shape (N, {len(self.classes)})",
            )
        return logits

    def _compiled_answer(self, xyz: Tensor) -> Any:
        xyz = xyz.view_as(xyz)  # which is ours to mark
        torch._dynamo.maybe_mark_dynamic(xyz, 0)
        try:
            return self._compiled(xyz)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise DataError(
                f"victim {self.name!r} cannot be compiled: {(str(error).splitlines() or [type(error).__name__])[0]}",
                hint="torch.compile needs a C++ compiler, such as g++; leave compile out where there is none",
            ) from error

    @cached_property
    def _compiled(self) -> Callable[[Tensor], Any]:
        module = self.module

        def forward(xyz: Tensor) -> Any:
            return module(xyz)

        # Torch counts compilations by code object and stops after eight: victims must not share one.
        forward.__code__ = forward.__code__.replace()
        backend = self.compile if isinstance(self.compile, str) else "inductor"
        return torch.compile(forward, backend=backend)

    def __getstate__(self) -> dict[str, Any]:
        # What is compiled can neither be pickled nor follow the module to another device.
        return {name: value for name, value in vars(self).items() if name != "_compiled"}
