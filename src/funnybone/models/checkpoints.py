"""Checkpoints that authors published, ``.pt`` and ``.pth``: which network they are of, and loading them exactly."""

import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models.allowance import Allowance, described, nbytes
from funnybone.models.registry import Model, from_arguments, models
from funnybone.models.weights import check_plain, check_state, first_line
from funnybone.skeletons import NTU25, Skeleton

# What training frameworks put in front of each key, and the entry under which they keep the tensors.
_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "weights")
_ARCHIVE = b"PK\3\4"  # how a zip file begins, by which torch tells it
_DEEPEST = 4  # entries within entries
_SHOWN = 4  # keys that an error lists
# What an unusual file provokes in a family's reading of it; `Exception` would hide mistakes of ours.
_PROVOKED = (KeyError, IndexError, TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError)


def load_checkpoint(
    path: Path | str, *more: Path | str, skeleton: Skeleton = NTU25, family: str | None = None, **options: Any
) -> Model:
    """Rebuild a network from a checkpoint of its authors' code, in evaluation mode. Nothing is unpickled but tensors.

    The family, the number of classes and the widths are read off the keys and shapes. A checkpoint holds no joint names
    and, in most families, no graph: the skeleton is for the caller to say. Nor does it hold preprocessing:
    `import_checkpoint` writes a weights file that has all of it, and is a victim.

    Parameters
    ----------
    path : Path or str
        A file that ``torch.save`` wrote (a state dict, or a dictionary with one inside), or safetensors.
    *more : Path or str
        Other files of the same network: AS-GCN's code writes two.
    skeleton : Skeleton
        The joints that it was trained on.
    family : str, optional
        Name of the model, where the keys alone do not say it.
    **options
        What shapes do not tell: ``persons`` of networks that share their statistics, ``graph="ntu25"``, ...

    Returns
    -------
    Model

    Raises
    ------
    DataError
        Naming the file: not a checkpoint, one that holds other objects than tensors, or more than it has bytes for, no
        family's keys, keys missing or left over, or shapes of another skeleton.

    Examples
    --------
    >>> import tempfile
    >>> from funnybone.models import create
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     state = {f"module.{key}": value for key, value in create("stgcn", width=4).state_dict().items()}
    ...     torch.save({"epoch": 3, "state_dict": state}, f"{folder}/epoch3.pt")
    ...     type(load_checkpoint(f"{folder}/epoch3.pt")).__name__
    'STGCN'
    """
    return recognise(path, *more, skeleton=skeleton, family=family, **options)[2]


def recognise(
    path: Path | str, *more: Path | str, skeleton: Skeleton = NTU25, family: str | None = None, **options: Any
) -> tuple[str, dict[str, Any], Model]:
    """Return the family of a checkpoint, what its constructor was given but for skeleton and classes, and the network.

    See `load_checkpoint`.
    """
    path, state = _united([Path(name).expanduser() for name in (path, *more)])
    name, arguments, own = _recognised(path, state, family)
    _check_joints(path, name, arguments, skeleton)
    arguments = {key: value for key, value in arguments.items() if key != "joints"} | options
    try:
        with Allowance(own.values()):
            network = from_arguments(name, {**arguments, "skeleton": skeleton}).eval()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except _PROVOKED as error:  # by sizes that no network of the family has
        raise DataError(f"{path}: no {name} has such sizes: {first_line(error)}") from None
    wanted = network.state_dict()
    # Checkpoints of the years before PyTorch counted batches do not have the counts; nothing in evaluation uses them.
    counts = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    own = {**counts, **own}
    check_state(path, own, wanted, name)
    network.load_state_dict(own)
    arguments = {key: value for key, value in arguments.items() if key != "num_classes"}
    return name, {**arguments, "persons": network.persons}, network.float()


def _united(paths: list[Path]) -> tuple[Path, dict[str, Tensor]]:
    """The tensors of all files, and the name by which errors call them."""
    state: dict[str, Tensor] = {}
    for path in paths:
        part = _stripped(_tensors(path))
        if both := sorted(state.keys() & part.keys()):
            raise DataError(
                f"{path}: {both[0]!r} is in another of the files too", hint="give files that are parts of one network"
            )
        state |= part
    return Path(" + ".join(map(str, paths))), state


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="give a checkpoint, .pt or .pth")
    _check_stored(path)
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "it holds other objects")
        raise DataError(
            f"{path}: not tensors alone: {reason.strip()[:200]}",
            hint="loading it could run code; where it was made, write torch.save(model.state_dict(), ...)",
        ) from None
    except Exception as error:  # whatever odd bytes provoke in torch's reader
        raise DataError(
            f"{path}: not a checkpoint, cut or damaged ({first_line(error)[:200]})", hint="copy it again"
        ) from None
    state = _state_of(found)
    if state is None:
        what = (
            f"entries {', '.join(str(key)[:40] for key in list(found)[:_SHOWN])}"
            if isinstance(found, Mapping)
            else type(found).__name__
        )
        raise DataError(f"{path}: no state dict ({what})", hint="write torch.save(model.state_dict(), ...)")
    _check_tensors(path, state)
    return state


