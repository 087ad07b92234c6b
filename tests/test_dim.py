"""DIM: what the changes of a copy are, and that nothing but the direction of a step comes from one."""

import dataclasses
import math

import pytest
import torch

import funnybone as fb
from funnybone.attacks.dim import DIM, Change, stretched_times
from funnybone.chance import Chance
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import Linf

PLAIN = {"crop": 1.0, "rotation": 0.0, "shear": 0.0, "corruption": 0.0}
MUCH = {"crop": 0.5, "rotation": 1.0, "shear": 0.5, "corruption": 0.5}


def copies_of(clips, **settings):
    """Each clip's changed copy, with only the changes that are named."""
    change = Change.drawn(DIM(**{**PLAIN, **settings}), clips, Chance(torch.arange(len(clips))))
    return change.of(clips.xyz, clips.valid)


def centre(xyz, valid):
    return torch.stack([one[there].mean((0, 1)) for one, there in zip(xyz, valid, strict=True)])


def flat(clips, up="y"):
    return dataclasses.replace(clips, xyz=clips.xyz[..., :2], unit="normalised", up=up)


@pytest.fixture
def moving():
    clips = random_clips(40, persons=2, absent=True)
    return clips.with_xyz(torch.where(clips.valid[..., None, None], clips.xyz + torch.tensor([3.0, -1.0, 4.0]), 0))


