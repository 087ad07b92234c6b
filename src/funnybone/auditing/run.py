"""Run an audit, or go on with one."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from funnybone.auditing import checks, executors, files, statistics
from funnybone.auditing.ledger import RESULT, Ledger
from funnybone.auditing.plan import CHUNK, Chunk, Plan, choose, data_digest, identity, versions
from funnybone.auditing.schema import About, AuditResult, DataSummary, PlannedEntry, PlannedVictim
from funnybone.auditing.suites import Suite, create_suite
from funnybone.auditing.tables import table
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.victims.base import Victim, predict

# Told (entry, clips done, of those successful, clips); with several victims the entry is "victim: entry".
Progress = Callable[[str, int, int, int], None]


@dataclass(frozen=True)
class Audit:
    """A finished audit.

    Attributes
    ----------
    result : AuditResult
        What ``audit.json`` holds.
    folder : Path
        Where it lies, with the ledger and the clips.
    """

    result: AuditResult
    folder: Path

    def to_html(self, path: str | Path | None = None) -> Path:
        """Write the report and return its path: ``report.html`` in the folder, unless another is given."""
        # Looked up now: a report is made of audits, and audits are made without one.
        from funnybone.report.folder import write_report

        return write_report(self.folder, Path(path).expanduser() if path is not None else None)

    def __str__(self) -> str:
        return table(self.result)


def audit(
    victims: Mapping[str, Victim] | Sequence[Victim] | Victim,
    clips: Clips,
    *,
    suite: str | Suite = "quick",
    out: str | Path,
    seed: int = 0,
    limit: int | None = None,
    split: str | None = None,
    progress: Progress | None = None,
    executor: executors.Executor = "inline",
    workers: int | None = None,
) -> Audit:
    """Attack victims with every entry of a suite, and record what happened to each clip.

    Everything is checked before anything is written. A chunk of 32 clips that is done is never done again: the same
    call goes on where a killed one stopped and ends with the same rows, timings aside.

    Parameters
    ----------
    victims : Victim, sequence of Victim, or mapping of str to Victim
        Who is attacked, and how tables call them. Entries that need more than a victim offers are skipped, with a
        warning.
    clips : Clips
        Clean clips with their true labels.
    suite : str or Suite
        ``"quick"``, ``"standard"``, ``"full"``, whose budgets are in metres, or one of your own.
    out : str or Path
        The audit's folder; made where it does not exist.
    seed : int
        Decides the choice of clips and every random start.
    limit : int, optional
        Most clips: a seeded choice in which each class keeps its share, in data order.
    split : str, optional
        Which part of the data ``clips`` is; recorded, not applied.
    progress : callable, optional
        Told (entry, clips done, of those successful, clips) as it goes.
    executor : {"inline", "process", "ray"}
        ``"process"``: chunks are attacked by several processes with one thread each. The rows are the same up to the
        rounding that another number of threads brings, which can decide a clip on the border. ``"ray"``: the same as
        tasks of Ray, which may run on other machines.
    workers : int, optional
        Processes; one for each core by default. A Ray cluster that is there already decides itself.

    Returns
    -------
    Audit

    Raises
    ------
    DataError
        When victims and clips do not fit, the folder holds another audit or a damaged one, or another process is
        auditing into it.

    Examples
    --------
    >>> import tempfile
    >>> import funnybone as fb
    >>> from funnybone.testing import linear_victim, random_clips
    >>> clips = random_clips(4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = audit({"plane": linear_victim(clips)}, clips, out=folder)
    >>> done.result.victims[0].attacks[0].succeeded
    4
    """
    named = _named(victims)
    chosen = create_suite(suite) if isinstance(suite, str) else suite
    clips = choose(clips.to("cpu").with_xyz(clips.xyz.detach().cpu().float()), limit, seed)
    if len(clips) == 0:
        raise DataError(f"{clips.name}: there are no clips to audit", hint="choose another split")
    if executor not in executors.EXECUTORS:
        raise DataError(f"no executor is named {executor!r}", hint=f"executors are {', '.join(executors.EXECUTORS)}")
    if not -(2**63) <= seed < 2**63:
        raise DataError(f"seed is {seed}", hint="give an integer of 64 bits")
    if chosen.unit not in (None, clips.unit):
        raise DataError(
            f"{clips.name}: positions are in unit {clips.unit!r}, budgets of suite {chosen.name!r} in {chosen.unit!r}",
            hint="use positions in metres, or from Python a Suite of your own with budgets in the data's unit",
        )
    for victim in named.values():
        victim.check(clips)
    plan = Plan.of(named, clips, chosen, seed)
    predictions, met = {}, []
    for name, victim in named.items():
        predicted, logits = predict(victim, clips, CHUNK)
        predictions[name] = predicted.tolist()
        observed = checks.observe(victim, clips[:CHUNK], logits)
        met.append(PlannedVictim(name=name, defense=victim.defense, parameters=victim.parameters, observed=observed))

    folder = Path(out).expanduser()
    about = _about(clips, chosen, seed, split, plan, met)
    with Ledger.write(folder, identity(named, clips, chosen, seed, limit), about, clips) as ledger:
        for name, victim in named.items():
            ledger.record_clean(name, clips, predictions[name], stochastic=victim.stochastic)
        _attack(ledger, plan, named, clips, progress, executor, workers)
        result = summarise(ledger, environment(named))
        files.replace(folder / RESULT, result.save)
    return Audit(result, folder)


def _attack(
    ledger: Ledger,
    plan: Plan,
    victims: Mapping[str, Victim],
    clips: Clips,
    progress: Progress | None,
    executor: executors.Executor,
    workers: int | None,
) -> None:
    """Do what is not done yet, writing each chunk as it ends."""
    done = ledger.done()
    counts: dict[tuple[str, str], tuple[int, int]] = {}

    def tell(chunk: Chunk, more: int, won: int) -> None:
        if progress is not None:
            label = chunk.entry.name if len(victims) == 1 else f"{chunk.victim}: {chunk.entry.name}"
            clips_done, successes = counts.get((chunk.victim, chunk.entry.name), (0, 0))
            progress(label, clips_done + more, successes + won, len(clips))

    def count(chunk: Chunk, more: int, won: int) -> None:
        place = (chunk.victim, chunk.entry.name)
        clips_done, successes = counts.get(place, (0, 0))
        counts[place] = (clips_done + more, successes + won)
        tell(chunk, 0, 0)

    before = {(chunk.victim, chunk.entry.name): chunk for chunk in plan.chunks if chunk.key in done}
    for (victim, entry), chunk in before.items():
        rows = ledger.rows(victim, entry)
        count(chunk, len(rows), sum(row.success for row in rows))
    waiting = [chunk for chunk in plan.chunks if chunk.key not in done]
    for part in executors.attack_all(waiting, victims, clips, executor=executor, workers=workers, progress=tell):
        ledger.record(part.chunk.key, part.rows, part.adversarial)
        count(part.chunk, len(part.rows), sum(row.success for row in part.rows))


def summarise(ledger: Ledger, environment: Mapping[str, str]) -> AuditResult:
    """Return the figures of a ledger, from its rows alone."""
    about = ledger.about()
    rows = {}
    victims = []
    for victim in about.victims:
        attacks = []
        for entry in about.entries:
            found = ledger.rows(victim.name, entry.name)
            if found:
                rows[victim.name, entry.name] = found
                attacks.append(statistics.attack_result(entry, found))
        worst = statistics.worst_case([rows[victim.name, attack.name] for attack in attacks])
        victims.append(statistics.victim_result(victim, ledger.clean(victim.name), attacks, worst))
    observed = {victim.name: victim.observed for victim in about.victims}
    return AuditResult(
        seed=about.seed,
        suite=about.suite,
        data=about.data,
        victims=victims,
        warnings=checks.warnings(about.data, about.entries, victims, observed, about.skipped, rows),
        environment=dict(environment),
    )


def environment(victims: Mapping[str, Victim]) -> dict[str, str]:
    """What the figures were measured with; nothing that names a machine, a person or a place."""
    return {
        "python": platform.python_version(),
        **versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": str(os.cpu_count()),
        "torch_threads": str(torch.get_num_threads()),
        "device": ", ".join(sorted({str(victim.device) for victim in victims.values()})),
    }


def _named(victims: Mapping[str, Victim] | Sequence[Victim] | Victim) -> dict[str, Victim]:
    if isinstance(victims, Mapping):
        named = dict(victims)
    else:
        listed = [victims] if isinstance(victims, Victim) else list(victims)
        named = {victim.name: victim for victim in listed}
        if len(named) < len(listed):
            raise DataError("two victims have the same name", hint="give a mapping of names to victims")
    if not named:
        raise DataError("there are no victims to audit", hint="give at least one")
    return named


def _about(
    clips: Clips, suite: Suite, seed: int, split: str | None, plan: Plan, victims: Sequence[PlannedVictim]
) -> About:
    """What the summary needs besides the rows."""
    _, persons, frames, _, _ = clips.xyz.shape
    data = DataSummary(
        name=clips.name,
        split=split,
        n=len(clips),
        classes=list(clips.classes),
        frames=frames,
        persons=persons,
        skeleton=clips.skeleton.name,
        unit=clips.unit,
        synthetic=clips.synthetic,
        sha256=data_digest(clips),
    )
    return About(
        data=data,
        suite=suite.name,
        seed=seed,
        entries=[PlannedEntry(**entry.describe()) for entry in suite.entries],
        skipped=list(plan.skipped),
        victims=list(victims),
    )
