"""Weights files: safetensors whose one metadata entry says all that is needed to rebuild and to judge a victim."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import funnybone
from funnybone.errors import DataError
from funnybone.models.allowance import Allowance
from funnybone.models.preprocess import Preprocess
from funnybone.models.registry import Model, from_arguments
from funnybone.models.streams import Fused, check_streams
from funnybone.skeletons import Skeleton, known

ENTRY = "funnybone"
# Tensors that a defense keeps beside the victim's own.
DEFENSE_PREFIX = "defense."
# What a network's numbers can be stored as; the network has its own type.
_KINDS = (
    frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64)),
    frozenset((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)),
)
_SHOWN = 4  # keys that an error lists
_FOLDER = Path(__file__).parent / "weights"

Record = TypeVar("Record", bound=BaseModel)
Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SkeletonRecord(_Part):
    """The joints that the victim was trained on."""

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    centre: int
    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, skeleton: Skeleton) -> "SkeletonRecord":
        """Return the record of a skeleton."""
        fields = {name: getattr(skeleton, name) for name in cls.model_fields}
        return cls(**fields)

    def build(self) -> Skeleton:
        """Return the skeleton, the known one where it is one of `funnybone.skeletons`."""
        written = Skeleton(self.name, self.joints, self.parents, self.centre, self.pairs)
        found = known(self.joints, self.parents)
        return found if found == written else written


class DataRecord(_Part):
    """What the victim was trained on."""

    name: str
    split: str | None
    n: Count
    synthetic: bool
    sha256: str


class AccuracyRecord(_Part):
    """Accuracy on clean clips that were not trained on, with a Wilson 95 % interval."""

    value: Rate
    ci95: tuple[Rate, Rate]
    n: Count
    split: str | None


class SelectionRecord(_Part):
    """The clips that chose which epoch's weights were kept, and the epoch of each stream's network.

    ``share`` and ``seed`` are those with which `funnybone.training.hold_out` found them, where these are not the
    recipe's and the training's own: a network that is trained again keeps what the first training held out.
    """

    n: Count
    sha256: str
    epochs: dict[str, Count] = Field(default_factory=dict)
    share: Rate | None = None
    seed: Count | None = None


class WeightsRecord(_Part):
    """The metadata of a weights file.

    Parameters
    ----------
    model : str
        Name in the registry of models.
    options : dict
        Arguments of `funnybone.models.create` but for skeleton and classes: ``persons``, ``frames``, ...
    skeleton, classes, up, unit
        As in `funnybone.Clips`.
    preprocess : dict
        Fields of `Preprocess`.
    streams, fusion
        What the network is shown, and the weights of several networks' logits in their sum: see `models.Fused`.
    data, recipe, seed
        What it was trained on and how.
    start : str or None
        ``sha256`` of the weights that the training began from; None for a training from scratch.
    precision, processes
        Of the training: ``"fp32"`` or ``"bf16"``, and among how many each batch was divided; None where it is not said.
    selection : SelectionRecord or None
        None when the last epoch's weights were kept.
    accuracy : AccuracyRecord or None
        None when nobody measured it.
    licence : str
        Of the weights.
    defense : dict or None
        How it was hardened; tensors of the defense lie beside the network's under ``defense.``.
    sha256 : str or None
        Of the tensors; `save_weights` fills it in, and reading checks it where it is given.
    """

    format_version: Literal[1] = 1
    model: str
    options: dict[str, Any]
    skeleton: SkeletonRecord
    classes: tuple[str, ...]
    up: Literal["x", "y", "z"] = "y"
    unit: Literal["metre", "pixel", "normalised"] = "metre"
    preprocess: dict[str, Any] = Field(default_factory=dict)
    streams: tuple[str, ...] = ("joint",)
    fusion: tuple[float, ...] = (1.0,)
    data: DataRecord
    recipe: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    start: str | None = None
    precision: Literal["fp32", "bf16"] | None = None
    processes: Annotated[int, Field(ge=1)] | None = None
    selection: SelectionRecord | None = None
    accuracy: AccuracyRecord | None = None
    licence: str = "unknown"
    defense: dict[str, Any] | None = None
    created_by: str = f"funnybone {funnybone.__version__}"
    sha256: str | None = None

    def build(self) -> Model:
        """Return the network that the record describes, freshly initialised, in evaluation mode."""
        check_streams(self.streams)
        if self.streams == ("joint",):
            return self.network()
        return Fused({stream: self.network() for stream in self.streams}, self.fusion).eval()

    def network(self) -> Model:
        """Return the network of one stream, freshly initialised, in evaluation mode."""
        for name in ("skeleton", "num_classes"):
            if name in self.options:
                raise DataError(
                    f"options: {name} cannot be an option", hint="the record's own skeleton and classes say it"
                )
        own = {"skeleton": self.skeleton.build(), "num_classes": len(self.classes)}
        return from_arguments(self.model, {**own, **self.options}).eval()

    def build_preprocess(self) -> Preprocess:
        """Return the victim's preprocessing."""
        preprocess = Preprocess.from_dict(self.preprocess)
        preprocess.check(self.skeleton.build())
        return preprocess