def test_without_changes_the_copy_is_the_clip(moving):
    torch.testing.assert_close(copies_of(moving), moving.xyz, atol=2e-6, rtol=0)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_a_turn_is_about_the_vertical_through_the_middle(moving, up):
    clips, axis = dataclasses.replace(moving, up=up), "xyz".index(up)
    copies = copies_of(clips, rotation=0.5)
    torch.testing.assert_close(copies[..., axis], clips.xyz[..., axis], atol=1e-5, rtol=0)
    bones = [clips.skeleton.bone_lengths(xyz) for xyz in (copies, clips.xyz)]
    torch.testing.assert_close(*bones, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(centre(copies, clips.valid), centre(clips.xyz, clips.valid), atol=1e-5, rtol=0)
    horizontal = [i for i in range(3) if i != axis]
    before, after = (xyz[:, 0, 0, 0, horizontal] - xyz[:, 0, 0, 1, horizontal] for xyz in (clips.xyz, copies))
    angle = torch.acos(torch.cosine_similarity(before, after).clamp(-1, 1))
    assert 0.4 < angle.max() <= 0.5 + 1e-3
    assert angle.min() < 0.1
    assert angle.unique().numel() > 30  # to each clip its own


@pytest.mark.parametrize("up", ["x", "y"])
def test_a_turn_of_a_flat_clip_is_the_narrowing_that_a_camera_sees(up):
    clips, axis = flat(random_clips(20), up), "xy".index(up)
    copies = copies_of(clips, rotation=0.5)
    torch.testing.assert_close(copies[..., axis], clips.xyz[..., axis], atol=1e-5, rtol=0)
    wide, narrow = (xyz[:, 0, 0, 0, 1 - axis] - xyz[:, 0, 0, 1, 1 - axis] for xyz in (clips.xyz, copies))
    ratio = narrow / wide
    assert math.cos(0.5) - 1e-3 <= ratio.min() < 0.95
    assert 0.99 < ratio.max() <= 1 + 1e-3


@pytest.mark.parametrize("coordinates", [2, 3])
def test_a_shear_keeps_the_middle_and_is_linear(coordinates):
    clips = random_clips(20) if coordinates == 3 else flat(random_clips(20))
    copies = copies_of(clips, shear=0.3)
    torch.testing.assert_close(centre(copies, clips.valid), centre(clips.xyz, clips.valid), atol=1e-5, rtol=0)
    for before, after in zip(clips.xyz, copies, strict=True):
        bones, sheared = ((xyz[..., 1:, :] - xyz[..., :1, :]).flatten(0, 2) for xyz in (before, after))
        matrix = torch.linalg.lstsq(bones, sheared).solution
        torch.testing.assert_close(bones @ matrix, sheared, atol=1e-4, rtol=0)
        torch.testing.assert_close(matrix.diagonal(), torch.ones(coordinates), atol=1e-4, rtol=0)
        beside = (matrix - torch.eye(coordinates)).abs()
        assert 0.01 < beside.max() <= 0.3 + 1e-4


def test_half_of_the_copies_have_joints_astray():
    clips = random_clips(200)
    copies = copies_of(clips, corruption=0.3)
    moved = ((copies - clips.xyz).abs() > 1e-4).any(-1)  # (N, M, T, V)
    astray = moved.any(2)[:, 0]
    where = moved[:, 0].float().mean(1)  # share of the frames
    assert where[astray].min() > 0.99  # in all frames or in none
    some = astray.any(1)
    assert 0.4 < some.float().mean() < 0.6
    assert 0.25 < astray[some].float().mean() < 0.36
    middle = centre(clips.xyz, clips.valid)[:, None, None, None]
    offsets = (copies - middle).abs().amax(-1)[:, 0].amax(1)
    collapsed = (offsets[some] < 1e-4).any(1)
    assert 0.35 < collapsed.float().mean() < 0.65  # the others are mapped elsewhere


def test_time_is_stretched_within_valid_frames_only():
    clips = random_clips(60, persons=2, frames=16)
    valid = clips.valid.clone()
    valid[0, :, :3] = valid[0, :, 12:] = valid[1, 1] = False
    time = torch.arange(16.0)[:, None, None].expand(60, 2, 16, 17, 3)
    clips = dataclasses.replace(clips, xyz=torch.where(valid[..., None, None], time + 1, 0), valid=valid)
    copies = copies_of(clips, crop=0.5)
    seen = copies[..., 0, 0]
    assert torch.equal(seen == 0, ~valid)  # who was absent is absent, who was there is there
    assert (copies == copies[..., :1, :1]).all()
    speed = seen[1:, 0].diff()
    torch.testing.assert_close(speed, speed[:, :1].expand_as(speed), atol=1e-4, rtol=0)  # a line stays a line
    assert speed.min() >= 0.5 - 1e-4
    assert speed.min() < 0.55
    assert 0.9 < speed.max() <= 1 + 1e-4
    assert seen[:, 0][valid[:, 0]].min() >= 1 - 1e-4
    assert seen[:, 0].max() <= 16 + 1e-4
    inside = seen[0, 0, 3:12]
    assert inside.min() >= 4 - 1e-4
    assert inside.max() <= 12 + 1e-4


def test_a_stretch_begins_and_ends_where_it_says():
    valid = torch.ones(2, 1, 11, dtype=torch.bool)
    times = stretched_times(valid, torch.tensor([0.0, 0.4]), torch.tensor([1.0, 0.6]))
    torch.testing.assert_close(times[0], torch.arange(11.0))
    torch.testing.assert_close(times[1], torch.linspace(4, 10, 11))


def test_where_a_clip_stands_does_not_matter(moving):
    shift = torch.tensor([-9.0, 2.0, 0.5])
    there = moving.valid[..., None, None]
    elsewhere = moving.with_xyz(torch.where(there, moving.xyz + shift, 0))
    copies, others = copies_of(moving, **MUCH), copies_of(elsewhere, **MUCH)
    assert not copies[~moving.valid].any()
    torch.testing.assert_close(torch.where(there, copies + shift, 0), others, atol=2e-5, rtol=0)


def test_a_copy_is_differentiated_through():
    clips = random_clips(3, persons=2, frames=5, absent=True)
    change = Change.drawn(DIM(**MUCH), clips, Chance(torch.arange(3)))
    change = Change(change.times.double(), change.maps.double())
    xyz = clips.xyz[..., :4, :].double().requires_grad_(True)
    change = dataclasses.replace(change, maps=change.maps[:, :4])
    assert torch.autograd.gradcheck(lambda x: change.of(x, clips.valid), (xyz,))


class Watched(torch.nn.Module):
    """A victim that keeps what it was shown."""

    def __init__(self, module):
        super().__init__()
        self.module, self.shown = module, []

    def forward(self, xyz):
        self.shown.append((xyz.detach().clone(), torch.is_grad_enabled() and xyz.requires_grad))
        return self.module(xyz)


def watched(clips, distance):
    linear = linear_victim(clips, distance=distance)
    victim = fb.TorchVictim(Watched(linear.module), skeleton=clips.skeleton, classes=clips.classes)
    return victim, victim.module.shown


def test_gradients_are_of_copies_and_answers_of_the_clips():
    clips = random_clips(4)
    victim, shown = watched(clips, distance=5.0)  # out of reach
    attack = DIM(steps=3, probability=1.0, momentum=0.0, **{**PLAIN, "rotation": 1.0})
    outcome = attack(victim, clips, threat=Linf(0.01))
    shown = shown[1:-1]  # the verdicts before and after
    assert [gradient for _, gradient in shown] == [True, False] * 3 + [False]
    copies, themselves = ([xyz for xyz, gradient in shown if gradient is kind] for kind in (True, False))
    assert torch.equal(themselves[0], clips.xyz)
    assert all((xyz - clips.xyz).abs().max() <= 0.01 + 1e-6 for xyz in themselves)
    assert all((xyz - clips.xyz).flatten(1).abs().amax(1).min() > 0.02 for xyz in copies)
    # The first step, by hand: of a plane with normal w, the gradient at R x is R' w, and so is that at the copy's clip.
    normal = victim.module.module.plane.normal.detach()
    side = torch.where(clips.labels == 0, 1.0, -1.0)
    for before, copy, after, sign in zip(clips.xyz, copies[0], themselves[1], side, strict=True):
        bones, turned = ((xyz[..., 1:, :] - xyz[..., :1, :]).flatten(0, 2) for xyz in (before, copy))
        matrix = torch.linalg.lstsq(bones, turned).solution
        middle = normal.mean((0, 1, 2))
        gradient = (normal - middle) @ matrix.T + middle  # the mean position is not turned
        expected = -0.001 * (sign * gradient).sign()
        agree = ((after - before).sign() == expected.sign()).float().mean()
        assert agree > 0.99
    assert outcome.gradients.tolist() == [3] * 4
    assert outcome.queries.tolist() == [7] * 4  # a clip and a copy in each step, and the last iterate


def test_every_forward_pass_is_counted():
    clips = random_clips(8)
    victim, shown = watched(clips, distance=0.5)
    outcome = DIM(steps=25, **MUCH)(victim, clips, threat=Linf(0.04))
    assert outcome.success.any()
    assert len(outcome.steps.unique()) > 2
    assert sum(len(xyz) for xyz, _ in shown[1:-1]) == int(outcome.queries.sum())
    assert sum(len(xyz) for xyz, gradient in shown if gradient) == int(outcome.gradients.sum())
    # About half of the steps are on copies: fewer than two queries a step, more than one.
    assert 1.2 < (outcome.queries / (outcome.steps + 1)).mean() < 1.8


def test_without_diversity_it_is_mifgsm():
    clips = random_clips(6)
    victim = linear_victim(clips, distance=0.05)
    dim, mifgsm = (
        fb.create_attack(name, steps=5, **settings)(victim, clips, threat=Linf(0.005))
        for name, settings in (("dim", {"probability": 0.0}), ("mifgsm", {}))
    )
    assert torch.equal(dim.adversarial.xyz, mifgsm.adversarial.xyz)
    assert torch.equal(dim.queries, mifgsm.queries)


class Strict(torch.nn.Module):
    """Answers with the wrong class to whatever is not near a clip that it knows."""

    def __init__(self, module, clips):
        super().__init__()
        self.module = module
        self.register_buffer("clean", clips.xyz.flatten(1))

    def forward(self, xyz):
        near = torch.cdist(xyz.detach().flatten(1), self.clean, p=torch.inf).amin(1) < 0.02
        logits = self.module(xyz)
        return torch.where(near[:, None], logits, -logits)


def test_a_copy_that_fools_is_no_success():
    clips = random_clips(4)
    module = Strict(linear_victim(clips, distance=5.0).module, clips)
    victim = fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes)
    outcome = DIM(steps=6, probability=1.0, **MUCH)(victim, clips, threat=Linf(0.01))
    assert outcome.attacked.all()
    assert not outcome.success.any()
    assert outcome.steps.tolist() == [6] * 4


def test_mixed_precision_does_not_round_copies():
    clips = random_clips(4)
    clips = clips.with_xyz(clips.xyz + 100.0)
    shown = []
    for precision in ("fp32", "bf16"):
        victim, seen = watched(clips, distance=5.0)
        DIM(steps=1, probability=1.0, **MUCH)(victim, clips, threat=Linf(0.01), precision=precision)
        shown.append(next(xyz for xyz, gradient in seen if gradient))
    assert torch.equal(*shown)


@pytest.mark.parametrize(
    "settings",
    [
        {"probability": 1.5},
        {"probability": -0.1},
        {"crop": 0.0},
        {"crop": 1.1},
        {"rotation": -0.1},
        {"rotation": float("inf")},
        {"shear": float("nan")},
        {"corruption": 2.0},
        {"momentum": 2.0},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"attack dim: {next(iter(settings))}"):
        fb.create_attack("dim", **settings)
