"""A hash of whatever decides a victim's answers: numbers, and the code that uses them."""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping, Sequence, Set
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
    network has hundreds of modules of a few. A loop, since a network has tens of thousands of values.
    """
    ahead, met = [(whole, around)], []
    while ahead:
        value, within = ahead.pop()
        if id(value) in within:
            yield b"cycle"
            continue
        met.append(value)  # as long as an id stands for it, it has to be there
        own, parts = _opened(value)
        yield from own
        within = within | {id(value)}
        if isinstance(value, type):
            if value not in classes:
                classes[value] = list(_told(parts[0], within, classes))
            yield from classes[value]
        else:
            ahead.extend((part, within) for part in reversed(parts))


def _opened(value: Any) -> tuple[tuple[bytes, ...], Sequence[Any]]:
    """What is told of a value itself, and the values that it is made of."""
    if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.device):
        return (repr(value).encode(),), ()
    if isinstance(value, bytes):
        return (value,), ()
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return (f"{value.dtype}{tuple(value.shape)}".encode(), numbers), ()
    if isinstance(value, list | tuple):
        return (f"{len(value)}".encode(),), value
    if isinstance(value, types.CodeType):
        return (value.co_code + repr(value.co_names).encode(),), [value.co_consts]
    return (), [_described(value)]


def _described(value: Any) -> Any:
    """A value in simpler ones."""
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return value.__code__, value.__defaults__, value.__kwdefaults__, cells
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, type):
        methods = [(name, part) for name, part in sorted(vars(value).items()) if isinstance(part, types.FunctionType)]
        return value.__qualname__, methods
    if isinstance(value, Mapping):
        return sorted(((str(key), item) for key, item in value.items()), key=lambda pair: pair[0])
    if isinstance(value, Set):
        return sorted(map(repr, value))
    if isinstance(value, nn.Module):
        own = {name: part for name, part in vars(value).items() if not name.startswith("_") and name != "training"}
        tensors = (dict(value.named_parameters(recurse=False)), dict(value.named_buffers(recurse=False)))
        return type(value), own, *tensors, dict(value.named_children())
    if dataclasses.is_dataclass(value):
        return type(value), {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return type(value).__qualname__, getattr(value, "__dict__", {})