def save_weights(
    path: Path | str, module: torch.nn.Module, record: WeightsRecord, defense: Mapping[str, Tensor] | None = None
) -> WeightsRecord:
    """Write a weights file; a reader sees the old file or the whole new one, never a part.

    Parameters
    ----------
    path : Path or str
        Usually ``MODEL.DATA.safetensors``.
    module : torch.nn.Module
        Its ``state_dict()`` is stored under its own keys.
    record : WeightsRecord
        What the weights are.
    defense : mapping of str to Tensor, optional
        Further tensors of a defense; ``record.defense`` must say what they are.

    Returns
    -------
    WeightsRecord
        The record as written, with the hash of the tensors.

    Raises
    ------
    DataError
        For tensors that are not finite, and where the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from funnybone.models import create
    >>> from funnybone.skeletons import NTU25
    >>> nothing = DataRecord(name="none", split=None, n=0, synthetic=True, sha256="")
    >>> skeleton = SkeletonRecord.of(NTU25)
    >>> record = WeightsRecord(model="stgcn", options={"width": 4}, skeleton=skeleton, classes=("a", "b"), data=nothing)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_weights(f"{folder}/stgcn.none.safetensors", create("stgcn", num_classes=2, width=4), record)
    ...     module, again = load_weights(f"{folder}/stgcn.none.safetensors")
    >>> again.classes
    ('a', 'b')
    """
    if defense and record.defense is None:
        raise DataError(f"{path}: tensors of a defense, but the record names none", hint="set record.defense")
    tensors = dict(module.state_dict())
    tensors |= {DEFENSE_PREFIX + key: value for key, value in (defense or {}).items()}
    stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    for key, value in stored.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise DataError(
                f"{path}: not written: tensor {key!r} holds NaN or infinity",
                hint="the training diverged; lower the learning rate (--lr)",
            )
    record = record.model_copy(update={"sha256": digest(stored)})
    write_tensors(Path(path), stored, record)
    return record


def load_weights(path: Path | str) -> tuple[Model, WeightsRecord]:
    """Rebuild a network from its weights file, in evaluation mode. Nothing is unpickled.

    Raises
    ------
    DataError
        Naming the file and the field: not there, not safetensors, cut or damaged, no or a wrong record, unknown model,
        tensors missing, left over, of another shape or type, or not finite.
    """
    path = Path(path)
    record, tensors = read_tensors(path, WeightsRecord)
    own = {key: value for key, value in tensors.items() if not key.startswith(DEFENSE_PREFIX)}
    try:
        with Allowance(own.values()):  # a record of a thousand bytes can describe a network of a thousand gigabytes
            module = record.build()
        record.build_preprocess()
    except (
        TypeError,
        ValueError,
        RuntimeError,
        ArithmeticError,
        MemoryError,
    ) as error:  # DataError, or whatever an odd option provokes in torch
        raise DataError(f"{path}: the record builds no victim: {first_line(error)}") from None
    if record.defense is None and any(key.startswith(DEFENSE_PREFIX) for key in tensors):
        raise DataError(f"{path}: tensors of a defense, but field 'defense' is null", hint="write the file again")
    check_state(path, own, module.state_dict(), record.model)
    if record.sha256 is not None and record.sha256 != digest(tensors):
        raise DataError(f"{path}: the tensors do not match field 'sha256'; the file is damaged", hint="copy it again")
    module.load_state_dict(own)
    return module, record


