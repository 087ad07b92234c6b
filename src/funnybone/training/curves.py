"""Learning curves: a row for each epoch, as JSON and as a picture."""

import json
import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from funnybone.errors import DataError


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class Epoch(BaseModel):
    """One pass over the training clips.

    The validation figures are None where nothing was held out, and before the network learns to classify; see
    `Objective.judged_from`. A loss that is NaN or infinite judges nothing, and is None too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int
    learning_rate: float
    loss: float
    validation_loss: Annotated[float | None, AfterValidator(_finite)] = None
    validation_accuracy: float | None = None


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """The epoch whose weights are kept: the lowest validation loss, the last of all while there is none.

    Examples
    --------
    >>> losses = (0.9, 0.4, 0.5)
    >>> best_of([Epoch(epoch=k, learning_rate=1, loss=1, validation_loss=v) for k, v in enumerate(losses, 1)]).epoch
    2
    """
    judged = [(epoch.validation_loss, epoch) for epoch in epochs if epoch.validation_loss is not None]
    return min(judged, key=itemgetter(0))[1] if judged else epochs[-1]


def write_curves(path: Path, curves: Mapping[str, Sequence[Epoch]], about: Mapping[str, Any]) -> None:
    """Write the curves of each stream's network as JSON, with what they are of."""
    document = {
        **about,
        "streams": {
            stream: {"kept_epoch": best_of(epochs).epoch, "epochs": [epoch.model_dump() for epoch in epochs]}
            for stream, epochs in curves.items()
        },
    }
    try:
        path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror}", hint="choose another place") from None


def draw(
    path: Path,
    curves: Mapping[str, Sequence[Epoch]],
    title: str,
    labels: tuple[str, str] = ("training, with label smoothing", "validation"),
) -> None:
    """Draw the curves into a picture whose kind is the name's ending; needs matplotlib, without a display.

    ``labels`` are those of the loss that was trained for and of the validation figures.

    Raises
    ------
    DataError
        When matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError:
        raise DataError(
            "pictures of learning curves need matplotlib, which is not installed", hint="pip install 'funnybone[viz]'"
        ) from None
    figure = Figure(figsize=(4.5 * len(curves), 4.6), layout="constrained")
    axes = figure.subplots(2, len(curves), sharex="col", squeeze=False)
    figure.suptitle(title)
    for column, (stream, epochs) in enumerate(curves.items()):
        numbers, kept = [epoch.epoch for epoch in epochs], best_of(epochs)
        above, below = axes[0, column], axes[1, column]
        above.set_title(stream.replace("_", " "), fontsize=10)
        above.plot(numbers, [epoch.loss for epoch in epochs], label=labels[0])
        if kept.validation_loss is not None:
            above.plot(numbers, [epoch.validation_loss for epoch in epochs], label=labels[1])
            below.plot(numbers, [epoch.validation_accuracy for epoch in epochs], color="C1", label=labels[1])
        for part in (above, below):
            part.axvline(kept.epoch, color="0.6", linestyle=":", linewidth=1)
            part.grid(alpha=0.25)
        above.set_ylim(bottom=0)
        below.set_ylim(0, 1.02)
        below.yaxis.set_major_formatter(PercentFormatter(1))
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.set_xlabel(f"epoch (kept: {kept.epoch})")
        above.legend(fontsize=8)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("validation accuracy")
    figure.savefig(path)
