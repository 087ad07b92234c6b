"""The files that ``train`` and ``harden`` write beside the weights: learning curves, as JSON and as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

from funnybone.cli.common import note
from funnybone.errors import DataError

if TYPE_CHECKING:
    from funnybone.training import Trained

LABELS = ("what was trained for", "validation, as epochs are judged")  # of a training that hardens


def curve_files(out: Path) -> dict[str, Path]:
    """Return where the curves of a weights file go.

    Examples
    --------
    >>> curve_files(Path("w.safetensors"))["svg"].name
    'w.curves.svg'
    """
    return {kind: out.with_name(f"{out.name.removesuffix('.safetensors')}.curves.{kind}") for kind in ("json", "svg")}


def write_curve_files(paths: dict[str, Path], trained: "Trained") -> None:
    """Write the curves, with what they are of; without matplotlib the picture is left out, and a line says so."""
    from funnybone.training import draw, write_curves

    record = trained.record
    kept = {"model", "data", "recipe", "seed", "precision", "selection", "accuracy", "defense"}
    write_curves(paths["json"], trained.curves, record.model_dump(mode="json", include=kept))
    title = f"{record.model} on {record.data.name}, seed {record.seed}"
    try:
        if record.defense is None:
            draw(paths["svg"], trained.curves, title)
        else:
            draw(paths["svg"], trained.curves, f"{record.defense['name']}, {title}", LABELS)
    except DataError as error:  # the curves are in the other file; a picture is no reason to lose a training
        note(f"{paths['svg']}: not drawn: {error}")