def load_defense_tensors(path: Path | str) -> dict[str, Tensor]:
    """Return the tensors that a defense stored beside the victim's own, without their prefix."""
    _, tensors = read_tensors(Path(path), WeightsRecord)
    return {key.removeprefix(DEFENSE_PREFIX): value for key, value in tensors.items() if key.startswith(DEFENSE_PREFIX)}


def packaged(name: str) -> Path:
    """Return the path of the weights that come with funnybone under a name ``MODEL.DATA``."""
    path = _FOLDER / f"{name}.safetensors"
    if name not in list_packaged():
        raise DataError(f"no packaged weights are named {name!r}", hint=f"there are {', '.join(list_packaged())}")
    return path


def list_packaged() -> list[str]:
    """Return the names of the weights that come with funnybone.

    Examples
    --------
    >>> all(packaged(name).is_file() for name in list_packaged())
    True
    """
    return sorted(path.name.removesuffix(".safetensors") for path in _FOLDER.glob("*.*.safetensors"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: BaseModel) -> None:
    """Write tensors and a record as one safetensors file, by way of a temporary file beside it."""
    payload = save(dict(tensors), metadata={ENTRY: record.model_dump_json()})
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(payload)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror}", hint="choose another place") from None


def read_tensors(path: Path, kind: type[Record], mend: str | None = None) -> tuple[Record, dict[str, Tensor]]:
    """Read what `write_tensors` wrote, with a record of this kind; `DataError` names the file, the field and the mend.

    ``mend`` says what to do about a file that is no good, where that is not to get it once more.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint=mend or "give a file that funnybone train wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a safetensors file, cut or damaged ({error})", hint=mend or "copy it again"
        ) from None
    if ENTRY not in metadata:
        raise DataError(
            f"{path}: safetensors without the metadata entry {ENTRY!r}",
            hint=mend
            or "tensors alone do not say which network, joints and classes they belong to; write with save_weights, or "
            "import an authors' checkpoint with funnybone models import",
        )
    try:
        return kind.model_validate_json(metadata[ENTRY]), tensors
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise DataError(f"{path}: record, field {where}: {first['msg']}", hint=mend or "write the file again") from None


def check_state(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], model: str) -> None:
    """Raise `DataError` unless a file's tensors are those of a network: named, shaped, real numbers, finite.

    Nothing is looked at that an odd tensor (sparse, quantised, without data) would answer with an error of its own.
    """
    missing, left_over = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(
            f"{path}: {_listed(missing)} {verb} missing; {model} needs {'it' if verb == 'is' else 'them'}",
            hint="the file is cut, or of another version of the code",
        )
    if left_over:
        raise DataError(
            f"{path}: {model} has no {_listed(left_over)}",
            hint="a variant of the network that funnybone does not have; remove what matters in training only",
        )
    for key, value in wanted.items():
        tensor = found[key]
        check_plain(path, key, tensor)
        if tensor.shape != value.shape:
            shapes = f"{tuple(tensor.shape)}, {model} as described needs {tuple(value.shape)}"
            raise DataError(f"{path}: tensor {key!r} has shape {shapes}", hint="give the sizes it was trained with")
        if not any({tensor.dtype, value.dtype} <= kind for kind in _KINDS):
            raise DataError(
                f"{path}: tensor {key!r} is {tensor.dtype}, {model} needs {value.dtype}", hint="save it as such"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor.to(value.dtype)).all():
            raise DataError(f"{path}: tensor {key!r} holds NaN or infinity", hint="the training diverged")


def check_plain(path: Path, key: str, tensor: Tensor) -> None:
    """Raise `DataError` for a tensor that is more, or less, than numbers in memory."""
    odd = "is quantised" if tensor.is_quantized else None
    if tensor.layout != torch.strided:
        odd = f"is {str(tensor.layout).removeprefix('torch.')}"
    if tensor.device.type != "cpu":
        odd = "has no data" if tensor.is_meta else f"is on {tensor.device}"
    if odd is not None:
        raise DataError(f"{path}: tensor {key!r} {odd}", hint="save dense real numbers, tensor.dequantize().to_dense()")


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"tensor{'s' if len(keys) > 1 else ''} {', '.join(repr(key[:100]) for key in keys[:_SHOWN])}{more}"


def first_line(error: BaseException) -> str:
    """What an error says first, or else its kind."""
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and contents."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        total.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
