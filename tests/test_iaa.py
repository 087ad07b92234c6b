"""IAA: bones, angles and speeds that change by no more than so much, in what is returned."""

import dataclasses

import pytest
import torch

import funnybone as fb
from funnybone.attacks.iaa import angles_cut, changes, lengths, speeds_cut
from funnybone.motion.kinematics import joint_angles, triplets
from funnybone.skeletons import COCO17, HDM05_25, NTU25, Skeleton
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import BoneLength, Linf, Mask
from parts_for_tests import loud, noisy, problem_of

FLOORS = {"bone_floor": 1e-5, "speed_floor": 3e-3}
WIDE = {"bone_limit": 0.05, "angle_limit": 0.5, "speed_limit": 0.5}


def attack(**settings):
    return fb.create_attack("iaa", **{"steps": 60, **settings})


def worst_by_hand(clips, xyz, attacking):
    """The largest excess of each clip over any limit, by the formulas and loops, in float64."""
    skeleton, clean, xyz = clips.skeleton, clips.xyz.double(), xyz.double()
    worst = torch.zeros(len(clips), dtype=torch.float64)
    for clip, person, frame in clips.valid.nonzero().tolist():
        before, after = clean[clip, person, frame], xyz[clip, person, frame]
        moved = (after - before).norm(dim=-1)
        size = {frozenset(bone): (before[bone[0]] - before[bone[1]]).norm() for bone in skeleton.bones}
        excess = []
        for child, parent in skeleton.bones:
            change = ((after[child] - after[parent]).norm() - size[frozenset((child, parent))]).abs()
            excess.append(change / (size[frozenset((child, parent))] + attacking.bone_floor) - attacking.bone_limit)
        for p, m, e in triplets(skeleton):
            first, second = size[frozenset((p, m))], size[frozenset((m, e))]
            bound = moved[p] / first + moved[e] / second + moved[m] / first + moved[m] / second
            excess.append(bound - attacking.angle_limit)
        if frame + 1 < clips.valid.shape[2] and clips.valid[clip, person, frame + 1]:
            speeds = [(x[clip, person, frame + 1] - x[clip, person, frame]) * clips.fps[clip] for x in (clean, xyz)]
            change = (speeds[1] - speeds[0]).norm(dim=-1)
            excess += (change / (speeds[0].norm(dim=-1) + attacking.speed_floor) - attacking.speed_limit).tolist()
        worst[clip] = max(worst[clip], *map(float, excess))
    return worst


def test_the_exam_of_the_published_preset():
    check_attack(fb.create_attack("iaa", preset="published", steps=30))


@pytest.mark.parametrize(
    "threat",
    [fb.threat.Unbounded(), Linf(0.02) & BoneLength(0.05) & Mask(joints=tuple(range(1, 17))), Mask(frames=(2, 7))],
    ids=repr,
)
def test_the_file_that_is_stored_keeps_the_limits(tmp_path, threat):
    clips = random_clips(5, persons=2, absent=True)
    attacking = attack()
    outcome = attacking(linear_victim(clips, distance=0.05), clips, threat=threat)
    assert (outcome.distances["position_m"] > 1e-4).all()
    outcome.save(tmp_path / "run")
    stored = fb.Outcome.load(tmp_path / "run").adversarial
    worst = worst_by_hand(clips, stored.xyz, attacking)
    assert worst.max() <= attacking.tolerance
    assert torch.allclose(attacking.excess(clips, stored.xyz).amax(1).double(), worst, atol=1e-4)
    assert outcome.violation.max() == 0


def test_it_fools_where_limits_leave_room_and_near_the_exact_distance():
    clips = random_clips(6, persons=2, absent=True)
    outcome = attack(**WIDE)(linear_victim(clips, distance=0.05), clips)
    assert outcome.success.all()
    assert (outcome.adversarial.xyz - clips.xyz).flatten(1).norm(dim=1).max() < 0.2


def test_a_goal_at_the_price_of_a_limit_is_no_success():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.05)
    narrow = attack(steps=30, bone_limit=1e-4, angle_limit=1e-4, speed_limit=1e-4)
    outcome = narrow(victim, clips)
    assert not outcome.success.any()
    assert (narrow.excess(clips, outcome.adversarial.xyz) <= narrow.tolerance).all()
    # What it comes back with is nevertheless nearer to the goal than the clean clip was.
    margin = fb.goals.AnythingBut().margin
    before, after = (margin(victim.logits(xyz), clips.labels) for xyz in (clips.xyz, outcome.adversarial.xyz))
    assert (after < before).all()


