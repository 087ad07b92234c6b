"""A hash of whatever decides a victim's answers: numbers, and the code that uses them."""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping, Set
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
    for part in _bytes(parts, frozenset()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def _bytes(value: Any, within: frozenset[int]) -> Iterator[bytes]:
    """Everything of a value, as bytes; ``within`` are the objects that it is part of, so that cycles end."""
    if id(value) in within:
        yield b"cycle"
        return
    within = within | {id(value)}
    if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.device):
        yield repr(value).encode()
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, types.CodeType):
        yield value.co_code + repr(value.co_names).encode()
        yield from _bytes(value.co_consts, within)
    elif isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        yield from _bytes((value.__code__, value.__defaults__, value.__kwdefaults__, cells), within)
    elif isinstance(value, types.MethodType):
        yield from _bytes((value.__func__, value.__self__), within)
    elif isinstance(value, functools.partial):
        yield from _bytes((value.func, value.args, value.keywords), within)
    elif isinstance(value, type):
        methods = [(name, part) for name, part in sorted(vars(value).items()) if isinstance(part, types.FunctionType)]
        yield from _bytes((value.__qualname__, methods), within)
    elif isinstance(value, Mapping):
        yield from _bytes(sorted(((str(key), item) for key, item in value.items()), key=lambda pair: pair[0]), within)
    elif isinstance(value, Set):
        yield from _bytes(sorted(map(repr, value)), within)
    elif isinstance(value, list | tuple):
        yield f"{len(value)}".encode()
        for item in value:
            yield from _bytes(item, within)
    elif isinstance(value, nn.Module):
        own = {name: part for name, part in vars(value).items() if not name.startswith("_") and name != "training"}
        tensors = (dict(value.named_parameters(recurse=False)), dict(value.named_buffers(recurse=False)))
        yield from _bytes((type(value), own, *tensors, dict(value.named_children())), within)
    elif dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        yield from _bytes((type(value), fields), within)
    else:
        yield from _bytes((type(value).__qualname__, getattr(value, "__dict__", {})), within)
