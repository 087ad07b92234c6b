"""An upper bound on what building a network may take, for networks that somebody's file describes."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from funnybone.errors import DataError

SLACK = 64 * 2**20  # bytes for what no file holds: graphs, and what building them takes
# Where a constructor's tensors come from; every other operation starts from tensors that are there.
_FACTORIES = frozenset(
    (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye, torch.arange, torch.linspace)
)


class Allowance(TorchFunctionMode):
    """While it is active, tensors are made from nothing up to so many bytes in all; the next is refused before that.

    A network that a file's tensors fit takes about as much memory as they do. One of a few numbers in the file can ask
    for a thousand times more, and for that the file should not be believed.

    Parameters
    ----------
    tensors : iterable of Tensor
        Of the file.

    Raises
    ------
    DataError
        For the tensor that goes beyond it.

    Examples
    --------
    >>> with Allowance([torch.zeros(3)]):
    ...     torch.zeros(2**30)
    Traceback (most recent call last):
    ...
    funnybone.errors.DataError: it describes a network of more than 64 MiB, and holds 12 bytes of tensors; ...
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        tensors = list(tensors)
        self.held = sum(nbytes(tensor) for tensor in tensors)
        # In double precision, whatever the file's, and once more for what initialisation puts beside them.
        self.limit = SLACK + 16 * sum(tensor.numel() for tensor in tensors)
        self.used = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FACTORIES:
            self.used += nbytes(_without_memory(func, *args, **kwargs))
            if self.used > self.limit:
                raise DataError(
                    f"it describes a network of more than {described(self.limit)}, and holds {described(self.held)} of "
                    "tensors",
                    hint="its options, or the tensors' shapes, are not those of the network that was saved",
                )
        return func(*args, **kwargs)


def _without_memory(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """What a factory would make, of the same size and type, in no memory."""
    kwargs["device"] = "meta"
    if func is torch.eye:  # by itself it would import torch's compiler, which takes longer than any network
        return _empty_square(*args, **kwargs)
    return func(*args, **kwargs)


def _empty_square(n: int, m: int | None = None, **kwargs: Any) -> Tensor:
    return torch.empty(n, n if m is None else m, **kwargs)


def nbytes(tensor: Tensor) -> int:
    """Bytes of all of a tensor's elements, also of those that are one place in memory.

    Examples
    --------
    >>> nbytes(torch.zeros(1).expand(1000))
    4000
    """
    return math.prod(tensor.shape) * tensor.element_size()


def described(size: int) -> str:
    """A number of bytes in words.

    Examples
    --------
    >>> described(12), described(3 * 2**30)
    ('12 bytes', '3.0 GiB')
    """
    power = max(0, (max(size, 1).bit_length() - 1) // 10)
    if not power:
        return f"{size} bytes"
    unit = ("KiB", "MiB", "GiB", "TiB")[min(power, 4) - 1]
    amount = size / 2 ** (10 * min(power, 4))
    return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