def test_limits_in_physical_units_do_not_know_the_frame_rate():
    clips = random_clips(2, frames=9)
    moved = clips.xyz + 0.01 * torch.randn(clips.xyz.shape, generator=torch.Generator().manual_seed(0))
    found = changes(clips, moved, **FLOORS)["speed"]
    twice = dataclasses.replace(clips, fps=2 * clips.fps)
    # The same metres in half the time: all speeds are doubled, and the floor weighs half.
    assert torch.allclose(changes(twice, moved, bone_floor=1e-5, speed_floor=6e-3)["speed"], found, rtol=1e-5)
    # A joint at rest may move by a tenth of 3 mm/s: a hundredth of a millimetre a frame at 30 Hz.
    still = clips.with_xyz(clips.xyz[:, :, :1].repeat(1, 1, 9, 1, 1))
    crept = still.xyz + 1e-5 * torch.arange(9).reshape(9, 1, 1) * torch.tensor([1.0, 0.0, 0.0])
    assert changes(still, crept, **FLOORS)["speed"] == pytest.approx(0.1 * torch.ones(2, 1, 8, 17).numpy(), rel=0.05)


def test_the_bound_on_angles_bounds_their_change():
    clips = random_clips(6)
    moved = clips.xyz + 1e-3 * torch.randn(clips.xyz.shape, generator=torch.Generator().manual_seed(0))
    bound = changes(clips, moved, **FLOORS)["angle"]
    hanging = [place for place, triplet in enumerate(triplets(COCO17)) if triplet[1] != COCO17.root]
    change = (joint_angles(moved, COCO17) - joint_angles(clips.xyz, COCO17)).abs()
    assert (change <= 1.02 * bound[..., hanging] + 1e-5).all()
    assert (change > 0.1 * bound[..., hanging]).float().mean() > 0.3  # and not by orders of magnitude


def test_an_absent_person_and_padding_weigh_nothing():
    """The published means count them: limits of one person would weigh half beside an absent one."""
    alone = random_clips(2)
    beside = dataclasses.replace(
        alone,
        xyz=torch.cat([alone.xyz, torch.zeros_like(alone.xyz)], 1),
        valid=torch.cat([alone.valid, torch.zeros_like(alone.valid)], 1),
    )
    attacking, noise = attack(), 0.05 * torch.randn(alone.xyz.shape, generator=torch.Generator().manual_seed(0))
    gradients = []
    for clips in (alone, beside):
        problem = problem_of(linear_victim(clips), clips)
        attacking.start(problem)
        xyz = clips.xyz.clone()
        xyz[:, :1] += noise
        gradients.append(attacking._penalty_gradient(problem, xyz))
    assert torch.allclose(gradients[0], gradients[1][:, :1], rtol=1e-5, atol=1e-10)
    assert gradients[0].abs().max() > 0
    assert (gradients[1][:, 1] == 0).all()


def test_multipliers_belong_to_a_clip_and_grow_by_the_excess():
    clips = random_clips(2)
    attacking = attack(beta=2.0, inner=1)
    problem = problem_of(linear_victim(clips), clips)
    attacking.start(problem)
    xyz = clips.xyz.clone()
    xyz[1] += 0.05 * torch.randn(xyz[1].shape, generator=torch.Generator().manual_seed(0))
    for k in (1, 2):
        attacking.step(problem, xyz, torch.zeros_like(xyz), k)
    for name, hinge in attacking.hinges(clips, xyz).items():
        assert torch.allclose(problem.state[f"multipliers.{name}"], 4 * hinge)
        assert (hinge[1] > 0).any()
        assert (hinge[0] == 0).all()
        assert problem.keep(torch.tensor([False, True])).state[f"multipliers.{name}"].shape[0] == 1


@pytest.mark.parametrize("wide", [1.0, 5.0])
def test_a_mended_clip_keeps_the_limits_and_most_of_the_way(wide):
    clips = random_clips(6, persons=2, absent=True, frames=20, skeleton=NTU25)
    attacking = attack(bone_limit=0.01 * wide, angle_limit=0.1 * wide, speed_limit=0.1 * wide)
    generator = torch.Generator().manual_seed(0)
    victim = linear_victim(clips)
    # Slow and small moves as the multipliers leave them, half as large again as the limits.
    slow = torch.randn(6, 2, 1, 25, 3, generator=generator).expand(clips.xyz.shape)
    unit = changes(clips, clips.xyz + 1e-3 * slow, **FLOORS)["angle"].amax((1, 2, 3))
    delta = 1.5e-4 * wide / unit[:, None, None, None, None] * slow
    xyz = torch.where(clips.valid[..., None, None], clips.xyz + delta, clips.xyz)
    assert (attacking.excess(clips, xyz).amax(1) > attacking.tolerance).all()
    mended, inside = attacking.mended(problem_of(victim, clips), xyz)
    assert inside.all()
    assert (attacking.excess(clips, mended) <= attacking.tolerance).all()
    assert torch.equal(mended[~clips.valid], clips.xyz[~clips.valid])
    kept = ((mended - clips.xyz) * delta).flatten(1).sum(1) / delta.square().flatten(1).sum(1)
    assert (kept > 0.2).all()
    # What keeps the limits with room to spare is left alone.
    little = clips.xyz + 0.1 * (mended - clips.xyz)
    assert torch.allclose(attacking.mended(problem_of(victim, clips), little)[0], little, atol=1e-6)


