"""Spectra, energy, bones and feet: cases that can be computed by hand, and what each figure does not see."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funnybone import DataError, metrics
from funnybone.cli import main
from funnybone.data.synthetic import synthetic
from funnybone.metrics import published
from funnybone.metrics.naturalness import feet
from funnybone.metrics.spectrum import longest_stretch, power_spectrum
from funnybone.motion.dynamics import derivative
from funnybone.skeletons import ALL, COCO17, NTU25, Skeleton
from funnybone.testing import random_clips

LEGS = Skeleton("legs", ("hips", "toeL", "toeR"), (-1, 0, 0))
ARM = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))


def wave(*cycles, frames=60, shares=None):
    """One joint that moves along x: a sum of sines of so many cycles, which have these shares of the power."""
    turns = 2 * math.pi * torch.arange(frames) / frames
    shares = shares or [1 / len(cycles)] * len(cycles)
    sines = [math.sqrt(share) * torch.sin(n * turns) for n, share in zip(cycles, shares, strict=True)]
    xyz = torch.zeros(1, 1, frames, 1, 3)
    xyz[0, 0, :, 0, 0] = torch.stack(sines).sum(0)
    return xyz


def everything(xyz):
    return torch.ones(xyz.shape[:3], dtype=torch.bool)


def rates(fps, n=1):
    return torch.full((n,), float(fps))


@pytest.fixture(scope="module")
def people():
    return synthetic(subjects=2, repetitions=1)


# NPSS


@pytest.mark.parametrize("frames", [59, 60])
@pytest.mark.parametrize(("before", "after"), [(3, 5), (5, 3), (1, 29)])
def test_npss_is_by_how_many_cycles_a_sine_was_moved(before, after, frames):
    clean, adversarial = wave(before, frames=frames), wave(after, frames=frames)
    npss = metrics.npss(clean, 0.2 * adversarial + 4, everything(clean))
    assert npss.item() == pytest.approx(abs(after - before), rel=1e-6)


def test_npss_of_power_that_moved_in_part():
    """A quarter of the power goes from 3 cycles to 7."""
    clean, adversarial = wave(3), wave(3, 7, shares=(0.75, 0.25))
    assert metrics.npss(clean, adversarial, everything(clean)).item() == pytest.approx(0.25 * 4, rel=1e-6)


def test_npss_weighs_joints_by_their_clean_power():
    """A joint that swings twice as far has four times the power; the other one is moved by 4 cycles."""
    clean = torch.cat([2 * wave(3), wave(3)], 3)
    adversarial = torch.cat([2 * wave(3), 5 * wave(7)], 3)
    assert metrics.npss(clean, adversarial, everything(clean)).item() == pytest.approx(4 / 5, rel=1e-6)


def test_a_motion_that_was_stopped_went_to_frequency_zero():
    clean = wave(3)
    assert metrics.npss(clean, torch.ones_like(clean), everything(clean)).item() == pytest.approx(3, rel=1e-6)


def test_what_stood_still_has_no_npss():
    still = torch.full((1, 1, 60, 2, 3), 1.2345)
    assert metrics.npss(still, still + 0.01 * torch.randn(still.shape), everything(still)).isnan().all()


def test_npss_is_of_the_longest_valid_stretch(generator):
    """Padding, gaps and absent persons do not count; the transform is as long as the stretch."""
    clean, adversarial = torch.randn(2, 1, 1, 24, 4, 3, generator=generator)
    wanted = metrics.npss(clean, adversarial, everything(clean))
    n, m, t = 2, 2, 40
    whole = torch.randn(2, n, m, t, 4, 3, generator=generator)
    valid = torch.zeros(n, m, t, dtype=torch.bool)
    whole[0, 0, 1, 9:33], whole[1, 0, 1, 9:33] = clean[0, 0], adversarial[0, 0]
    valid[0, 1, 9:33] = True
    valid[0, 1, 35:39] = True  # a shorter stretch
    whole[:, 1, 0, 16:40] = whole[:, 0, 1, 9:33]
    valid[1, 0, 16:40] = True
    assert torch.allclose(metrics.npss(*whole, valid), wanted, rtol=1e-6)


def test_npss_of_persons_with_stretches_of_their_own():
    """One person's power moves by 2 cycles of 60 frames, the other's by 4 of 30; |DFT|^2 grows with squared length."""
    n, m, t = 1, 2, 60
    clean, adversarial = torch.zeros(2, n, m, t, 1, 3)
    valid = torch.ones(n, m, t, dtype=torch.bool)
    valid[0, 1, 30:] = False
    clean[0, 0], adversarial[0, 0] = wave(3)[0, 0], wave(5)[0, 0]
    clean[0, 1, :30], adversarial[0, 1, :30] = wave(2, frames=30)[0, 0], wave(6, frames=30)[0, 0]
    wanted = (60**2 * 2 + 30**2 * 4) / (60**2 + 30**2)
    assert metrics.npss(clean, adversarial, valid).item() == pytest.approx(wanted, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(2, 40), seed=st.integers(0, 2**31))
def test_without_the_mean_one_axis_has_the_published_npss(frames, seed):
    clean, adversarial = torch.randn(2, 3, 1, frames, 1, 1, generator=torch.Generator().manual_seed(seed)).double()
    clean, adversarial = clean - clean.mean(2, keepdim=True), adversarial - adversarial.mean(2, keepdim=True)
    ours = metrics.npss(clean, adversarial, everything(clean))
    theirs = published.npss(clean[:, 0, :, 0], adversarial[:, 0, :, 0])
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_the_published_npss_knows_the_mean_and_no_phase():
    slow = wave(3)[:, 0, :, 0, :1].double()
    # Power (60/2)^2 at +3 and -3, and 60^2 at 0: two thirds are at 0, the sine has one third.
    # |CDF' - CDF| is 2/3 at 0, 1, 2; 1/3 from 3 on (2/3 + 1/6 against 1/2), to 56; 0 from 57 on.
    wanted = 3 * 2 / 3 + 54 / 3
    assert published.npss(slow, slow + 1).item() == pytest.approx(wanted, rel=1e-6)
    signals = torch.randn(1, 60, 2, generator=torch.Generator().manual_seed(0)).double()
    rolled = torch.cat([slow, slow], -1).roll(7, 1), signals.roll(7, 1)
    assert torch.allclose(published.npss(*rolled), published.npss(torch.cat([slow, slow], -1), signals), rtol=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), size=st.floats(0.1, 10))
def test_npss_does_not_see_size_phase_or_where_it_is_seen_from(seed, size):
    generator = torch.Generator().manual_seed(seed)
    clean, adversarial = torch.randn(2, 2, 1, 20, 4, 3, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    npss = metrics.npss(clean, adversarial, everything(clean))
    same = metrics.npss(clean @ turn + 1, size * adversarial.flip(2) @ turn, everything(clean))
    assert torch.allclose(npss, same, rtol=1e-4)
    assert (metrics.npss(clean, clean, everything(clean)) == 0).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_the_power_of_a_spectrum_is_that_of_the_motion(seed):
    """Parseval's theorem, for each person's own stretch."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 2, 11, 2, 3, generator=generator).double()
    stretch, frames = longest_stretch(torch.rand(3, 2, 11, generator=generator) > 0.3)
    power = power_spectrum(values, stretch, frames)
    energy = torch.where(stretch[..., None, None], values, 0).square().sum(2)
    assert torch.allclose(power.sum(2), energy * frames[..., None, None], rtol=1e-9)
    beyond = 2 * torch.arange(power.shape[2]) > frames[..., None]
    assert (power[beyond] == 0).all()


