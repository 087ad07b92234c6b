"""A problem whose robust accuracy is known in closed form, and victims small enough to be trained in a test."""

import math
from contextlib import contextmanager

import torch

import funnybone as fb
from funnybone.clips import Clips
from funnybone.models import Model, Preprocess, Recipe, models, save_weights
from funnybone.skeletons import COCO17
from funnybone.training import Batch, Method, train

# Metres by which a robust and a fragile coordinate tell the classes apart: mean and standard deviation.
ROBUST, FRAGILE = (0.03, 0.02), (0.002, 0.002)


class Plane(Model):
    """Logits (s, -s) with s linear in the mean pose, in millimetres."""

    def __init__(self, **sizes) -> None:
        super().__init__(**sizes)
        self.line = torch.nn.Linear(len(self.skeleton.joints) * self.in_channels, 1, bias=False)
        torch.nn.init.zeros_(self.line.weight)

    def features(self, xyz, present=None):
        return xyz.mean((1, 2)).flatten(1) * 1000

    def classify(self, features):
        score = self.line(features)
        return torch.cat([score, -score], 1)


@contextmanager
def named_plane():
    """The registry of models with `Plane` in it, as ``plane``, for a while."""
    models.names()
    models.register("plane")(Plane)
    try:
        yield
    finally:
        models._parts.pop("plane")


def fragile(n=300, seed=0):
    """One coordinate that is mostly right, by centimetres, and twelve that together always are, by two millimetres.

    Tsipras et al., ICLR 2019: who trusts the twelve is right on clean clips, and wrong wherever they move by three.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    sign = 1.0 - 2 * labels[:, None, None]
    xyz = torch.zeros(n, 1, 2, 17, 3)
    for joints, (mean, deviation) in ((slice(1), ROBUST), (slice(1, 5), FRAGILE)):
        pose = xyz[:, 0, 0, joints]
        xyz[:, :, :, joints] = (sign * mean + deviation * torch.randn(pose.shape, generator=generator))[:, None, None]
    xyz[..., 0, 1:] = 0
    xyz[..., 16, :] = 1.0  # or someone would not be there
    ids = tuple(f"{seed}.{i}" for i in range(n))
    valid, fps = torch.ones(n, 1, 2, dtype=torch.bool), torch.full((n,), 30.0)
    return Clips(xyz, valid, labels, ("left", "right"), COCO17, fps, ids, name="fragile", synthetic=True)


def best_robust_accuracy(radius):
    """Of who trusts the robust coordinate alone: the share of a normal distribution that is farther than the radius."""
    mean, deviation = ROBUST
    return 0.5 * (1 + math.erf((mean - radius) / deviation / math.sqrt(2)))


def robust_accuracy(module, clips, radius):
    """Share of the clips that no clip within an L-infinity radius makes wrong, exactly."""
    weight = 1000 * module.line.weight[0]
    sign = 1.0 - 2 * clips.labels
    margin = sign * (clips.xyz.mean((1, 2)).flatten(1) @ weight) - radius * weight.abs().sum()
    return float((margin > 0).float().mean())


PLAIN = {"rotation": 0.0, "scale": 0.0, "label_smoothing": 0.0, "weight_decay": 0.0, "validation": 0.0}
PLANE = Recipe(**PLAIN, epochs=8, batch=50, optimiser="adam", max_lr=0.01)


def plane_on(clips, seed=0):
    """A plane trained in the plain way, with its record."""
    return train("plane", clips, recipe=PLANE, preprocess=Preprocess(centre="none"), seed=seed)


def saved(trained, folder):
    """The victim that a file gives back."""
    path = folder / f"{trained.record.model}.{len(list(folder.iterdir()))}.safetensors"
    save_weights(path, trained.module, trained.record)
    return fb.create_victim(path)


def waves(n=18, persons=1, seed=0, absent=False):
    """Clips of two classes: the left wrist waves, or the right one. Some are absent for a while, or all the time."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randn(1, 1, 1, 17, 3, generator=generator).expand(n, persons, 12, 17, 3).clone()
    xyz += 0.15 * torch.randn(xyz.shape, generator=generator)
    labels = torch.arange(n) % 2
    wave = torch.sin(torch.arange(12.0))
    for clip, label in enumerate(labels.tolist()):
        xyz[clip, :, :, 9 + label, 1] += wave
    valid = torch.ones(n, persons, 12, dtype=torch.bool)
    if absent:
        valid[0, :, 8:] = False
        valid[1, -1] = persons == 1
    ids = tuple(f"{seed}.{i}" for i in range(n))
    xyz = torch.where(valid[..., None, None], xyz, 0)
    return Clips(
        xyz, valid, labels, ("left", "right"), COCO17, torch.full((n,), 30.0), ids, name="waves", synthetic=True
    )


def batch_of(victim, clips, *, training=True, seed=0, memory=None):
    """What a method is given of clips and a victim's network."""
    record = victim.record
    module = record.build()
    module.load_state_dict(victim.module.state_dict())

    def show(xyz):
        shown = victim.preprocess(xyz)
        return shown, (shown != 0).flatten(3).any(3)

    generator = torch.Generator().manual_seed(seed)
    objective = module.objective(0.0)
    return Batch(clips, module.train(training), show, objective, 0.5, generator, {} if memory is None else memory)


class Remembered(Method):
    """Plain training that keeps the batches it has seen."""

    def __init__(self):
        object.__setattr__(self, "seen", [])

    def loss(self, batch):
        self.seen.append(batch.clips)
        return super().loss(batch)
