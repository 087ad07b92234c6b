"""A hash of whatever decides a victim's answers: numbers, and the code that uses them."""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(*parts: Any) -> str:
    """Return a hash of values, tensors, modules, functions and objects made of them; the same in every process.

    A module is its class's code, its tensors (also those that are not saved) and its plain attributes; a function is
    its code, its defaults and what it closes over. What a function looks up among globals is not followed.

    Examples
    --------
    >>> fingerprint(lambda xyz: xyz) == fingerprint(lambda xyz: -xyz)
    False
    """
    digest = hashlib.sha256()
    for part in _told(parts, frozenset(), {}):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def _told(whole: Any, around: frozenset[int], classes: dict[type, list[bytes]]) -> Iterator[bytes]:
    """Everything of a value, as bytes, in the order in which it is met.

    ``around`` are the objects that it is part of, so that cycles end; ``classes`` is what was told of each class: a
    network has hundreds of modules of a few. One loop without calls, since a network has tens of thousands of values.
    """
    ahead: list[tuple[Any, frozenset[int]]] = [(whole, around)]
    met = []
    while ahead:
        value, within = ahead.pop()
        if id(value) in within:
            yield b"cycle"
            continue
        met.append(value)  # as long as an id stands for it, it has to be there
        within = within | {id(value)}
        parts: Sequence[Any] = ()
        if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.device):
            yield repr(value).encode()
        elif isinstance(value, bytes):
            yield value
        elif isinstance(value, Tensor):
            yield f"{value.dtype}{tuple(value.shape)}".encode()
            yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        elif isinstance(value, list | tuple):
            yield f"{len(value)}".encode()
            parts = value
        elif isinstance(value, types.CodeType):
            yield value.co_code + repr(value.co_names).encode()
            parts = [value.co_consts]
        elif isinstance(value, type):
            if value not in classes:
                named = sorted(vars(value).items(), key=itemgetter(0))
                methods = [(name, part) for name, part in named if isinstance(part, types.FunctionType)]
                classes[value] = list(_told((value.__qualname__, methods), within, classes))
            yield from classes[value]
        elif isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            parts = [(value.__code__, value.__defaults__, value.__kwdefaults__, cells)]
        elif isinstance(value, types.MethodType):
            parts = [(value.__func__, value.__self__)]
        elif isinstance(value, functools.partial):
            parts = [(value.func, value.args, value.keywords)]
        elif isinstance(value, Mapping):
            parts = [sorted(((str(key), item) for key, item in value.items()), key=itemgetter(0))]
        elif isinstance(value, Set):
            parts = [sorted(map(repr, value))]
        elif isinstance(value, nn.Module):
            own = {name: part for name, part in vars(value).items() if not name.startswith("_") and name != "training"}
            tensors = (dict(value.named_parameters(recurse=False)), dict(value.named_buffers(recurse=False)))
            parts = [(type(value), own, *tensors, dict(value.named_children()))]
        elif dataclasses.is_dataclass(value):
            parts = [(type(value), {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})]
        else:
            parts = [(type(value).__qualname__, getattr(value, "__dict__", {}))]
        ahead.extend((part, within) for part in reversed(parts))
