"""Whether an attack succeeded: the victim is asked anew about what is stored."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.problem import achieved
from funnybone.clips import Clips
from funnybone.goals import Goal
from funnybone.victims.base import Victim, predict

# Rounding aside, a success outside of the threat model is no success.
TOLERANCE = 1e-6

VERDICT_DRAWS = 32  # answers of a stochastic victim that decide; none of them is known to the attack


@contextlib.contextmanager
def repeatable(victim: Victim, generator: torch.Generator) -> Iterator[None]:
    """Let what a stochastic victim draws of torch's global state follow from the generator; leave that state alone."""
    if not victim.stochastic:
        yield
        return
    with torch.random.fork_rng(devices=[victim.device] if victim.device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


@dataclass(frozen=True)
class Verdict:
    """What a victim says to clips, asked by the evaluator: one answer, or the majority of many that differ."""

    prediction: Int[Tensor, " N"]
    agreement: Float[Tensor, " N"]  # share of the answers in which the goal holds
    finite: Bool[Tensor, " N"]


def judge(victim: Victim, clips: Clips, goal: Goal, reference: Int[Tensor, " N"], batch_size: int) -> Verdict:
    """Ask a victim about clips: by logits where it gives any, by labels where not."""
    answers = VERDICT_DRAWS if victim.stochastic else 1
    votes = torch.zeros(len(clips), len(victim.classes))
    met = torch.zeros(len(clips))
    finite = torch.ones(len(clips), dtype=torch.bool)
    for _ in range(answers):
        predicted, logits = predict(victim, clips, batch_size)
        votes += torch.nn.functional.one_hot(predicted, len(victim.classes))
        if logits is None:
            met += goal.achieved_by_labels(predicted, reference)
        else:
            met += achieved(goal, logits, reference)
            finite &= torch.isfinite(logits).all(1)
    return Verdict(votes.argmax(1), met / answers, finite)
