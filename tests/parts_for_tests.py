"""What tests of several attacks need: a problem to look into, and victims that differ from a plain one in one thing."""

import torch

import funnybone as fb
from funnybone.attacks import Problem
from funnybone.chance import Chance
from funnybone.skeletons import Skeleton
from funnybone.testing import linear_victim, random_clips
from funnybone.victims import Meter, view


def problem_of(victim, clips, *, threat=None, draws=1, starts=None):
    """What an attack of these clips is given."""
    return Problem(
        victim=view(victim, "gradients", Meter(len(clips))),
        goal=fb.goals.AnythingBut(),
        threat=threat or fb.threat.Unbounded(),
        clips=clips,
        reference=clips.labels,
        rows=torch.arange(len(clips)),
        chance=Chance(torch.arange(len(clips))),
        draws=draws,
        starts=starts,
    )


def noisy(victim, noise, *, own=True, name=None):
    """A victim that adds noise of a known size to logits: from a source of its own, or from torch's global one."""
    generator = torch.Generator().manual_seed(0) if own else None
    return _changed(victim, lambda logits: logits + noise * torch.randn(logits.shape, generator=generator), name, True)


def loud(victim, scale):
    """A victim whose logits are scaled."""
    return _changed(victim, lambda logits: scale * logits)


def _changed(victim, change, name=None, stochastic=False):
    module = _Changed(victim.module, change)
    return fb.TorchVictim(module, skeleton=victim.skeleton, classes=victim.classes, name=name, stochastic=stochastic)


class _Changed(torch.nn.Module):
    def __init__(self, module, change):
        super().__init__()
        self.module, self.change = module, change

    def forward(self, xyz):
        return self.change(self.module(xyz))


def easy():
    """A victim, four clips of twelve numbers, and a border 50 mm from each that crosses every way between classes."""
    clips = random_clips(4, frames=2, skeleton=Skeleton("stick", ("hand", "tip"), (-1, 0)))
    return linear_victim(clips), clips
