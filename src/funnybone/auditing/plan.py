"""What an audit has to do: which clips, in which chunks, with which seeds, and under which keys they are filed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

import funnybone
from funnybone.attacks.problem import Precision
from funnybone.auditing.cast import Cast
from funnybone.auditing.files import digest_of
from funnybone.auditing.suites import Entry, Suite
from funnybone.chance import Chance
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.metrics.natural import NaturalMotion
from funnybone.victims.access import offers
from funnybone.victims.base import Victim

# Clips attacked together. Part of every key: what a clip shares a batch with decides how its sums are rounded.
CHUNK = 32


@dataclass(frozen=True)
class Chunk:
    """Consecutive clips that one attack on one victim is given together."""

    victim: str
    entry: Entry
    number: int
    start: int
    stop: int
    key: str
    attack_seed: int  # of the attack's generator
    audit_seed: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def shard(self) -> str:
        """Name of the file that its adversarial clips are kept in: readable first, then unique."""
        names = "-".join(_slug(name) for name in (self.victim, self.entry.name))
        return f"{names}-{self.number:04d}-{self.key[:12]}.safetensors"


def _slug(name: str) -> str:
    return "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "._" else "_" for letter in name)[:40]


@dataclass(frozen=True)
class Plan:
    """Every chunk of an audit, and what was left out.

    Attributes
    ----------
    chunks : tuple of Chunk
        Attacks on victims, which count for these.
    transfer : tuple of Chunk
        Attacks on surrogates, whose clips the targets are shown.
    skipped : tuple of (str, str, str)
        Victim or target, entry, why.
    """

    chunks: tuple[Chunk, ...]
    transfer: tuple[Chunk, ...]
    skipped: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, cast: Cast, clips: Clips, suite: Suite, seed: int) -> "Plan":
        """Return the plan.

        Raises
        ------
        DataError
            When a goal or a threat model cannot be meant for these clips, or the suite has nothing for surrogates.
        """
        prints = clips.fingerprints()
        chunks: list[Chunk] = []
        transfer: list[Chunk] = []
        skipped: list[tuple[str, str, str]] = []
        for name, victim in cast.victims.items():
            for entry in suite.entries:
                why = missing_access(victim, entry)
                if why:
                    skipped.append((name, entry.name, why))
                else:
                    chunks += _chunks(name, cast, entry, clips, prints, seed)
        if cast.surrogates and not suite.transfer:
            raise DataError(
                f"suite {suite.name!r} has nothing to attack surrogates with", hint="give it transfer entries"
            )
        for name in cast.surrogates:
            for entry in suite.transfer:
                transfer += _chunks(name, cast, entry, clips, prints, seed)
        for name, target in cast.targets.items():
            skipped += [(name, entry.name, why) for entry in suite.transfer if (why := missing_scores(target, entry))]
        return cls(tuple(chunks), tuple(transfer), tuple(skipped))


def _chunks(name: str, cast: Cast, entry: Entry, clips: Clips, prints: tuple[str, ...], seed: int) -> Iterator[Chunk]:
    """One attack on one victim, in chunks."""
    fingerprint, content = cast.fingerprints[name], entry.content()
    entry.threat.bind(clips.skeleton)
    entry.goal.reference(clips.labels, len(cast.everyone[name].classes), Chance(clips.labels))
    # Without the name: two names of one victim meet the same attack. Without the chunk: so does a clip whichever others
    # it is audited with.
    drawn = int(digest_of("generator", seed, fingerprint, content)[:15], 16)
    for number, start in enumerate(range(0, len(clips), CHUNK)):
        stop = min(start + CHUNK, len(clips))
        together = list(zip(clips.ids[start:stop], prints[start:stop], strict=True))
        key = digest_of(name, fingerprint, content, seed, together, versions())
        yield Chunk(name, entry, number, start, stop, key, drawn, seed)


def versions() -> dict[str, str]:
    """What the same settings may give other figures under."""
    return {"torch": str(torch.__version__), "funnybone": funnybone.__version__}


def missing_access(victim: Victim, entry: Entry) -> str | None:
    """Return why a victim cannot be attacked this way, or None."""
    if not offers(victim, entry.attack.access):
        return f"it needs {entry.attack.access}, the victim offers {victim.access}"
    return missing_scores(victim, entry)


def missing_scores(victim: Victim, entry: Entry) -> str | None:
    """Return why a victim's answers cannot be judged, or None."""
    if entry.goal.needs_scores and not offers(victim, "scores"):
        return f"goal {entry.goal.name} needs scores to be judged, the victim offers {victim.access}"
    return None


def choose(clips: Clips, limit: int | None, seed: int) -> Clips:
    """Return ``limit`` of the clips, each class keeping its share, in their order.

    Class c gets ``limit * n_c / n`` clips, rounded down; what is left goes to the largest remainders (the lower class
    index first). Within a class a permutation drawn from the seed decides. All clips where there is no limit or it is
    not smaller than their number.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> choose(random_clips(10), 4, seed=0).labels.bincount()
    tensor([2, 2])
    """
    if limit is None or limit >= len(clips):
        return clips
    if limit < 1:
        raise DataError(f"limit is {limit}", hint="give at least 1")
    counts = torch.bincount(clips.labels, minlength=len(clips.classes)).tolist()
    shares = [limit * count / len(clips) for count in counts]
    quotas = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(counts)), key=lambda label: (quotas[label] - shares[label], label))
    for label in by_remainder[: limit - sum(quotas)]:
        quotas[label] += 1
    generator = torch.Generator().manual_seed(int(digest_of("limit", seed)[:15], 16))
    rows = []
    for label, quota in enumerate(quotas):
        own = (clips.labels == label).nonzero().flatten()
        rows += own[torch.randperm(len(own), generator=generator)[:quota]].tolist()
    return clips[sorted(rows)]


def data_digest(clips: Clips) -> str:
    """SHA-256 over the content of every clip and over what it means: ids, classes, joints, axis and unit."""
    skeleton = clips.skeleton
    meaning = [clips.ids, clips.classes, skeleton.joints, skeleton.parents, clips.up, clips.unit]
    return digest_of(meaning, clips.fingerprints())


def identity(
    cast: Cast,
    clips: Clips,
    suite: Suite,
    seed: int,
    limit: int | None,
    natural: NaturalMotion | None = None,
    precision: Precision = "fp32",
) -> dict[str, Any]:
    """What makes two audits the same one: plain values, compared key by key."""

    def described(victims: Mapping[str, Victim]) -> list[dict[str, str]]:
        return [
            {
                "name": name,
                "fingerprint": cast.fingerprints[name],
                "access": victim.access,
                "device": victim.device.type,
            }
            for name, victim in victims.items()
        ]

    same = {
        "victims": described(cast.victims),
        "data": data_digest(clips),
        "suite": suite.name,
        "seed": seed,
        "limit": limit,
        "attacks": [entry.content() for entry in suite.entries],
        "chunk": CHUNK,
        **versions(),
    }
    if natural is not None:
        same["natural"] = natural.digest()
    if precision != "fp32":
        same["precision"] = precision
    if cast.surrogates:
        same["surrogates"] = described(cast.surrogates)
        same["transfer"] = [entry.content() for entry in suite.transfer]
    return same
