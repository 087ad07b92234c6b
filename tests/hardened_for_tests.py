"""A small network with its record, as a weights file would give it back: a base that can be hardened and saved."""

import torch

import funnybone as fb
from funnybone.models import Preprocess, WeightsRecord
from funnybone.models.weights import AccuracyRecord, DataRecord, SkeletonRecord
from funnybone.testing import random_clips


def some_clips(n=4):
    """Two persons, one of whom is absent from a clip; another clip is half padding."""
    return random_clips(n, persons=2, absent=True)


def small_base(clips=None, **said):
    """A network that nobody trained, on the skeleton and the classes of some clips."""
    clips = some_clips() if clips is None else clips
    _, persons, frames, _, _ = clips.xyz.shape
    record = WeightsRecord(
        model="hrnn",
        options={
            "persons": persons,
            "frames": frames,
            **dict.fromkeys(("hidden1", "hidden2", "hidden3", "hidden4"), 6),
        },
        skeleton=SkeletonRecord.of(clips.skeleton),
        classes=clips.classes,
        preprocess=Preprocess.of(clips.skeleton).to_dict(),
        data=DataRecord(name=clips.name, split="!subject:s0", n=8, synthetic=True, sha256=""),
        accuracy=AccuracyRecord(value=0.5, ci95=(0.2, 0.8), n=8, split="subject:s0"),
        **said,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = record.build()
    return fb.TorchVictim(
        module,
        skeleton=clips.skeleton,
        classes=clips.classes,
        preprocess=record.build_preprocess(),
        name="small",
        frames=frames,
        persons=persons,
        up=record.up,
        unit=record.unit,
        defense=(record.defense or {}).get("name"),
        record=record,
    )
