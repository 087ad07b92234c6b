"""Run an audit, or go on with one."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from funnybone.attacks.problem import Precision
from funnybone.attacks.verdict import judge, repeatable
from funnybone.auditing import checks, executors, files, meaning, statistics
from funnybone.auditing.asking import ask_targets
from funnybone.auditing.cast import Cast, Named
from funnybone.auditing.folder import RESULT
from funnybone.auditing.ledger import Ledger
from funnybone.auditing.plan import CHUNK, Chunk, Plan, choose, data_digest, identity, versions
from funnybone.auditing.schema import (
    About,
    AuditResult,
    DataSummary,
    Hardening,
    Observed,
    PlannedEntry,
    PlannedSurrogate,
    PlannedVictim,
)
from funnybone.auditing.suites import Suite, create_suite
from funnybone.auditing.tables import table
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.goals import AnythingBut
from funnybone.metrics.natural import NaturalMotion, on_manifold_rate
from funnybone.victims.base import Victim, predict
from funnybone.victims.hardened import Hardened

# Told (entry, clips done, of those successful, clips); where more than one is attacked the entry is "victim: entry",
# and where a target is asked, "surrogate: entry, shown to target".
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
    victims: Named,
    clips: Clips,
    *,
    surrogates: Named | None = None,
    suite: str | Suite = "quick",
    out: str | Path,
    seed: int = 0,
    limit: int | None = None,
    split: str | None = None,
    progress: Progress | None = None,
    natural: NaturalMotion | None = None,
    precision: Precision = "fp32",
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
    surrogates : Victim, sequence of Victim, or mapping of str to Victim, optional
        Classifiers that the attacker owns. Each, and the ensemble of several, is attacked with the suite's transfer
        entries, and every victim and every surrogate is asked about the clips that come of it: ``result.transfer``.
        A victim can be a surrogate too, under the same name.
    suite : str or Suite
        ``"quick"``, ``"standard"``, ``"full"``, ``"defense"``, ``"blackbox"``, whose budgets are in metres, or one of
        your own.
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
    natural : NaturalMotion, optional
        What recorded motion keeps to, learned from clips that are not audited: joint limits for attacks that keep them,
        and the test that ``on_manifold_rate`` is the share of.
    precision : {"fp32", "bf16"}
        Attacks search in mixed precision; verdicts are float32's all the same.
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
        When victims, surrogates and clips do not fit, a name is given twice, the folder holds another audit or a
        damaged one, or another process is auditing into it.

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
    chosen = create_suite(suite) if isinstance(suite, str) else suite
    clips = choose(clips.to("cpu").with_xyz(clips.xyz.detach().cpu().float()), limit, seed)
    if len(clips) == 0:
        raise DataError(f"{clips.name}: there are no clips to audit", hint="choose another split")
    if executor not in executors.EXECUTORS:
        raise DataError(f"no executor is named {executor!r}", hint=f"executors are {', '.join(executors.EXECUTORS)}")
    if precision not in get_args(Precision):
        raise DataError(f"precision is {precision!r}", hint=f"write {' or '.join(get_args(Precision))}")
    if not -(2**63) <= seed < 2**63:
        raise DataError(f"seed is {seed}", hint="give an integer of 64 bits")
    if chosen.unit not in (None, clips.unit):
        raise DataError(
            f"{clips.name}: positions are in unit {clips.unit!r}, budgets of suite {chosen.name!r} in {chosen.unit!r}",
            hint="use positions in metres, or from Python a Suite of your own with budgets in the data's unit",
        )
    if natural is not None:
        natural = natural.to("cpu")
        natural.figures(clips[:1])  # said now, where it was learned from other clips
    cast = Cast.of(victims, surrogates, clips)
    plan = Plan.of(cast, clips, chosen, seed)
    predictions, observed = {}, {}
    for name, victim in cast.everyone.items():
        with repeatable(victim, torch.Generator().manual_seed(seed)):
            predicted, logits = predict(victim, clips, CHUNK)
            if victim.stochastic:  # then attacks take what most answers say for its answer
                predicted = judge(victim, clips, AnythingBut(), clips.labels, CHUNK).prediction
        predictions[name] = predicted.tolist()
        observed[name] = checks.observe(victim, clips[:CHUNK], logits)

    folder = Path(out).expanduser()
    about = _about(cast, clips, chosen, seed, split, plan, observed, natural, precision)
    same = identity(cast, clips, chosen, seed, limit, natural, precision)
    with Ledger.write(folder, same, about, clips) as ledger:
        for name, victim in cast.everyone.items():
            ledger.record_clean(name, clips, predictions[name], stochastic=victim.stochastic)
        _attack(ledger, plan, executors.Given(cast.everyone, clips, natural, precision), progress, executor, workers)
        ask_targets(ledger, plan, cast, clips, progress)
        result = summarise(ledger, environment(cast.everyone))
        files.replace(folder / RESULT, result.save)
    return Audit(result, folder)


def _attack(
    ledger: Ledger,
    plan: Plan,
    given: executors.Given,
    progress: Progress | None,
    executor: executors.Executor,
    workers: int | None,
) -> None:
    """Do what is not done yet, writing each chunk as it ends."""
    done = ledger.done()
    counts: dict[tuple[str, str], tuple[int, int]] = {}

    def tell(chunk: Chunk, more: int, won: int) -> None:
        if progress is not None:
            label = chunk.entry.name if len(given.victims) == 1 else f"{chunk.victim}: {chunk.entry.name}"
            clips_done, successes = counts.get((chunk.victim, chunk.entry.name), (0, 0))
            progress(label, clips_done + more, successes + won, len(given.clips))

    def count(chunk: Chunk, more: int, won: int) -> None:
        place = (chunk.victim, chunk.entry.name)
        clips_done, successes = counts.get(place, (0, 0))
        counts[place] = (clips_done + more, successes + won)
        tell(chunk, 0, 0)

    chunks = (*plan.chunks, *plan.transfer)
    before = {(chunk.victim, chunk.entry.name): chunk for chunk in chunks if chunk.key in done}
    for (victim, entry), chunk in before.items():
        rows = ledger.rows(victim, entry)
        count(chunk, len(rows), sum(row.success for row in rows))
    waiting = [chunk for chunk in chunks if chunk.key not in done]
    for part in executors.attack_all(waiting, given, executor=executor, workers=workers, progress=tell):
        ledger.record(part.chunk.key, part.rows, part.adversarial)
        count(part.chunk, len(part.rows), sum(row.success for row in part.rows))


def summarise(ledger: Ledger, environment: Mapping[str, str]) -> AuditResult:
    """Return the figures of a ledger, from its rows alone."""
    about = ledger.about()
    rows = {place: ledger.rows(*place) for place in about.attacks()}
    shown = {
        (surrogate, entry, target): list(zip(made, ledger.answers_to(made, target), strict=True))
        for surrogate, entry, target in about.shown()
        if (made := rows[surrogate, entry])
    }
    victims = []
    for victim in about.victims:
        attacks = [
            statistics.attack_result(entry, found)
            for entry in about.entries
            if (found := rows.get((victim.name, entry.name)))
        ]
        worst = statistics.worst_case([rows[victim.name, one.name] for one in attacks if not one.by_distance])
        victims.append(statistics.victim_result(victim, ledger.clean(victim.name), attacks, worst))
    surrogates = [statistics.surrogate_result(one, ledger.clean(one.name)) for one in about.surrogates]
    transfer = [statistics.transfer_result(entry, about.surrogates, about.targets, shown) for entry in about.transfer]
    result = AuditResult(
        seed=about.seed,
        suite=about.suite,
        precision=about.precision,
        data=about.data,
        victims=victims,
        surrogates=surrogates,
        transfer=transfer,
        warnings=checks.warnings(
            about.data,
            about.entries,
            victims,
            {one.name: one.observed for one in (*about.victims, *about.surrogates)},
            about.skipped,
            rows,
            surrogates=surrogates,
            transfer=transfer,
            shown=shown,
        ),
        environment=dict(environment),
    )
    return result.model_copy(update={"meaning": meaning.sentences(result)})


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


def _about(
    cast: Cast,
    clips: Clips,
    suite: Suite,
    seed: int,
    split: str | None,
    plan: Plan,
    observed: Mapping[str, Observed],
    natural: NaturalMotion | None,
    precision: Precision,
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
        on_manifold_rate=on_manifold_rate(clips, natural) if natural else None,
    )

    def met(name: str, one: Victim) -> dict[str, Any]:
        return {"name": name, "defense": one.defense, "parameters": one.parameters, "observed": observed[name]}

    def fitted(victim: Victim) -> dict[str, Any]:
        return {"hardening": _hardening(victim, cast), "fit_seconds": victim.fit_seconds}

    contains = cast.seen_through()
    return About(
        data=data,
        suite=suite.name,
        seed=seed,
        precision=precision,
        entries=[PlannedEntry(**entry.describe()) for entry in suite.entries],
        skipped=list(plan.skipped),
        victims=[PlannedVictim(**met(name, victim), **fitted(victim)) for name, victim in cast.victims.items()],
        surrogates=[
            PlannedSurrogate(**met(name, one), contains=contains[name]) for name, one in cast.surrogates.items()
        ],
        transfer=[PlannedEntry(**entry.describe()) for entry in suite.transfer if cast.surrogates],
        targets=list(cast.targets),
    )


def _hardening(victim: Victim, cast: Cast) -> Hardening | None:
    if not isinstance(victim, Hardened):
        return None
    return Hardening(base=cast.base_of(victim), settings=victim.defense_settings, fitted=victim.fitted)
