"""A victim with features that costs nothing to ask: what is appended to victims is examined on it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

import funnybone as fb
from funnybone.models import Model


class Tiny(Model):
    """A hidden layer of tanh on the positions."""

    def __init__(self, skeleton, num_classes, persons, frames, width=12):
        super().__init__(skeleton, num_classes, persons, frames)
        self.hidden = nn.Linear(persons * frames * len(skeleton.joints) * 3, width)
        self.last = nn.Linear(width, num_classes)

    def features(self, xyz, present=None) -> Float[Tensor, "N F"]:
        return self.hidden(xyz.flatten(1)).tanh()

    def classify(self, features) -> Float[Tensor, "N K"]:
        return self.last(features)


def tiny_victim(clips, scale=3.0):
    """One with random weights, the same each time, that asks for clips of this kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Tiny(clips.skeleton, len(clips.classes), clips.xyz.shape[1], clips.xyz.shape[2])
        nn.init.normal_(network.last.weight, std=scale)
    return fb.TorchVictim(network, skeleton=clips.skeleton, classes=clips.classes, name="tiny")
