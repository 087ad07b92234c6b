"""From a checkpoint of an authors' code to a weights file, which is a victim like any other."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from funnybone.errors import DataError
from funnybone.models.checkpoints import recognise
from funnybone.models.preprocess import Preprocess
from funnybone.models.published import find_published, published
from funnybone.models.registry import Model
from funnybone.models.streams import Fused, check_streams, fusion_weights
from funnybone.models.weights import DataRecord, SkeletonRecord, WeightsRecord, first_line, save_weights
from funnybone.skeletons import Skeleton

TRIAL_FRAMES = 20


def import_checkpoint(
    path: Path | str,
    *more: Path | str,
    out: Path | str,
    skeleton: Skeleton,
    preprocess: Preprocess | str,
    classes: Sequence[str] | int | None = None,
    streams: Sequence[str] = ("joint",),
    fusion: Sequence[float] | None = None,
    frames: int | None = None,
    up: Literal["x", "y", "z"] = "y",
    unit: Literal["metre", "pixel", "normalised"] = "metre",
    family: str | None = None,
    data: str = "not said",
    licence: str = "unknown",
    options: Mapping[str, Any] | None = None,
) -> WeightsRecord:
    """Write a weights file from an authors' checkpoint, with what the checkpoint itself does not say.

    Parameters
    ----------
    path, *more
        Files that `load_checkpoint` reads. Of one network; with several streams one of each, in their order.
    out : Path or str
        The weights file to write.
    skeleton : Skeleton
        The joints that it was trained on.
    preprocess : Preprocess or str
        What its training did to clips, or a name of `published.PREPROCESSINGS`.
    classes : sequence of str, or int, optional
        Names of the classes in the order of the logits; their number, which the checkpoint must confirm; by default
        that number.
    streams, fusion
        What the networks were shown, and the weights of their logits in the sum: see `Fused`.
    frames : int, optional
        Length of the clips that it was trained on; any by default, or what the preprocessing is stated for.
    up, unit
        Of those clips, as in `funnybone.Clips`.
    family, options
        As in `load_checkpoint`, where keys and shapes leave something open.
    data, licence : str
        For the record: what it was trained on, and the licence of the weights.

    Returns
    -------
    WeightsRecord
        As written. Its recipe names the files and their SHA-256.

    Raises
    ------
    DataError
        As `load_checkpoint`; for another number of classes or files, for streams of different networks, and for
        preprocessing that is not one of these joints or coordinates.

    Examples
    --------
    >>> import tempfile
    >>> from funnybone.models import create, load_weights
    >>> from funnybone.skeletons import NTU25
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(create("agcn", width=8, num_classes=5).state_dict(), f"{folder}/joint.pt")
    ...     _ = import_checkpoint(
    ...         f"{folder}/joint.pt", out=f"{folder}/agcn.safetensors", skeleton=NTU25, preprocess="2s-agcn"
    ...     )
    ...     network, record = load_weights(f"{folder}/agcn.safetensors")
    >>> record.classes, record.build_preprocess().pad
    (('0', '1', '2', '3', '4'), 'replay')
    """
    files = [Path(name).expanduser() for name in (path, *more)]
    streams = tuple(streams)
    check_streams(streams)
    weights = fusion_weights(streams, fusion)
    stated = None
    if isinstance(preprocess, str):
        stated = find_published(preprocess).frames
        preprocess = published(preprocess, skeleton)
    preprocess.check(skeleton)
    given = {**(options or {}), **({"frames": frames or stated} if frames or stated else {})}
    name, arguments, networks = _networks(files, streams, skeleton, family, given)
    network = networks[0] if streams == ("joint",) else Fused(dict(zip(streams, networks, strict=True)), weights).eval()
    where = " + ".join(map(str, files))
    record = WeightsRecord(
        model=name,
        options=arguments,
        skeleton=SkeletonRecord.of(skeleton),
        classes=_class_names(where, classes, network.num_classes),
        up=up,
        unit=unit,
        preprocess=preprocess.to_dict(),
        streams=streams,
        fusion=weights,
        data=DataRecord(name=data, split=None, n=0, synthetic=False, sha256=""),
        recipe={"imported_from": {file.name: _sha256(file) for file in files}},
        licence=licence,
    )
    _try(where, network, preprocess, frames or stated or TRIAL_FRAMES)
    return save_weights(out, network, record)


def _networks(
    files: list[Path], streams: tuple[str, ...], skeleton: Skeleton, family: str | None, options: Mapping[str, Any]
) -> tuple[str, dict[str, Any], list[Model]]:
    """The family, its options, and the network of each stream."""
    parts = [files] if len(streams) == 1 else [[file] for file in files]
    if len(parts) != len(streams):
        raise DataError(
            f"{len(files)} files for {len(streams)} streams", hint="give one file for each stream, in order"
        )
    found = [recognise(*part, skeleton=skeleton, family=family, **options) for part in parts]
    name, arguments, first = found[0]
    for file, (other, others, network) in zip(files, found, strict=False):
        if (other, others, network.num_classes) != (name, arguments, first.num_classes):
            raise DataError(
                f"{file}: {other} with {network.num_classes} classes and {others}; {files[0]} has {name}, "
                f"{first.num_classes} and {arguments}",
                hint="streams of one victim are networks of one kind",
            )
    return name, arguments, [network for _, _, network in found]


def _class_names(where: str, classes: Sequence[str] | int | None, count: int) -> tuple[str, ...]:
    given = count if classes is None else classes
    names = tuple(map(str, range(given))) if isinstance(given, int) else tuple(given)
    if len(names) != count:
        raise DataError(f"{where}: a network of {count} classes, {len(names)} were given", hint="name its own classes")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"class {repeated[0]!r} is named twice", hint="give each class its own name")
    return names


def _try(where: str, network: nn.Module, preprocess: Preprocess, frames: int) -> None:
    """Raise `DataError` unless a clip comes through to finite logits."""
    assert isinstance(network, Model)
    size = (1, network.persons, frames, len(network.skeleton.joints), network.in_channels)
    xyz = torch.randn(size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            finite = bool(torch.isfinite(network(preprocess(xyz))).all())
    except (ValueError, RuntimeError, IndexError) as error:  # DataError, or what odd coordinates provoke
        raise DataError(f"{where}: a clip does not come through: {first_line(error)}") from None
    if not finite:
        raise DataError(f"{where}: the answer to a clip is NaN or infinite", hint="its weights are broken")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
