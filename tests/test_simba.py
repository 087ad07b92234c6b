"""SimBA: movements of one joint, each tried once, forwards and backwards."""

import pytest
import torch

import funnybone as fb
from funnybone.attacks.simba import bump, hanging, share_of_way
from funnybone.skeletons import NTU25
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import Linf, Mask


def movements(clips, answer, *, threat=None, **settings):
    """What was asked about after the clean clip, relative to it, by a victim of one clip, and the outcome."""
    seen = []

    def answered(xyz):
        seen.append(xyz - clips.xyz)
        return answer(len(seen))

    victim = fb.CallableVictim(answered, skeleton=clips.skeleton, classes=clips.classes, access="scores")
    outcome = fb.create_attack("simba", **settings)(victim, clips, threat=threat)
    return torch.cat(seen[2:-1]), outcome  # not what it was judged by, nor the clean clip


def stubborn(_):
    return torch.tensor([[1.0, 0.0]])


def test_every_movement_is_tried_once_each_way_and_then_it_ends():
    clips = random_clips(1)
    tried, outcome = movements(clips, stubborn, windows=4)
    assert len(tried) == 2 * 17 * 3 * 4
    assert outcome.queries.tolist() == [1 + len(tried)]
    assert torch.equal(outcome.adversarial.xyz, clips.xyz)  # nothing helped
    torch.testing.assert_close(tried[::2], -tried[1::2], atol=1e-6, rtol=0)
    different = torch.cdist(tried[::2].flatten(1), tried[::2].flatten(1)) + torch.eye(len(tried) // 2)
    assert different.min() > 1e-3
    moved = (tried != 0).any(2)  # over time
    assert (moved.flatten(1).sum(1) == 1).all()  # one joint, one axis
    first = moved[::2].flatten(1).float().argmax(1)
    assert (first.diff() < 0).any()  # in random order


def test_a_movement_that_helps_is_kept_and_not_tried_backwards():
    clips = random_clips(1)
    tried, _ = movements(clips, lambda asked: torch.tensor([[1000.0 - asked, 0.0]]), windows=4, queries=20)
    steps = tried.diff(dim=0)
    assert len(tried) == 19
    assert ((steps.abs() > 1e-6).any(2).flatten(1).sum(1) == 1).all()  # each goes on from the one before
    assert tried[-1].abs().sum() > 10 * tried[0].abs().sum()


def test_a_movement_is_a_smooth_bump_of_the_step_size():
    clips = random_clips(1, frames=60)
    tried, _ = movements(clips, stubborn, windows=3, step_size=0.05, queries=80)
    course = tried[::2].sum((1, 3, 4))  # one joint, one axis: over time
    assert course.amax(1).max() == pytest.approx(0.05, rel=0.02)
    assert course.min() > -1e-6
    assert course.diff(dim=1).abs().max() < 0.05 * torch.pi / 2 * 3 / 60 * 1.05  # no faster than its cosine


def test_a_joint_can_take_along_what_hangs_on_it():
    clips = random_clips(1)
    tried, _ = movements(clips, stubborn, windows=1, carries=True)
    rows = hanging(clips.skeleton)
    for moved in (tried[::2] != 0).any(2).any(-1)[:, 0]:
        assert any(torch.equal(moved, row > 0) for row in rows)
    assert len(tried) == 2 * 17 * 3


def test_hanging_follows_the_tree():
    rows = hanging(NTU25)
    assert rows[NTU25.root].all()
    assert set(rows.flatten().tolist()) == {0.0, 1.0}
    for child, parent in NTU25.bones:
        assert rows[parent, child] == 1
        assert (rows[parent] >= rows[child]).all()


def test_what_cannot_move_is_not_tried():
    clips = random_clips(1, persons=2, absent=True)
    clips = clips.with_xyz(clips.xyz)
    tried, outcome = movements(clips, stubborn, threat=Linf(0.1) & Mask(joints=(3, 4), persons=(0,)), windows=2)
    assert len(tried) == 2 * 2 * 3 * 2
    assert outcome.queries.tolist() == [1 + len(tried)]
    assert (tried != 0).flatten(1).any(1).all()


def test_windows_follow_the_valid_frames_of_a_person():
    time = share_of_way(torch.tensor([[[False, True, True, True, True, False]]]))
    assert time[0, 0, 1:5].tolist() == [0.125, 0.375, 0.625, 0.875]
    windows = torch.arange(4)
    heights = bump(time[0, 0, 1:5, None], windows, 4)
    torch.testing.assert_close(heights, torch.eye(4))  # as many windows as frames: one frame each
    total = bump(torch.linspace(0.2, 0.8, 50)[:, None], torch.arange(5), 5).sum(1)
    torch.testing.assert_close(total, torch.ones(50))


def test_without_a_threat_model_it_works_and_radius_means_nothing():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.05)
    outcome = fb.create_attack("simba", step_size=0.05, queries=1000)(victim, clips)
    assert outcome.success.all()
    with pytest.raises(fb.DataError, match="has no ball"):
        fb.create_attack("simba", unit="radius")(victim, clips)


def test_a_step_in_radii_is_one_in_metres():
    clips = random_clips(2)
    victim = linear_victim(clips, distance=0.05)
    metres, radii = (
        fb.create_attack("simba", queries=50, **how)(victim, clips, threat=Linf(0.02))
        for how in ({"step_size": 0.01}, {"step_size": 0.5, "unit": "radius"})
    )
    assert torch.equal(metres.adversarial.xyz, radii.adversarial.xyz)


@pytest.mark.parametrize("settings", [{"step_size": 0.0}, {"unit": "feet"}, {"windows": 0}], ids=str)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"simba: {next(iter(settings))}"):
        fb.create_attack("simba", **settings)
