"""``funnybone models``: what can be attacked out of the box, and trained; weights for others to attack."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from funnybone.cli.common import FRAMES, Json, emit, emit_json
from funnybone.cli.tables import show
from funnybone.tables import MISSING, rate


def list_models(pattern: str = "*", /, *, json: Json = False) -> None:
    """List the models, their size and cost, and the weights that come with funnybone.

    Parameters
    ----------
    pattern
        Only names that match this shell pattern, such as "*gcn*".
    """
    from funnybone import models
    from funnybone.errors import DataError

    names = models.names(pattern)
    if not names:
        raise DataError(f"no model matches {pattern!r}", hint=f"there are {', '.join(models.names())}")
    rows = [_describe(name) for name in names]
    if json:
        emit_json(rows)
        return
    lines: list[tuple[str, ...]] = []
    for row in rows:
        size = (row["name"], f"{row['parameters']:,}", f"{row['gflops']:.2f}")
        weights = row["weights"] or [None]
        for record in weights:
            if record is None:
                lines.append((*size, MISSING, MISSING, MISSING, MISSING, MISSING))
                continue
            clean = record["accuracy"] or {"value": None, "ci95": None, "n": None}
            label = record["data"] + (" (synthetic)" if record["synthetic"] else "")
            own = (row["name"], f"{record['parameters']:,}", f"{record['gflops']:.2f}", record["name"])
            accuracy = rate(clean["value"], clean["ci95"])
            lines.append((*own, "+".join(record["streams"]), label, accuracy, str(clean["n"] or MISSING)))
    titles = ("model", "parameters", "GFLOP", "weights", "streams", "trained on", "accuracy %", "n")
    show(titles, lines, numbers=("parameters", "GFLOP", "accuracy %", "n"))
    emit(
        "Models without weights: 60 classes on NTU25, one person. GFLOP: forward, 60 frames, two operations for each "
        "multiplication. Each model can have several streams. Accuracy: on its data's test part, Wilson 95 %."
    )


def push(
    file: Path, repo: str, /, *, private: Annotated[bool, Parameter(negative="")] = False, json: Json = False
) -> None:
    """Publish a weights file to a Hugging Face hub, with a model card of what the file says about itself.

    Others then name it as hub:OWNER/NAME wherever a victim is named. The token is huggingface_hub's: hf auth login, or
    HF_TOKEN. What is there already gets a new version and stays in the repository's history.

    Parameters
    ----------
    file
        A weights file that funnybone wrote. It is checked before anything is sent.
    repo
        The repository, OWNER/NAME; made where there is none.
    private
        Only for those whom the owner lets in.
    """
    from funnybone.models import hub

    done = hub.push(file.expanduser(), repo, private=private)
    if json:
        emit_json({"file": str(file), "victim": f"{hub.PREFIX}{repo}@{done.commit}", **dataclasses.asdict(done)})
        return
    who = "private" if done.private else "public"
    emit(f"{file}: published, {who}: {done.url}; attack it as {hub.PREFIX}{repo}, this version as ...@{done.commit}")


def _describe(name: str) -> dict[str, Any]:
    from funnybone import models

    weights = []
    for packaged in models.list_packaged():
        if packaged.split(".")[0] == name:
            module, record = models.load_weights(models.packaged(packaged))
            weights.append(
                {
                    "name": packaged,
                    "data": record.data.name,
                    "synthetic": record.data.synthetic,
                    "streams": list(record.streams),
                    **models.cost(module),
                    "accuracy": record.accuracy.model_dump() if record.accuracy else None,
                    "licence": record.licence,
                }
            )
    fresh = models.create(name, persons=1, frames=FRAMES)
    return {"name": name, **models.cost(fresh), "streams": list(models.STREAMS), "weights": weights}
