"""A victim that breaks any one promise fails its exam, and is told which."""

import time

import pytest
import torch
from torch import nn

import funnybone as fb
from funnybone.models import Fused, Model, create, models
from funnybone.skeletons import COCO17
from funnybone.testing import check_victim, random_clips


@pytest.fixture
def clips():
    return random_clips(4, persons=2, absent=True)


class Honest(nn.Module):
    """A linear classifier of the mean posture."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(2 * 17 * 3, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, xyz):
        return self.fc(xyz.mean(2).flatten(1))


class Infinite(Honest):
    def forward(self, xyz):
        return super().forward(xyz) / 0


class Restless(Honest):
    def forward(self, xyz):
        self.calls += 1
        return super().forward(xyz) + self.calls


class Comparing(Honest):
    def forward(self, xyz):
        return super().forward(xyz - xyz.mean(0))


class Sharing(Honest):
    def forward(self, xyz):
        self._seen = xyz
        time.sleep(0.02)
        return super().forward(self._seen)


class Steep(Honest):
    def forward(self, xyz):
        return super().forward(xyz) + 0 * (xyz - xyz).abs().sqrt().sum()


class Blind(Honest):
    def forward(self, xyz):
        return super().forward(xyz.detach())


class Flat(Honest):
    def forward(self, xyz):
        return super().forward(xyz.detach()) + 0 * xyz.sum()


class Slanted(Honest):
    def forward(self, xyz):
        logits = super().forward(xyz)
        return logits + 0.05 * (logits - logits.detach())


class Ordering(Honest):
    symmetric = True


class Partial(Honest):
    def forward(self, xyz):
        return super().forward(torch.cat([xyz[..., :3, :], xyz[..., 3:, :].detach()], -2))


class Padding(Honest):
    skips_empty = True


class Drawing(Honest):
    def forward(self, xyz):
        return super().forward(xyz) + 0 * torch.rand(())


class Counting(Honest):
    def forward(self, xyz):
        self.calls += 1
        return super().forward(xyz)


class Remembering(Honest):
    def forward(self, xyz):
        self.last = len(xyz)
        return super().forward(xyz)


class Training(Honest):
    def forward(self, xyz):
        self.train()
        return super().forward(xyz)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Infinite, "a logit is not finite"),
        (Restless, "two answers differ"),
        (Comparing, "the rest of the batch"),
        (Sharing, "two threads"),
        (Steep, "the gradient is not finite"),
        (Blind, "its logits have none"),
        (Flat, "the gradient is zero everywhere"),
        (Slanted, "finite differences .* in torch.float64"),
        (Partial, "finite differences .* in torch.float64"),
        (Ordering, "the order of persons"),
        (Padding, "it skips empty frames, it says"),
        (Drawing, "the global random state"),
        (Counting, "something behind: the fingerprint, calls changed"),
        (Remembering, "something behind: the fingerprint changed"),
        (Training, "something behind: the mode of the module, the mode of fc changed"),
    ],
)
def test_a_broken_promise_is_named(clips, module, says):
    with pytest.raises(AssertionError, match=says):
        check_victim(fb.TorchVictim(module(), skeleton=COCO17, classes=clips.classes), clips)


def test_an_honest_victim_passes(clips):
    check_victim(fb.TorchVictim(Honest(), skeleton=COCO17, classes=clips.classes), clips)
    stochastic = fb.TorchVictim(Drawing(), skeleton=COCO17, classes=clips.classes, stochastic=True)
    check_victim(stochastic, clips)
    check_victim(fb.CallableVictim(lambda xyz: xyz[:, 0, 0, 0, 0] > 0, skeleton=COCO17, classes=clips.classes), clips)


def test_clips_that_are_changed_in_place(clips):
    rounded = fb.CallableVictim(
        lambda xyz: xyz.round_(decimals=1).flatten(1)[:, :2], skeleton=COCO17, classes=clips.classes, access="scores"
    )
    with pytest.raises(AssertionError, match="the clips were changed in place"):
        check_victim(rounded, clips)


class Staying(Honest):
    def __init__(self):
        super().__init__()
        self.scale = torch.ones(2)  # no buffer

    def forward(self, xyz):
        return super().forward(xyz) * self.scale


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is one device only")
def test_a_tensor_that_stays_behind_on_its_device(clips):
    with pytest.raises(AssertionError, match="not all of its tensors moved"):
        check_victim(fb.TorchVictim(Staying(), skeleton=COCO17, classes=clips.classes), clips)


class Forgetful(Model):
    """A family whose weights are not all in its state."""

    def __init__(self, *arguments, size: int = 4, **options):
        super().__init__(*arguments, **options)
        self.fc = nn.Linear(size, self.num_classes)
        self.mix = torch.randn(self.persons * len(self.skeleton.joints) * self.in_channels, size)

    def features(self, xyz, present=None):
        return xyz.mean(2).flatten(1) @ self.mix.to(xyz)

    def classify(self, features):
        return self.fc(features)


def test_weights_that_do_not_return_from_their_file(clips, monkeypatch):
    monkeypatch.setitem(models._parts, "forgetful", Forgetful)
    victim = fb.TorchVictim(create("forgetful", skeleton=COCO17, num_classes=2), skeleton=COCO17, classes=clips.classes)
    check_victim(victim, clips)
    with pytest.raises(AssertionError, match="read from its weights file"):
        check_victim(victim, clips, options={"size": 4})


def test_a_network_of_several_streams_goes_through_its_file_too(clips):
    streams = ("joint", "joint_motion")
    network = Fused({stream: create("stgcn", skeleton=COCO17, num_classes=2, width=4) for stream in streams}, (1, 0.5))
    check_victim(fb.TorchVictim(network, skeleton=COCO17, classes=clips.classes), clips, options={"width": 4})


def test_options_are_those_of_a_model(clips):
    with pytest.raises(AssertionError, match="which its module is not"):
        check_victim(fb.TorchVictim(Honest(), skeleton=COCO17, classes=clips.classes), clips, options={})
