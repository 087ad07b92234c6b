"""From an audit's folder to its report: which clips are worth seeing, and where they are."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from funnybone.auditing import files
from funnybone.auditing.folder import REPORT, RESULT
from funnybone.auditing.ledger import Ledger
from funnybone.auditing.rows import Row
from funnybone.auditing.schema import AuditResult
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.report.examples import Example
from funnybone.report.html import render

# Coordinates of all examples together: about 5 bytes each in the page, which should open at once and fit into a mail.
_MOST_COORDINATES = 2_000_000


def write_report(folder: Path, path: Path | None = None, examples: int = 6) -> Path:
    """Write the report of an audit and return its path.

    The same folder gives the same page. The file is whole or not there.

    Parameters
    ----------
    folder : Path
        What `funnybone.audit` wrote; nothing else is needed.
    path : Path, optional
        ``report.html`` in the folder by default.
    examples : int
        Most clips to show moving.

    Raises
    ------
    DataError
        When the folder holds no finished audit, or a part of it is missing or damaged.
    """
    finished = (folder / RESULT).is_file()  # before the ledger is opened, which verifies a finished one
    with Ledger.read(folder) as ledger:
        if not finished:
            raise DataError(f"{folder}: the audit is not finished", hint="the same funnybone audit command goes on")
        result = AuditResult.load(folder / RESULT)
        page = render(result, choose_examples(ledger, result, examples))
    path = folder / REPORT if path is None else path
    files.replace(path, lambda unfinished: unfinished.write_text(page, encoding="utf-8"))
    return path


def choose_examples(ledger: Ledger, result: AuditResult, most: int) -> list[Example]:
    """Return the clips to show: of every attack in turn what is worth seeing, no clip of an attack twice.

    An attack's first choice is its success of median displacement, then a clip that withstood it, then its smallest
    and its largest success, then one of two persons. Attacks take turns until there are enough. When no clip that
    was chosen shows two persons, or none withstood, and there is one that does, it takes the last place.
    """
    clips = ledger.clips()
    frames = math.prod(clips.xyz.shape[1:])
    most = min(most, max(1, _MOST_COORDINATES // max(1, frames)))
    several = (clips.valid.any(2).sum(1) > 1).tolist()
    rows = {
        (victim.name, attack.name): [row for row in ledger.rows(victim.name, attack.name) if row.attacked]
        for victim in result.victims
        for attack in victim.attacks
    }
    candidates = {place: list(_worth_seeing(found, several)) for place, found in rows.items()}
    chosen = _in_turn(list(candidates.values()), most)
    everything = [row for found in rows.values() for row in found]
    for wanted in (lambda row: not row.success, lambda row: several[row.clip_index]):
        found = next((row for row in everything if wanted(row)), None)
        if found is not None and not any(map(wanted, chosen)):
            chosen = [found, *chosen][:most]
    places = list(rows)
    chosen.sort(key=lambda row: (places.index((row.victim, row.entry)), not row.success, _displacement(row)))
    return [_example(ledger, clips, row) for row in chosen]


def _worth_seeing(attacked: Sequence[Row], several: Sequence[bool]) -> Iterator[Row]:
    fallen = sorted((row for row in attacked if row.success), key=_displacement)
    if fallen:
        yield fallen[len(fallen) // 2]
    yield from [row for row in attacked if not row.success][:1]
    if fallen:
        yield fallen[0]
        yield fallen[-1]
    yield from [row for row in fallen if several[row.clip_index]][:1]


def _in_turn(candidates: Sequence[Sequence[Row]], most: int) -> list[Row]:
    chosen: dict[str, Row] = {}
    for rank in range(max(map(len, candidates), default=0)):
        for rows in candidates:
            if rank < len(rows) and len(chosen) < most:
                chosen[rows[rank].key] = rows[rank]
    return list(chosen.values())


def _displacement(row: Row) -> float:
    return row.distances.get("position_m") or 0.0


def _example(ledger: Ledger, clips: Clips, row: Row) -> Example:
    index = row.clip_index
    return Example(
        clip=row.clip,
        victim=row.victim,
        attack=row.entry,
        skeleton=clips.skeleton,
        up=clips.up,
        fps=float(clips.fps[index]),
        clean=clips.xyz[index],
        adversarial=ledger.adversarial(row),
        valid=clips.valid[index],
        truth=clips.classes[row.label],
        clean_prediction=clips.classes[row.clean_prediction],
        adversarial_prediction=clips.classes[row.prediction],
        success=row.success,
        displacement=_displacement(row),
        unit=clips.unit,
    )