def _state_of(found: object, depth: int = 0) -> dict[str, Tensor] | None:
    """The tensors of an entry that frameworks keep them under; of the whole, only where there is none.

    Beside their entry some codes save other tensors: the best accuracy, an optimiser's.
    """
    if not isinstance(found, Mapping) or depth > _DEEPEST:  # a file's entries can go in circles
        return None
    inside: Iterator[dict[str, Tensor] | None] = (_state_of(found.get(name), depth + 1) for name in _ENTRIES)
    named = next((state for state in inside if state), None)
    return named or {str(key): value for key, value in found.items() if isinstance(value, Tensor)} or None


def _check_stored(path: Path) -> None:
    """Raise `DataError` for an archive that would be larger in memory than it is as a file."""
    with path.open("rb") as file:
        if file.read(4) != _ARCHIVE or path.suffix == ".safetensors":
            return
    size = path.stat().st_size
    try:
        if not _ends_in_directory(path, size):
            raise zipfile.BadZipFile("its list of contents is not at its end")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise DataError(
            f"{path}: not a checkpoint, cut or damaged ({first_line(error)[:200]})", hint="copy it again"
        ) from None
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    total = sum(max(member.file_size, member.compress_size) for member in members)
    if packed or total > size:
        why = f"{packed[0][:100]!r} is compressed" if packed else f"its parts say that they hold {described(total)}"
        raise DataError(
            f"{path}: not a checkpoint as torch.save writes it: {why}",
            hint="load it where it is trusted, and save anew",
        )


def _ends_in_directory(path: Path, size: int) -> bool:
    """Whether an archive's directory is what it ends in, with nothing between that two readers could read differently.

    What Python's reader finds must be what torch's own will find.
    """
    with path.open("rb") as file:
        file.seek(max(0, size - 98))
        tail = file.read()
    mark, _, _, _, entries, length, start, comment = struct.unpack("<4s4H2LH", tail[-22:])
    end = size - 22
    if tail[-42:-38] == b"PK\6\7":  # the form for large files, which torch.save always writes
        end = size - 98
        (at,) = struct.unpack("<Q", tail[-34:-26])
        if tail[:4] != b"PK\6\6" or at != end:
            return False
        wide = struct.unpack("<QQQ", tail[32:56])
        narrow = zip((entries, length, start), wide, (2**16 - 1, 2**32 - 1, 2**32 - 1), strict=True)
        if any(small not in (large, most) for small, large, most in narrow):
            return False
        _, length, start = wide
    return mark == b"PK\5\6" and comment == 0 and start + length == end


def _check_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise `DataError` unless each tensor is numbers, and has them in the file."""
    for key, value in state.items():
        check_plain(path, key, value)
        if not value.numel():
            raise DataError(
                f"{path}: tensor {key!r} is empty, {tuple(value.shape)}", hint="the file is cut, or of other code"
            )
    total, size = sum(map(nbytes, state.values())), path.stat().st_size
    if total > size:
        largest = max(state, key=lambda key: nbytes(state[key]))
        raise DataError(
            f"{path}: its tensors say that they hold {described(total)}, {largest!r} the most; the file has "
            f"{described(size)}",
            hint="save contiguous tensors",
        )


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what training frameworks put in front of every key."""
    for prefix in _PREFIXES * 2:  # some wrap twice
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


class _Read(dict[str, Tensor]):
    """A state dict that remembers which of its tensors somebody looked at."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(state)
        self.looked_at: dict[str, None] = {}

    def __getitem__(self, key: str) -> Tensor:
        self.looked_at[key] = None
        return super().__getitem__(key)

    def shapes(self) -> str:
        return ", ".join(f"{key} {tuple(self[key].shape)}" for key in list(self.looked_at))


def _recognised(
    path: Path, state: dict[str, Tensor], family: str | None
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    # A family that extends another is asked before it: it knows its own.
    known = sorted(models.names(), key=lambda name: -len(models[name].__mro__))
    for name in [family] if family is not None else known:
        read = _Read(state)
        try:
            found = models[name].from_authors(read)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except KeyError as error:
            raise DataError(
                f"{path}: tensor {error.args[0]!r} is missing; {name} needs it",
                hint="the file is cut, or of another version of the code",
            ) from None
        except _PROVOKED:
            raise DataError(
                f"{path}: no {name} has tensors of such shapes: {read.shapes()}",
                hint="the file is cut, or of another version of the code",
            ) from None
        if found is not None:
            return name, found[0], dict(found[1])
    keys = ", ".join(key[:100] for key in sorted(state)[:_SHOWN])
    if family is not None:
        raise DataError(f"{path}: not a checkpoint of {family}; its keys are {keys}, ...", hint="leave the family open")
    raise DataError(
        f"{path}: the keys {keys}, ... are those of no model", hint=f"models are {', '.join(models.names())}"
    )


def _check_joints(path: Path, name: str, arguments: Mapping[str, int], skeleton: Skeleton) -> None:
    joints = arguments.get("joints", len(skeleton.joints))
    if joints != len(skeleton.joints):
        raise DataError(
            f"{path}: a {name} of {joints} joints, skeleton {skeleton.name} has {len(skeleton.joints)}",
            hint="give the skeleton that it was trained on, skeleton=...",
        )
