"""Victims as one safetensors file: the network's weights and, beside them, what a defense put around it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models.allowance import Allowance
from funnybone.models.weights import (
    AccuracyRecord,
    WeightsRecord,
    check_plain,
    check_state,
    first_line,
    load_defense_tensors,
    load_weights,
    save_weights,
)
from funnybone.victims.base import Victim
from funnybone.victims.hardened import Fitted, Hardened, forms
from funnybone.victims.torch import TorchVictim

# Tensors of a hardened victim's base, where that is something around a base itself.
INNER = "base."
# Defenses that one file holds, each around the next.
MOST_LAYERS = 8


class DefenseRecord(BaseModel):
    """What a weights file says of a defense.

    Parameters
    ----------
    name, settings
        The defense that was fitted, and its settings.
    fitted : Fitted or None
        On what; None where nobody said.
    form, form_settings
        What it put around the network: the name of a `Hardened` victim's form, and its settings; its tensors lie
        beside the network's. None where it trained the network itself.
    base : DefenseRecord or None
        How the victim was hardened that this is put around.
    seconds : float or None
        Wall time of the fit, and of those that made its base; None where nobody said.
    """

    model_config = ConfigDict(frozen=True, extra="allow")  # a defense may say more of itself

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    fitted: Fitted | None = None
    form: str | None = None
    form_settings: dict[str, Any] = Field(default_factory=dict)
    base: "DefenseRecord | None" = None
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


def save_victim(path: Path | str, victim: Victim, *, accuracy: AccuracyRecord | None = None) -> WeightsRecord:
    """Write a victim as one file, which is accepted wherever a victim is named.

    Parameters
    ----------
    path : Path or str
        A reader sees the old file or the whole new one.
    victim : Victim
        A network of this library with its record, as `funnybone.create_victim` makes it of a file, or one hardened on
        such a base.
    accuracy : AccuracyRecord, optional
        Of the victim; by default what a network's record says, and of a network with something around it nothing, for
        its record tells how good the network is alone.

    Returns
    -------
    WeightsRecord
        The record as written.

    Raises
    ------
    DataError
        For a victim that no file can hold, and where the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import funnybone as fb
    >>> from funnybone.victims.filtered import Filter, Filtered
    >>> filtered = Filtered(fb.create_victim("stgcn", data="synthetic"), Filter(keep=0.5), defense="lowpass")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_victim(f"{folder}/filtered.safetensors", filtered)
    ...     again = fb.create_victim(f"{folder}/filtered.safetensors")
    >>> again, again.fingerprint == filtered.fingerprint
    (Filtered('filtered', 14 classes, gradients), True)
    """
    network, record, tensors = parts_of(victim)
    if network is not victim:
        record = record.model_copy(update={"accuracy": None})
    if accuracy is not None:
        record = record.model_copy(update={"accuracy": accuracy})
    return save_weights(path, network.module, record, tensors)


def parts_of(victim: Victim) -> tuple[TorchVictim, WeightsRecord, dict[str, Tensor]]:
    """Return what a file would hold of a victim: its network, the record, and tensors of what is around it.

    Raises
    ------
    DataError
        For a victim that no file can hold.
    """
    network, said, tensors = _taken_apart(victim)
    record = network.record
    if record is not None and record.defense is not None:
        record = record.model_copy(update={"defense": record.defense | _timed(network)})
    if record is None:
        raise _unsaved(victim, f"the network of {network.name!r} has no record", "load it with create_victim, or train")
    named = (record.defense or {}).get("name")
    if network.defense != named:
        raise _unsaved(
            victim,
            f"{network.name!r} is hardened by {network.defense}, its record says {named}",
            "give it a record whose field 'defense' says how it was hardened",
        )
    with torch.random.fork_rng(devices=[]):  # a network begins at random
        built = record.build()
    same = (record.skeleton.build(), tuple(record.classes)) == (network.skeleton, tuple(network.classes))
    if not same or record.build_preprocess() != network.preprocess or type(built) is not type(network.module):
        raise _unsaved(victim, f"the record of {network.name!r} is another network's", "give it its own record")
    _layers(Path(victim.name), said)
    stored = {key: value.cpu() for key, value in network.module.state_dict().items()}
    check_state(Path(network.name), stored, built.state_dict(), record.model)
    return network, record if said is None else record.model_copy(update={"defense": said}), tensors


def _unsaved(victim: Victim, why: str, mend: str) -> DataError:
    return DataError(f"victim {victim.name!r} cannot be saved as one file: {why}", hint=mend)


def _taken_apart(victim: Victim) -> tuple[TorchVictim, dict[str, Any] | None, dict[str, Tensor]]:
    """The network at the bottom, and what a file says of all that is around it; None of a network alone."""
    if isinstance(victim, TorchVictim):
        return victim, None, {}
    if not isinstance(victim, Hardened):
        what = f"{type(victim).__name__} {victim.name!r} is no network of this library"
        raise _unsaved(victim, what, "make it where it is needed, in package.module:function")
    network, inner, tensors = _taken_apart(victim.base)
    said: dict[str, Any] = {
        "name": victim.defense,
        "settings": victim.defense_settings,
        "form": victim.form,
        "form_settings": victim.settings,
    }
    if victim.fitted is not None:
        said["fitted"] = victim.fitted.model_dump()
    said |= _timed(victim)
    below = inner or (network.record.defense if network.record is not None else None)
    if below is not None:
        said["base"] = below
    return network, said, {INNER + key: value for key, value in tensors.items()} | victim.tensors()


def _timed(victim: Victim) -> dict[str, Any]:
    return {} if victim.fit_seconds is None else {"seconds": victim.fit_seconds}


def load_victim(path: Path, name: str, *, device: str = "cpu", compile: bool | str = False) -> Victim:
    """Return the victim that a weights file holds. Nothing is unpickled.

    Raises
    ------
    DataError
        What `load_weights` raises; and for a form that is unknown, tensors of a defense that are missing, damaged or
        left over, and settings that the form cannot have.
    """
    module, record = load_weights(path)
    layers = _layers(path, record.defense)
    around = [layer for layer in layers if layer.form is not None]
    network = layers[len(around)] if len(layers) > len(around) else None
    if around:  # then the record is that of a victim of which the network is a part
        own = None if network is None else network.model_dump(exclude_unset=True)
        record = record.model_copy(update={"defense": own, "accuracy": None, "sha256": None})
    victim = TorchVictim(
        module,
        skeleton=module.skeleton,
        classes=tuple(record.classes),
        preprocess=record.build_preprocess(),
        name=f"{record.model}.{record.data.name}" if around else name,
        frames=record.options.get("frames"),
        persons=module.persons,
        up=record.up,
        unit=record.unit,
        defense=None if network is None else network.name,
        compile=compile,
        record=record,
    )
    victim.fit_seconds = None if network is None else network.seconds
    victim = victim.to(device)
    tensors = load_defense_tensors(path)
    if not around:
        check_state(path, tensors, {}, "what hardened it")
        return victim
    for key, tensor in tensors.items():
        check_plain(path, key, tensor)
    return _put_around(path, victim, around, tensors, name).to(device)


def _layers(path: Path, defense: Mapping[str, Any] | None) -> list[DefenseRecord]:
    """What a record says of defenses, from the outermost inwards; only the last can be the network's own."""
    try:
        layers = [] if defense is None else list(_inwards(DefenseRecord.model_validate(defense)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(("defense", *map(str, first["loc"])))
        raise DataError(f"{path}: record, field {where}: {first['msg']}", hint="write the file again") from None
    if len(layers) > MOST_LAYERS:
        raise DataError(
            f"{path}: record, field defense: {len(layers)} defenses around each other",
            hint=f"a file holds {MOST_LAYERS}",
        )
    if any(layer.form is None for layer in layers[:-1]):
        raise DataError(
            f"{path}: record, field defense: a trained network's defense has a base", hint="write the file again"
        )
    return layers


def _inwards(layer: DefenseRecord) -> Iterator[DefenseRecord]:
    inner: DefenseRecord | None = layer
    while inner is not None:
        yield inner
        inner = inner.base


def _put_around(
    path: Path, victim: Victim, layers: Sequence[DefenseRecord], tensors: Mapping[str, Tensor], name: str | None
) -> Hardened:
    """A victim with all that a file puts around it, the first of the layers outermost."""
    layer, *inner = layers
    below = {key: value for key, value in tensors.items() if inner and key.startswith(INNER)}
    if inner:
        held = {key.removeprefix(INNER): value for key, value in below.items()}
        victim = _put_around(path, victim, inner, held, None)
    return _restored(path, victim, layer, {key: tensors[key] for key in tensors.keys() - below.keys()}, name)


def _restored(path: Path, base: Victim, layer: DefenseRecord, tensors: dict[str, Tensor], name: str | None) -> Hardened:
    """The victim that one layer makes of its base; the form and all that is said of it come from somebody's file."""
    assert layer.form is not None
    try:
        form = forms[layer.form]
        with Allowance(tensors.values()):
            victim = form.restore(base, layer.form_settings, tensors, defense=layer.name, name=name)
    except KeyError as error:
        raise DataError(f"{path}: {layer.form} misses {error}", hint="the file is cut, or of another version") from None
    except (TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError) as error:  # or what odd numbers provoke
        raise DataError(f"{path}: the record builds no hardened victim: {first_line(error)}") from None
    check_state(path, tensors, victim.tensors(), layer.form)
    victim.defense_settings, victim.fitted, victim.fit_seconds = layer.settings, layer.fitted, layer.seconds
    return victim
