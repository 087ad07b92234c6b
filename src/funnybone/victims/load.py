"""Find the victim that a name, a weights file, a repository or ``package.module:function`` means."""

import importlib
from pathlib import Path
from typing import Any

from torch import nn

from funnybone.errors import DataError
from funnybone.models import hub, names
from funnybone.models.weights import list_packaged, packaged
from funnybone.skeletons import Skeleton
from funnybone.victims.base import Victim
from funnybone.victims.files import load_victim
from funnybone.victims.torch import TorchVictim

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".tar", ".bin")  # what torch.save's files are called


def create_victim(
    source: str | Path,
    *,
    data: str | None = None,
    device: str = "cpu",
    skeleton: Skeleton | None = None,
    classes: tuple[str, ...] | None = None,
    compile: bool | str = False,
) -> Victim:
    """Return a victim.

    Parameters
    ----------
    source : str or Path
        A packaged victim (``"stgcn"`` with ``data="synthetic"``, or ``"stgcn.synthetic"``), a weights file that
        ``funnybone train``, ``funnybone harden`` or ``funnybone models import`` wrote, such a file on a Hugging Face
        hub (``"hub:owner/name"``, or ``"hub:owner/name@revision"``), or ``"package.module:function"`` that returns a
        victim or a ``torch.nn.Module``.
    data : str, optional
        The data set that a packaged victim was trained on.
    device : str
        Where its weights go.
    skeleton, classes : optional
        Of the data, for a function that returns a bare module.
    compile : bool or str
        Whether `torch.compile` makes it faster: see `TorchVictim`.

    Raises
    ------
    DataError
        When nothing is found there, the file is not a weights file, or the function fails; and for a function that
        returns a victim, when that is to be compiled.

    Examples
    --------
    >>> import funnybone as fb
    >>> fb.create_victim("stgcn", data="synthetic")
    TorchVictim('stgcn.synthetic', 14 classes, gradients)
    """
    text = str(source)
    if text.startswith(hub.PREFIX):
        return _from_hub(text, device, compile)
    if ":" in text and not Path(text).exists():
        return _from_function(text, device, skeleton, classes, compile)
    path = Path(text).expanduser()
    name = f"{text}.{data}" if data and "." not in text else text
    if name in list_packaged():
        path = packaged(name)
    elif not path.exists():
        raise _nothing_there(text, data)
    elif path.is_file() and path.suffix.lower() == ".onnx" and not _is_weights(path):
        raise DataError(
            f"{path}: an ONNX network, which cannot be loaded as a victim",
            hint="write a function that returns fb.CallableVictim around onnxruntime's session.run, access='scores', "
            "and name it: package.module:function",
        )
    elif _is_checkpoint(path):
        raise DataError(
            f"{path}: a checkpoint does not say which joints, classes and preprocessing it was trained with",
            hint=f"make a victim of it: {_import(str(path))}",
        )
    return load_victim(path, path.stem, device=device, compile=compile)


def _is_checkpoint(path: Path) -> bool:
    """Whether a file is one of torch.save's, by how it begins; of weights files, which can have any name, none is."""
    head = _head(path)
    odd = head[:1] == b"\x80" or path.suffix.lower() in CHECKPOINTS
    return path.is_file() and (head.startswith(b"PK\3\4") or (odd and not _is_weights(path)))


def _is_weights(path: Path) -> bool:
    """Whether a file begins as safetensors do."""
    return _head(path)[8:] == b"{"  # behind the length of the header


def _head(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(9)


def _nothing_there(text: str, data: str | None) -> DataError:
    """What to say of a name that is no victim's: what there is, and how to get what there is not."""
    model, _, named = text.partition(".")
    if model not in names():
        known = ", ".join(list_packaged())
        return DataError(
            f"victim {text!r}: neither a packaged victim nor a file",
            hint=f"packaged are {known}; write package.module:function for your own, or train one",
        )
    own = [name for name in list_packaged() if name.startswith(f"{model}.")]
    there, data = ", ".join(own or list_packaged()), named or data
    if own and not data:
        said = f"the data that it was trained on are missing; packaged are {there}"
    else:
        said = f"no weights of {model}{f' for data {data!r}' if data else ''} come with funnybone, only {there}"
    return DataError(
        f"victim {text!r}: {said}",
        hint=f"name one of these; or train one, funnybone train {model} --data DATA --out FILE, or import one, "
        f"{_import('CHECKPOINT')}, and name that FILE",
    )


def _import(checkpoint: str) -> str:
    return f"funnybone models import {checkpoint} --skeleton NAME --classes FILE --preprocess NAME --out FILE"


def _from_hub(text: str, device: str, compile: bool | str) -> Victim:
    repo, revision = hub.parse(text)
    path = hub.fetch(repo, revision)
    try:
        return load_victim(path, text.removeprefix(hub.PREFIX), device=device, compile=compile)
    except DataError as error:  # which names a file of the cache, that the user has not heard of
        raise DataError(f"victim {text!r}: {str(error).replace(str(path), path.name)}") from None


def _from_function(
    text: str, device: str, skeleton: Skeleton | None, classes: tuple[str, ...] | None, compile: bool | str
) -> Victim:
    made = _called(text)
    if isinstance(made, Victim) and compile:
        raise DataError(f"victim {text!r} returned a victim, which is as it is", hint="give it compile=True there")
    if isinstance(made, Victim):
        return made
    if not isinstance(made, nn.Module):
        raise DataError(f"victim {text!r} returned {type(made).__name__}", hint="return a victim or a torch.nn.Module")
    if skeleton is None or classes is None:
        raise DataError(f"victim {text!r} returned a bare module", hint="return fb.TorchVictim, or name the data")
    name = text.partition(":")[2]
    return TorchVictim(made, skeleton=skeleton, classes=classes, name=name, compile=compile).to(device)


def _called(text: str) -> Any:
    """What the function that ``package.module:function`` means returns."""
    module_name, _, function_name = text.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # whatever a user's module does when it is imported
        raise DataError(
            f"victim {text!r}: {_described(error)}", hint="write package.module:function, importable from here"
        ) from error
    if not callable(function):
        raise DataError(
            f"victim {text!r} is {type(function).__name__}, not a function",
            hint="name a function without arguments that returns a victim or a torch.nn.Module",
        )
    try:
        return function()
    except Exception as error:
        raise DataError(f"victim {text!r} failed: {_described(error)}", hint="--debug shows where") from error


def _described(error: Exception) -> str:
    """The error in words, with its kind unless it is one that says what cannot be found."""
    known = isinstance(error, ImportError | AttributeError | DataError)
    return str(error) if known and str(error) else f"{type(error).__name__}: {error}".removesuffix(": ")
