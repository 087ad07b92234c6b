"""Square: the schedule, tiles on limbs, surfaces of balls."""

import pytest
import torch

import funnybone as fb
from funnybone.attacks.square import HALVED_AFTER, Square, along_limbs, hill_and_valley, places, share_of_tile
from funnybone.skeletons import COCO17, NTU25
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2, Linf, Mask
from funnybone.threat.ball import Ball
from parts_for_tests import problem_of


def begun(ball, *, clips=None, questions=10_000, **settings):
    """An attack, its problem, and the clips where it starts."""
    clips = clips if clips is not None else random_clips(3, persons=2, frames=12, absent=True)
    problem = problem_of(linear_victim(clips), clips, threat=ball)
    problem.state["questions"] = torch.full((len(clips),), questions)
    attack = Square(**settings)
    return attack, problem, problem.constrain(attack.start(problem))


def test_the_schedule_is_the_papers():
    for place, after in enumerate(HALVED_AFTER):
        before, behind = (float(share_of_tile(0.8, k, torch.tensor([10_000]))) for k in (after, after + 1))
        assert before == pytest.approx(0.8 / 2**place)
        assert behind == pytest.approx(0.4 / 2**place)
    assert share_of_tile(0.8, 9_999, torch.tensor([10_000])) == pytest.approx(0.8 / 512)


def test_the_schedule_is_stretched_to_the_questions_of_each_clip():
    shares = share_of_tile(0.8, 60, torch.tensor([100, 1000, 10_000]))
    assert shares.tolist() == pytest.approx([0.8 / 2**7, 0.8 / 2**4, 0.8 / 2**2])  # 6000, 600, 60 of 10,000


@pytest.mark.parametrize("skeleton", [COCO17, NTU25], ids=lambda skeleton: skeleton.name)
def test_joints_are_ordered_along_limbs(skeleton):
    order = along_limbs(skeleton)
    assert sorted(order) == list(range(len(order)))
    assert order[0] == skeleton.root
    for joint in order:  # what hangs on a joint follows it in one piece
        hanging = {joint}
        for other in order:
            hanging |= {other} if skeleton.parents[other] in hanging else set()
        first = order.index(joint)
        assert set(order[first : first + len(hanging)]) == hanging


def test_only_what_moves_has_a_place():
    movable = torch.ones(1, 2, 4, 3, dtype=torch.bool)
    movable[0, 1, :, 0] = False
    movable[0, :, 2] = False
    row, frame = places(movable, (0, 2, 1))
    assert row.flatten(2).tolist() == [[[0, 2, 1], [-1, 4, 3]]]
    assert frame.flatten().tolist() == [0, 1, -1, 2]


def test_the_start_is_constant_over_time_and_at_the_surface():
    for ball in (Linf(0.02), L2(0.3)):
        _, problem, xyz = begun(ball)
        way = xyz - problem.clean
        there = problem.clips.valid[..., None, None].expand_as(way)
        assert not way[~there].any()
        torch.testing.assert_close(
            ball.distance(problem.clean, xyz).float(), torch.full((3,), ball.radius), atol=1e-5, rtol=0
        )
        assert (way[1].sign() == way[1, :, :1].sign()).all()
        assert (way[1, :, 0].sign().unique() != 0).all()


@pytest.mark.parametrize("k", [0, 60, 3000, 9000])
def test_a_tile_is_some_joints_by_some_frames_with_one_sign_for_each_axis(k):
    clips = random_clips(40, persons=2, frames=12)
    attack, problem, start = begun(Linf(0.02), clips=clips)
    asked = problem.constrain(attack.proposed(problem, start, k))
    changed = (asked - start).abs() > 0.01
    assert changed.flatten(1).any(1).all()
    order = list(along_limbs(clips.skeleton))
    tile = changed.any(-1)[..., order].transpose(2, 3).flatten(1, 2)  # (N, persons and joints, T)
    share = 0.8 / 2 ** sum(k > after for after in HALVED_AFTER)
    rows, frames = round(share**0.5 * 34), round(share**0.5 * 12)
    assert tile.any(2).sum(1).max() == max(rows, 1)
    assert tile.any(1).sum(1).max() == max(frames, 1)
    where = tile.any(1).float()
    assert (where.diff(dim=1).abs().sum(1) + where[:, 0] + where[:, -1] <= 2).all()  # in one piece
    way = (asked - problem.clean).sign()
    for clip, moved in zip(way, changed, strict=True):
        assert all(len(clip[..., axis][moved[..., axis]].unique()) <= 1 for axis in range(3))


@pytest.mark.parametrize("k", [0, 500, 9000])
def test_in_linf_every_question_is_about_a_corner_of_the_ball(k):
    attack, problem, start = begun(Linf(0.02))
    asked = problem.constrain(attack.proposed(problem, start, k))
    there = problem.clips.valid[..., None, None].expand_as(asked)
    torch.testing.assert_close((asked - problem.clean).abs()[there], torch.full((int(there.sum()),), 0.02))


@pytest.mark.parametrize("k", [0, 60, 3000, 9000])
def test_in_l2_the_whole_radius_is_used_and_what_is_in_no_tile_stays(k):
    clips = random_clips(20, persons=2, frames=12)
    attack, problem, xyz = begun(L2(0.3), clips=clips)
    for _ in range(4):
        asked = problem.constrain(attack.proposed(problem, xyz, k))
        way = problem.threat.distance(problem.clean, asked)
        torch.testing.assert_close(way, torch.full((20,), 0.3).double(), atol=1e-4, rtol=0)
        if k:
            assert ((asked - xyz).abs() < 1e-5).flatten(1).any(1).all()
        xyz = asked


def test_a_hill_stands_beside_a_valley():
    ones = torch.ones(1, 1, 1, 1, dtype=torch.long)
    row, frame = torch.arange(3).view(1, 1, 1, 3), torch.arange(10).view(1, 1, 10, 1)
    shape = hill_and_valley(row, frame, 3 * ones, 10 * ones, ones == 1)[0, 0]
    assert (shape[:5] > 0).all()
    assert (shape[5:] < 0).all()
    torch.testing.assert_close(shape[:5], -shape[5:])
    assert shape[:5].argmax() == 2 * 3 + 1  # the middle frame and joint
    assert (shape[:3, 1].diff() > 0).all()
    other = hill_and_valley(row, frame, 3 * ones, 10 * ones, ones == 0)[0, 0]
    assert (other[:, 0] > 0).all()
    assert (other[:, 1:] < 0).all()


def test_under_a_mask_tiles_are_made_of_what_it_leaves():
    clips = random_clips(30, frames=12)
    attack, problem, start = begun(Linf(0.02) & Mask(joints=(5, 7, 9)), clips=clips)
    for _ in range(5):
        asked = problem.constrain(attack.proposed(problem, start, 9_000))
        changed = ((asked - start).abs() > 0.01).any(-1)
        assert (changed.sum((1, 2, 3)) == 1).all()  # one joint, one frame


def test_another_ball_is_refused():
    class Third(Ball):
        distance = steepest = sample = project = None

    clips = random_clips(2)
    with pytest.raises(fb.DataError, match="square has no tiles for"):
        Square().start(problem_of(linear_victim(clips), clips, threat=Third(0.1)))


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_that_means_nothing_is_refused(share):
    with pytest.raises(fb.DataError, match="square: p_init"):
        fb.create_attack("square", p_init=share)