def test_speeds_are_cut_frame_by_frame_and_not_across_gaps():
    clips = random_clips(1, frames=9)
    valid = clips.valid.clone()
    valid[0, 0, 4] = False
    clips = dataclasses.replace(clips, valid=valid)
    delta = torch.zeros_like(clips.xyz)
    delta[:, :, 5:] = 0.5  # a jump in the gap is no speed
    assert torch.allclose(speeds_cut(clips, delta, 0.1, 3e-3), delta, atol=1e-6)
    delta[:, :, 7:] = 1.0  # one between two frames is
    cut = speeds_cut(clips, delta, 0.1, 3e-3)
    assert changes(clips, clips.xyz + cut, **FLOORS)["speed"].max() <= 0.1 + 1e-3
    assert (cut[:, :, 4] == 0).all()


def test_angles_are_cut_where_they_are_too_wide_and_nowhere_else():
    clips = random_clips(1, frames=2)
    delta = torch.zeros_like(clips.xyz)
    delta[0, 0, 0, COCO17.index("left_wrist")] = 1.0
    delta[0, 0, 1, COCO17.index("right_wrist")] = 1e-3
    cut = angles_cut(clips, delta, 0.1)
    assert torch.equal(cut[0, 0, 1], delta[0, 0, 1])
    assert changes(clips, clips.xyz + cut, **FLOORS)["angle"].amax() == pytest.approx(0.1, rel=1e-3)


def test_bones_without_length_are_measured_by_the_others():
    clips = random_clips(2, skeleton=HDM05_25)
    xyz = clips.xyz.clone()
    xyz[..., [0, 5], :] = xyz[..., [HDM05_25.root], :]
    clips = clips.with_xyz(xyz)
    found = lengths(clips.xyz, HDM05_25)
    assert torch.allclose(found[..., 0], HDM05_25.bone_lengths(clips.xyz).mean(-1))
    outcome = attack(**WIDE)(linear_victim(clips, distance=0.05), clips)
    assert outcome.success.all()
    assert torch.isfinite(outcome.adversarial.xyz).all()


def test_one_frame_and_one_bone_are_enough():
    stick = Skeleton("stick", ("hand", "tip"), (-1, 0))
    clips = random_clips(2, frames=1, skeleton=stick)
    outcome = attack(**WIDE)(linear_victim(clips, distance=0.005), clips)
    assert outcome.success.all()


def test_a_sure_victim_falls_like_an_unsure_one():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.05)
    certain = loud(victim, 1000)
    plain, sure = (attack(confidence=0.0, **WIDE)(who, clips).adversarial.xyz for who in (victim, certain))
    assert torch.allclose(plain, sure, atol=1e-4)


def test_goals_draws_and_budgets():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.02)
    stochastic = noisy(victim, 0.001)
    outcome = attack(**WIDE)(stochastic, clips, draws=4, goal=fb.goals.Specified())
    assert outcome.success.all()
    assert (outcome.queries % 4 == 0).all()
    limited = attack(**WIDE)(stochastic, clips, draws=4, budget=11)
    assert limited.queries.max() == 8
    # Each growth of the multipliers tries a mended clip: one query more in ten.
    never = attack(steps=30, bone_limit=1e-4, angle_limit=1e-4, speed_limit=1e-4)(victim, clips)
    assert never.queries.tolist() == [31 + 3] * 4


def test_without_stopping_early_the_clip_goes_further():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.02)
    first, last = (attack(early_stop=stop, loss="goal", **WIDE)(victim, clips) for stop in (True, False))
    assert first.success.all()
    assert last.success.all()
    margin = fb.goals.AnythingBut().margin
    first, last = (margin(victim.logits(outcome.adversarial.xyz), clips.labels) for outcome in (first, last))
    assert (last < first).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"step_size": 0.0},
        {"beta": 0.0},
        {"inner": 0},
        {"bone_limit": 0.0},
        {"bone_limit": 1.0},
        {"angle_limit": float("nan")},
        {"speed_floor": 0.0},
        {"tolerance": -1.0},
        {"noise": float("inf")},
        {"confidence": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"iaa: {next(iter(settings))}"):
        attack(**settings)