def test_the_longest_stretch_is_one_run():
    valid = torch.tensor([[[1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]], [[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]]]).bool()
    stretch, frames = longest_stretch(valid)
    assert frames.tolist() == [[3, 0], [2, 6]]
    assert stretch.int().tolist() == [
        [[0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]],
        [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
    ]


# High frequencies


@pytest.mark.parametrize("fps", [60, 120])
def test_kinetic_energy_grows_with_the_square_of_frequency(fps):
    """2 Hz and 12 Hz of one amplitude: 36 parts of 37 are above 8 Hz, at any rate that sees them well."""
    slow, fast = wave(8, frames=4 * fps), wave(48, frames=4 * fps)
    ratio = metrics.high_frequency_ratio(slow + fast, everything(slow), rates(fps))
    assert ratio.item() == pytest.approx(36 / 37, abs=0.005)
    assert metrics.high_frequency_ratio(slow, everything(slow), rates(fps)).item() < 1e-6
    assert metrics.high_frequency_ratio(fast, everything(slow), rates(fps)).item() == pytest.approx(1, abs=1e-6)


def test_walking_away_has_no_high_frequencies():
    """Nor has a motion that does not end where it began, which a transform without a window would take for a jump."""
    time = torch.arange(60) / 30
    xyz = torch.stack([1.4 * time, 0.2 * (time**2)], -1).reshape(1, 1, 60, 1, 2)
    assert metrics.high_frequency_ratio(xyz, everything(xyz), rates(30)).item() < 1e-5


def test_high_frequencies_need_a_frame_rate_that_shows_them():
    xyz = wave(3).expand(3, 1, 60, 1, 3)
    ratio = metrics.high_frequency_ratio(xyz, everything(xyz), torch.tensor([15.0, 16.0, 17.0]))
    assert ratio.isnan().tolist() == [True, True, False]
    assert metrics.high_frequency_ratio(torch.ones_like(xyz), everything(xyz), rates(30, 3)).isnan().all()


def test_a_tremble_is_of_high_frequency(people, generator):
    clips = people
    noise = 0.003 * torch.randn(clips.xyz.shape, generator=generator)
    loud = torch.where(clips.valid[..., None, None], clips.xyz + noise, math.nan)
    before, after = (metrics.high_frequency_ratio(xyz, clips.valid, clips.fps) for xyz in (clips.xyz, loud))
    assert (after > before).all()
    assert (after / before).median() > 5


# Energy and jerk


def test_energy_knows_speed_and_nothing_else(clips):
    def rate(moved):
        return metrics.kinetic_energy_rate(clips.xyz, moved, clips.valid)

    assert (rate(clips.xyz) == 0).all()
    assert torch.allclose(rate(1.3 * clips.xyz), torch.tensor(0.69), rtol=1e-4)
    assert torch.allclose(rate(0.5 * clips.xyz), torch.tensor(0.75), rtol=1e-4)
    assert rate(torch.where(clips.valid[..., None, None], clips.xyz + 2, math.nan)).max() < 1e-5
    whole = everything(clips.xyz)
    assert metrics.kinetic_energy_rate(clips.xyz, clips.xyz.flip(2), whole).max() < 1e-5  # it is blind to direction


def test_jerk_of_noise_and_of_a_louder_motion(clips, generator):
    def ratio(moved):
        return metrics.jerk_ratio(clips.xyz, moved, clips.valid)

    assert torch.allclose(ratio(2 * clips.xyz), torch.tensor(2.0), rtol=1e-5)
    assert (ratio(clips.xyz) == 1).all()
    assert ratio(clips.xyz + 0.02 * torch.randn(clips.xyz.shape, generator=generator)).min() > 1.5
    still = torch.ones_like(clips.xyz)
    assert metrics.jerk_ratio(still, clips.xyz, clips.valid).isnan().all()
    assert metrics.kinetic_energy_rate(still, clips.xyz, clips.valid).isnan().all()


def test_jerk_ratio_is_that_of_the_physical_jerks(clips):
    """Where the clean clip is still but for one cubic, the deviation over its jerk is the ratio less one."""
    time = (torch.arange(8) / 30).pow(3)[:, None, None] * torch.tensor([1.0, 2.0, 2.0])
    xyz = time.expand(clips.xyz.shape).contiguous()
    deviation = metrics.jerk_deviation(xyz, 1.5 * xyz, clips.valid, clips.fps)
    assert torch.allclose(deviation, torch.tensor(0.5 * 6 * 3.0), rtol=1e-3)  # |(1, 2, 2)| is 3
    assert torch.allclose(metrics.jerk_ratio(xyz, 1.5 * xyz, clips.valid), torch.tensor(1.5), rtol=1e-5)
    falling = xyz.double() - 9.81 / 2 * (torch.arange(8) / 30).double().square()[:, None, None]
    ratio = metrics.jerk_ratio(xyz.double(), falling, clips.valid)
    assert torch.allclose(ratio, torch.ones(6).double(), rtol=1e-4)  # gravity is an acceleration without jerk


# Bones


def test_bones_that_turn_do_not_vary_and_bones_that_breathe_do():
    angle = 2 * math.pi * torch.arange(60) / 60
    arm = torch.stack([torch.cos(angle), torch.sin(angle)], -1)
    rigid = torch.stack([0 * arm, 0.3 * arm, 0.55 * arm], 1)[None, None]
    assert metrics.bone_length_variation(rigid, everything(rigid), ARM).item() < 1e-6
    breath = (1 + 0.04 * torch.sin(3 * angle))[:, None, None]
    breathing = rigid * breath
    variation = metrics.bone_length_variation(breathing, everything(rigid), ARM)
    assert variation.item() == pytest.approx(0.04 / math.sqrt(2), rel=1e-5)
    # What no frame by frame comparison with the clean clip can see: constant lengths, other ones.
    assert metrics.bone_length_variation(1.2 * rigid, everything(rigid), ARM).item() < 1e-6
    slow = breathing[:, :, ::2]
    assert metrics.bone_length_variation(slow, everything(slow), ARM).item() == pytest.approx(
        variation.item(), rel=1e-4
    )


def test_absent_persons_have_no_bones(clips):
    junk = torch.where(clips.valid[..., None, None], clips.xyz, math.nan)
    one = metrics.bone_length_variation(junk, clips.valid, COCO17)
    assert torch.isfinite(one).all()
    alone = metrics.bone_length_variation(clips.xyz[-1:, :1], clips.valid[-1:, :1], COCO17)
    assert torch.allclose(one[-1:], alone, rtol=1e-6)
    assert metrics.bone_length_variation(clips.xyz, torch.zeros_like(clips.valid), COCO17).isnan().all()


# Feet


def standing(frames=30, up=1):
    """A person on both feet, somewhere on a floor that is not at zero."""
    xyz = torch.zeros(1, 1, frames, 3, 3)
    xyz[..., 0, up] = 0.9
    xyz[..., 2, (up + 1) % 3] = 0.3
    return xyz - 0.7


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_a_foot_that_slides_on_the_floor_skates_and_one_in_the_air_does_not(up):
    axis, frames = "xyz".index(up), 30
    still = standing(frames, axis)
    valid, fps = everything(still), rates(30)

    def skate(xyz, **options):
        return metrics.foot_skate(xyz, valid, fps, LEGS, up, **options).item()

    assert skate(still) == 0
    path = 0.05 * torch.arange(frames)
    both, one, high, up_and_down = (still.clone() for _ in range(4))
    both[..., (axis + 2) % 3] += path[:, None]
    assert skate(both) == 1
    one[0, 0, :, 1, (axis + 1) % 3] += path
    assert skate(one) == 0.5
    assert skate(one, joints=[1]) == 1
    high[:] = one
    high[0, 0, :, 1, axis] += 0.06
    assert skate(high) == 0
    up_and_down[0, 0, :, 1, axis] += 0.02 * (torch.arange(frames) % 2)  # 0.6 m/s: a foot that treads, at its place
    assert skate(up_and_down) == 0
    jumping = still.clone()
    jumping[..., axis] += 0.05 * torch.arange(frames)[:, None]
    contact = metrics.foot_contact(still, valid, fps, LEGS, up)
    assert skate(jumping, contact=contact) == 0  # up is not along the floor
    assert skate(both, contact=contact) == 1


def test_a_foot_is_on_the_floor_from_its_first_low_frame_on():
    """It comes down by 6 mm a frame, 0.18 m/s; the other foot stands."""
    xyz = standing(20)
    xyz[0, 0, :, 1, 1] += torch.cat([0.071 - 0.006 * torch.arange(11), torch.zeros(9)])
    contact = metrics.foot_contact(xyz, everything(xyz), rates(30), LEGS, "y")[0, 0]
    low = 0.071 - 0.006 * torch.arange(11) < 0.05
    assert contact[:10, 0].tolist() == (low[:-1] & low[1:]).tolist()
    assert contact[:, 1].all()


def test_skating_is_a_matter_of_speed_not_of_frames():
    """0.6 m/s slides and 0.4 m/s does not, whatever the frame rate."""
    for fps in (20, 60, 120):
        xyz = standing(fps)
        for speed, wanted in ((0.4, 0.0), (0.6, 1.0)):
            moved = xyz.clone()
            moved[..., 0] += (speed * torch.arange(fps) / fps)[:, None]
            assert metrics.foot_skate(moved, everything(xyz), rates(fps), LEGS, "y").item() == wanted


def test_an_adversarial_foot_is_judged_where_the_clean_one_stood(generator):
    """A foot that trembles in height as well is not in contact by its own heights, and slides by those of the clean."""
    clean = standing(60)
    given = (everything(clean), rates(30), LEGS, "y")
    moved = clean + 0.05 * torch.randn(clean.shape, generator=generator)
    own = metrics.foot_skate(moved, *given)
    contact = metrics.foot_contact(clean, *given)
    assert contact.all()
    assert metrics.foot_skate(moved, *given, contact=contact).item() > 0.9
    assert (metrics.foot_contact(moved, *given).float().mean() < 0.3) & (own.isnan() | (own > 0.5)).all()


def test_one_frame_below_the_floor_does_not_lift_the_person():
    """A tracker's error of a metre in one frame of sixty."""
    xyz = standing(60)
    xyz[0, 0, 20, 1, 1] -= 1
    contact = metrics.foot_contact(xyz, everything(xyz), rates(30), LEGS, "y")
    assert contact.sum() == 2 * 59 - 2  # to that frame and from it


def test_padding_and_absent_persons_do_not_skate_and_are_no_floor():
    xyz = torch.cat([standing(), standing() - 5], 1)
    xyz[:, 1, :, :, 0] += torch.arange(30)[:, None]
    xyz[:, :, 20:] = math.nan
    valid = everything(xyz)
    valid[:, 1], valid[:, :, 20:] = False, False
    given = (valid, rates(30), LEGS, "y")
    assert metrics.foot_contact(xyz, *given).sum() == 2 * 19
    assert metrics.foot_skate(xyz, *given).item() == 0
    every = torch.ones(1, 2, 29, 2, dtype=torch.bool)
    assert metrics.foot_skate(xyz, *given, contact=every).item() == 0
    assert metrics.foot_skate(xyz, torch.zeros_like(valid), *given[1:]).isnan().all()


def test_gliding_people_skate_and_people_who_move_less(people):
    clips = people
    given = (clips.valid, clips.fps, clips.skeleton, clips.up)
    contact = metrics.foot_contact(clips.xyz, *given)
    seconds = torch.arange(clips.xyz.shape[2]) / 30
    gliding = clips.xyz + (2 * seconds)[:, None, None] * torch.tensor([1.0, 0, 0])
    assert metrics.foot_skate(clips.xyz, *given).mean() < 0.2
    assert metrics.foot_skate(gliding, *given, contact=contact).mean() > 0.9


def test_every_skeleton_has_two_feet():
    for skeleton in ALL:
        found = feet(skeleton)
        assert len(found) == 2, skeleton.name
        assert {*found} in [{*pair} for pair in skeleton.pairs], skeleton.name


def test_feet_that_cannot_be_found_or_judged():
    xyz = torch.zeros(1, 1, 5, 3, 3)
    with pytest.raises(DataError, match="no joint named toe"):
        metrics.foot_skate(xyz, everything(xyz), rates(30), ARM, "y")
    assert metrics.foot_skate(xyz, everything(xyz), rates(30), ARM, "y", joints=[2]).item() == 0


# The published definitions


def test_the_published_acceleration_term_takes_30_frames_a_second_for_granted():
    """One joint displaced by d in one frame: 6 d^2 / dt^4, whatever the clips' rate."""
    clips = random_clips(2, frames=9)
    moved = clips.xyz.clone()
    moved[0, 0, 4, 3, 1] += 0.01
    acc = published.smart_acc(clips.xyz, moved, clips.valid)
    assert acc.tolist() == pytest.approx([6 * 0.01**2 * 30**4, 0], rel=1e-3)
    assert published.smart_acc(clips.xyz, clips.xyz + 1, clips.valid).max() < 1e-2


def test_published_sums_grow_with_the_clip_and_means_do_not():
    for frames in (10, 20):
        xyz = torch.rand(1, 1, frames, 3, 3)
        moved, valid = xyz + torch.tensor([0.03, 0.0, 0.04]), everything(xyz)
        weights = (0.04, 0.02, 0.02)
        l2 = published.smart_l2(xyz, moved, valid, joint_weights=weights)
        assert l2.item() == pytest.approx(frames * 0.05**2 * 0.08, rel=1e-4)
        assert metrics.joint_displacement(xyz, moved, valid).item() == pytest.approx(0.05, rel=1e-4)
        assert published.basar_l(xyz, moved, valid).item() == pytest.approx(0.05 * math.sqrt(3), rel=1e-4)
        bones = published.smart_bone(xyz, 2 * xyz, valid, ARM)
        assert bones.item() == pytest.approx(ARM.bone_lengths(xyz).square().sum().item(), rel=1e-4)
        assert published.smart_l_bl(xyz, 2 * xyz, valid, ARM).item() == pytest.approx(bones.item() / frames, rel=1e-5)


def test_published_terms_add_up_as_released(clips, generator):
    moved = clips.xyz + 0.01 * torch.randn(clips.xyz.shape, generator=generator)
    given = (clips.xyz, moved, clips.valid)
    l2 = published.smart_l2(*given)
    acc = published.smart_acc(*given)
    bone = published.smart_bone(*given, COCO17)
    total = published.smart_perceptual(*given, COCO17)
    assert torch.allclose(total, 0.42 * bone + 0.18 * acc + 0.40 * l2, rtol=1e-6)
    assert (0.18 * acc / total).min() > 0.999  # what the docstring says of it
    orders = [derivative(moved - clips.xyz, rates(30, 6), order).square().sum(-1).sum(-1) for order in range(3)]
    wanted = [(values * clips.valid[..., order:]).sum((1, 2)) for order, values in enumerate(orders)]
    by_hand = 0.5 * wanted[0] + 0.3 * wanted[1] + 0.2 * wanted[2]
    assert torch.allclose(published.smart_l_dyn(*given, beta=(0.5, 0.3, 0.2)), by_hand, rtol=1e-5)


def test_published_deviations_are_ours_in_other_units(clips, generator):
    moved = clips.xyz + 0.01 * torch.randn(clips.xyz.shape, generator=generator)
    given, fps = (clips.xyz, moved, clips.valid), clips.fps
    ours = metrics.deviations(clips, moved)
    assert torch.allclose(published.basar_delta_v(*given) * fps, ours["velocity"], rtol=1e-4)
    assert torch.allclose(published.basar_delta_a(*given) * fps**2, ours["acceleration"], rtol=1e-4)
    alpha = published.basar_delta_alpha(*given, COCO17).deg2rad() * fps**2
    assert torch.allclose(alpha, ours["joint_angle_acceleration"], rtol=1e-4)
    assert torch.allclose(published.basar_delta_b(*given, COCO17), ours["bone_length_change"], rtol=1e-5)
    clean, moved = clips.xyz.clone(), moved.clone()
    clean[..., 16, :] = clean[..., 14, :]  # the last of COCO's 16 bones has no length
    counted, left_out = (
        figure(clean, moved, clips.valid, COCO17) for figure in (published.basar_delta_b, metrics.bone_length_deviation)
    )
    assert torch.allclose(counted, left_out * 15 / 16, rtol=1e-4)


def test_two_persons_add_up_in_one_frame():
    """The paper's l_bl is over frames, of which two persons share one; the second is there in half of them."""
    xyz = torch.tensor([0.0, 1.0, 2.0]).expand(1, 2, 8, 3)[..., None]
    valid = everything(xyz)
    valid[0, 1, 4:] = False
    given = (xyz, 1.5 * xyz, valid, ARM)
    assert published.smart_bone(*given).item() == pytest.approx(12 * 2 * 0.25)
    assert published.smart_l_bl(*given).item() == pytest.approx(12 * 2 * 0.25 / 8)


def test_the_no_box_deviation_has_the_bound_that_its_docstring_derives(generator):
    """Corners of the cube of 0.01: displacement is all of its bound, bones stay below theirs, 0.26 in all."""
    xyz = torch.randn(4, 1, 9, 25, 3, generator=generator)
    moved = xyz + 0.01 * torch.randn(xyz.shape, generator=generator).sign()
    deviation = published.hard_no_box_delta_p(xyz, moved, everything(xyz), NTU25)
    assert (deviation > 0.01 * math.sqrt(75)).all()
    assert (deviation < 0.26).all()
    shifted = published.hard_no_box_delta_p(xyz, xyz + 0.01, everything(xyz), NTU25)
    assert torch.allclose(shifted, torch.tensor(0.01 * math.sqrt(75)), rtol=1e-3)


@pytest.mark.parametrize("rubbish", [7.0, math.nan])
def test_published_figures_count_what_is_valid_alone(clips, rubbish):
    junk = torch.where(clips.valid[..., None, None], clips.xyz, rubbish)
    given = (clips.xyz, junk, clips.valid)
    figures = [
        published.smart_l2,
        published.smart_acc,
        published.basar_l,
        published.basar_delta_v,
        published.basar_delta_a,
    ]
    assert all((figure(*given) == 0).all() for figure in figures)
    of_bones = [
        published.smart_bone,
        published.smart_perceptual,
        published.smart_l_bl,
        published.basar_delta_b,
        published.basar_delta_alpha,
        published.hard_no_box_delta_p,
    ]
    assert all((figure(*given, COCO17) == 0).all() for figure in of_bones)


@pytest.mark.parametrize("rubbish", [7.0, math.nan])
def test_our_figures_count_what_is_valid_alone(clips, rubbish):
    junk = torch.where(clips.valid[..., None, None], clips.xyz, rubbish)
    pairs = (clips.xyz, clips.valid), (junk, clips.valid)
    for figure in (
        lambda xyz, valid: metrics.high_frequency_ratio(xyz, valid, clips.fps),
        lambda xyz, valid: metrics.bone_length_variation(xyz, valid, COCO17),
        lambda xyz, valid: metrics.foot_skate(xyz, valid, clips.fps, COCO17, "y"),
        lambda xyz, valid: metrics.npss(clips.xyz, xyz, valid),
        lambda xyz, valid: metrics.kinetic_energy_rate(clips.xyz, xyz, valid),
        lambda xyz, valid: metrics.jerk_ratio(clips.xyz, xyz, valid),
    ):
        plain, filled = (figure(*pair) for pair in pairs)
        assert torch.equal(plain.nan_to_num(-1), filled.nan_to_num(-1))
        assert torch.isfinite(plain).any()  # random clips have few feet on the floor


def test_an_attack_is_judged_by_what_the_data_set_has_itself(capsys):
    assert main(["attack", "fgsm", "--victim", "stgcn.synthetic", "--limit", "2", "--threat", "linf:0.01"]) == 0
    assert " natural " in capsys.readouterr().out
