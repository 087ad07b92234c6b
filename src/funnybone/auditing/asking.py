"""Targets are asked about the clips that were made to fool surrogates, and what they say is recorded."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from funnybone.attacks.verdict import Verdict, judge, repeatable
from funnybone.auditing.answers import Answer
from funnybone.auditing.cast import Cast
from funnybone.auditing.files import digest_of
from funnybone.auditing.ledger import Ledger
from funnybone.auditing.plan import CHUNK, Chunk, Plan
from funnybone.auditing.transfer import answers
from funnybone.clips import Clips
from funnybone.goals import Goal

# Told (who is shown whose clips, clips done, of those that fool the target, clips).
Told = Callable[[str, int, int, int], None]


def ask_targets(ledger: Ledger, plan: Plan, cast: Cast, clips: Clips, progress: Told | None) -> None:
    """Ask each target about the clips of all transfer chunks that it was not asked about before.

    Targets are shown the float32 clips that are stored, a chunk at a time, and a chunk's answers are recorded at once.
    """
    ask = _Asker(cast)
    answered, skipped = ledger.answered(), {(target, entry) for target, entry, _ in plan.skipped}
    for (surrogate, entry), group in itertools.groupby(plan.transfer, lambda chunk: (chunk.victim, chunk.entry.name)):
        chunks, rows = list(group), ledger.rows(surrogate, entry)
        reference = torch.tensor([row.reference for row in rows])
        for name in cast.targets:
            if (name, entry) in skipped:
                continue
            said = ledger.answers_to([row for row in rows if (row.shard, name) in answered], name)
            for chunk in chunks:
                if (chunk.shard, name) not in answered:
                    part = slice(chunk.start, chunk.stop)
                    more = ask(name, chunk, clips[part], ledger.shard(chunk.shard), reference[part])
                    ledger.record_answers(chunk.shard, name, more)
                    said += more
                if progress is not None:
                    fooled = sum(answer.fooled for answer in said)
                    progress(f"{surrogate}: {entry}, shown to {name}", len(said), fooled, len(clips))


class _Asker:
    """Asks targets, and about each clean clip only once."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.clean: dict[tuple[Any, ...], Verdict] = {}

    def __call__(
        self, name: str, chunk: Chunk, own: Clips, xyz: Float[Tensor, "N M T V C"], reference: Int[Tensor, " N"]
    ) -> list[Answer]:
        goal = chunk.entry.goal
        question = (name, chunk.start, repr(goal), *reference.tolist())
        if question not in self.clean:
            self.clean[question] = self._verdict(name, own, goal, reference, chunk.audit_seed, *question)
        return answers(own, self.clean[question], self._verdict(name, own.with_xyz(xyz), goal, reference, chunk.key))

    def _verdict(self, name: str, shown: Clips, goal: Goal, reference: Int[Tensor, " N"], *seed: Any) -> Verdict:
        """What a target says; one that draws draws the same for the same question, whenever it is asked."""
        drawn = int(digest_of("verdict", self.cast.fingerprints[name], *seed)[:15], 16)
        target = self.cast.targets[name]
        with repeatable(target, torch.Generator().manual_seed(drawn)):
            return judge(target, shown, goal, reference, CHUNK)
