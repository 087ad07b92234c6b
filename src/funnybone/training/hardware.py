"""Where a training runs: one device by itself, or several and mixed precision by way of accelerate."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from funnybone.errors import DataError

Precision = Literal["fp32", "bf16"]


class Plain:
    """One device, float32."""

    rank, ranks = 0, 1
    precision: Precision = "fp32"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return nullcontext()

    def average(self, tensors: list[Tensor], share: float) -> None:
        """Replace tensors by their mean over all processes, where this one counts with its share; shares add up to one.

        A batch that does not divide evenly gives some processes more clips: a plain mean would count these for less.
        """

    def gathered(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return these tensors of every process, in the order of their ranks; all processes have to ask."""
        return [tensors]

    def wait(self) -> None:
        """Until all processes are here."""


class _Accelerated(Plain):
    """What accelerate has set up: a process for each device, bf16 where that is asked for."""

    def __init__(self, precision: Precision, cpu: bool) -> None:
        accelerate = _accelerate()
        self._accelerator = accelerate.Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=cpu)
        super().__init__(self._accelerator.device)
        self.precision = precision
        self.rank, self.ranks = self._accelerator.process_index, self._accelerator.num_processes

    def autocast(self) -> AbstractContextManager[Any]:
        return self._accelerator.autocast()

    def average(self, tensors: list[Tensor], share: float) -> None:
        # One message for all of them. Gradients are averaged here and not by a wrapper around the network, so that an
        # objective may call any part of it.
        if self.ranks == 1 or not tensors:
            return
        mean = self._accelerator.reduce(share * torch.cat([tensor.flatten() for tensor in tensors]), "sum")
        for tensor, part in zip(tensors, mean.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gathered(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        # As objects: processes with a clip more than others have longer tensors.
        own = {key: value.detach().cpu() for key, value in tensors.items()}
        return _accelerate().utils.gather_object([own])

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


def hardware(device: torch.device | str = "cpu", precision: Precision = "fp32") -> Plain:
    """Return what to train on; under ``torchrun`` this process's share of all devices.

    Raises
    ------
    DataError
        When accelerate is needed and not installed.

    Examples
    --------
    >>> hardware().ranks
    1
    """
    several = processes() > 1
    if precision == "fp32" and not several:
        return Plain(device)
    return _Accelerated(precision, torch.device(device).type == "cpu")


def processes() -> int:
    """Return how many processes torchrun, or accelerate launch, has started."""
    import os

    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdigit() else 1


def _accelerate() -> Any:
    try:
        import accelerate
    except ImportError:
        raise DataError(
            "mixed precision and several devices need accelerate, which is not installed",
            hint="pip install 'funnybone[train]'",
        ) from None
    return accelerate
