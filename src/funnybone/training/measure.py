"""How good a network is on clips, and the part of the training clips that is kept to ask."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.metrics.intervals import wilson
from funnybone.models.modes import evaluating
from funnybone.models.weights import AccuracyRecord


class Measured(NamedTuple):
    """Cross-entropy, without smoothing, and share of right answers."""

    loss: float
    accuracy: float


def hold_out(clips: Clips, share: float, seed: int) -> tuple[Clips, Clips | None]:
    """Divide clips into those to train on and those that choose, the same share of each class, at random.

    A class gives none where its share is less than half a clip, and never all.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> part, chosen = hold_out(random_clips(40), 0.1, seed=0)
    >>> len(part), len(chosen)
    (36, 4)
    """
    labels = clips.labels.cpu()
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    order = torch.randperm(len(clips), generator=generator)
    classes = F.one_hot(labels[order], len(clips.classes))
    counts = classes.sum(0)
    wanted = (share * counts).round().long().minimum((counts - 1).clamp(min=0))
    # Place of each clip among those of its class, in the random order.
    place = (classes.cumsum(0) * classes).sum(1)
    kept = place <= wanted[labels[order]]
    if not kept.any():
        return clips, None
    return clips[order[~kept].sort().values], clips[order[kept].sort().values]


def measure(
    module: nn.Module,
    clips: Clips,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    *,
    batch: int = 64,
    moved: Callable[[Clips], Tensor] | None = None,
) -> Measured:
    """Loss and accuracy of a network on clips, where the network lies; each module's mode is left as it was.

    Of the positions that ``moved`` returns, where it is given: it meets the network in evaluation mode.
    """
    logits, labels = _logits(module, clips, preprocess, batch, moved), clips.labels.cpu()
    loss = F.cross_entropy(logits.float(), labels).item()
    return Measured(loss, (logits.argmax(1) == labels).float().mean().item())


def evaluate(
    module: nn.Module,
    clips: Clips,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    *,
    batch: int = 64,
    split: str | None = None,
) -> AccuracyRecord:
    """Accuracy of a network on clips, in float32, where the network lies.

    Raises
    ------
    DataError
        When a logit is not finite: the largest of such answers says nothing.

    Examples
    --------
    >>> from funnybone.models import create
    >>> from funnybone.skeletons import COCO17
    >>> clips = Clips(torch.ones(2, 1, 8, 17, 3), torch.ones(2, 1, 8, dtype=torch.bool), torch.tensor([0, 1]),
    ...               ("walk", "run"), COCO17, torch.full((2,), 30.0), ("a", "b"))
    >>> evaluate(create("stgcn", skeleton=COCO17, num_classes=2, persons=1, width=4), clips).value
    0.5
    """
    logits = _logits(module, clips, preprocess, batch)
    wrong = ~torch.isfinite(logits).all(1)
    if wrong.any():
        raise DataError(
            f"{clips.name}: the network answers NaN or infinity to {int(wrong.sum())} of {len(clips)} clips, "
            f"first {clips.ids[int(wrong.nonzero()[0])]}",
            hint="the training diverged; lower the learning rate (--lr)",
        )
    right = int((logits.argmax(1) == clips.labels.cpu()).sum())
    interval = wilson(right, len(clips)) or (0.0, 1.0)
    return AccuracyRecord(value=right / len(clips), ci95=interval, n=len(clips), split=split)


def _logits(
    module: nn.Module,
    clips: Clips,
    preprocess: Callable[[Tensor], Tensor] | None,
    batch: int,
    moved: Callable[[Clips], Tensor] | None = None,
) -> Float[Tensor, "N K"]:
    """Answers in evaluation mode, on the CPU."""
    device = next(module.parameters()).device
    answers = []
    with evaluating(module), torch.no_grad():
        for rows in torch.arange(len(clips)).split(batch):
            part = clips[rows].to(device)
            xyz = moved(part) if moved else part.xyz
            answers.append(module(preprocess(xyz) if preprocess else xyz).cpu())
    return torch.cat(answers)
