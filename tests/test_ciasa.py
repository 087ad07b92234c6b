"""CIASA: bones of their clean length, bounds that grow outwards, and a discriminator that reaches the motion."""

import pytest
import torch

import funnybone as fb
from funnybone.attacks.ciasa import Reach, roughness
from funnybone.attacks.plausibility import LAYERS, bone_cosines, implausibility, judged, new_weights, trained
from funnybone.chance import Chance
from funnybone.motion.kinematics import ancestors
from funnybone.skeletons import COCO17, HDM05_25, NTU25
from funnybone.testing import check_attack, linear_victim, random_clips
from funnybone.threat import L2, BoneLength, Linf, Mask
from parts_for_tests import loud, noisy, problem_of


def attack(**settings):
    return fb.create_attack("ciasa", **{"steps": 40, **settings})


def lengthened(clips, xyz):
    """The largest change of any bone's length, in metres."""
    before, after = (clips.skeleton.bone_lengths(x.double()) for x in (clips.xyz, xyz))
    return float((after - before).abs().max())


def test_the_exam_without_discriminator_and_with_one_bound_for_all():
    check_attack(attack(plausibility=0.0, root_share=1.0))


@pytest.mark.parametrize(
    "threat",
    [
        fb.threat.Unbounded(),
        Linf(0.02),
        L2(0.2),
        Linf(0.02) & BoneLength(0.01) & Mask(joints=tuple(range(1, 17))),
        Mask(frames=(2, 6)),
    ],
    ids=repr,
)
def test_bones_keep_their_clean_length_in_every_threat_model(threat):
    clips = random_clips(5, persons=2, absent=True)
    outcome = attack()(linear_victim(clips, distance=1.0), clips, threat=threat)
    assert lengthened(clips, outcome.adversarial.xyz) < 1e-5
    assert outcome.violation.max() == 0
    assert (outcome.distances["position_m"] > 1e-3).all()
    # One bone of one frame, by hand.
    elbow, shoulder = COCO17.index("left_elbow"), COCO17.index("left_shoulder")
    before, after = ((x[2, 1, 3, elbow] - x[2, 1, 3, shoulder]).norm() for x in (clips.xyz, outcome.adversarial.xyz))
    assert after == pytest.approx(float(before), abs=1e-5)


def test_it_fools_and_stays_in_sight_of_the_exact_distance():
    clips = random_clips(6, persons=2, absent=True)
    outcome = attack()(linear_victim(clips, distance=0.05), clips)
    assert outcome.success.all()
    way = (outcome.adversarial.xyz - clips.xyz).flatten(1).norm(dim=1)
    assert (way >= 0.0499).all()
    assert (way < 0.15).all()  # signs of coordinates and rigid bones cost something


@pytest.mark.parametrize("root_share", [0.25, 1.0])
def test_joints_stay_within_a_bound_that_grows_outwards(root_share):
    clips = random_clips(5, skeleton=NTU25)
    attacking = attack(bound=0.02, root_share=root_share)
    outcome = attacking(linear_victim(clips, distance=5.0), clips)
    moved = (outcome.adversarial.xyz - clips.xyz).norm(dim=-1).amax((0, 1, 2))
    radii = torch.tensor(attacking.reach(NTU25).radii)
    assert (moved <= radii + 1e-6).all()
    assert (moved > 0.8 * radii).sum() >= 20
    assert radii[NTU25.root] == pytest.approx(root_share * 0.02)
    for tip in ("Head", "HandTipL", "FootR"):
        assert radii[NTU25.index(tip)] == pytest.approx(0.02)
    steps = radii[list(range(25))] - radii[[max(parent, 0) for parent in NTU25.parents]]
    outward = torch.tensor([parent >= 0 for parent in NTU25.parents])
    assert (steps[outward] > 0).all() if root_share < 1 else (steps[outward] == 0).all()


def test_a_bound_for_each_joint_is_a_threat_model():
    clean = torch.zeros(2, 1, 3, 2, 3)
    reach = Reach((0.01, 0.1))
    outside = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    inside = reach.project(clean, outside)
    assert reach.violation(clean, outside).min() > 0.1
    assert reach.violation(clean, inside).max() == 0
    assert torch.equal(reach.project(clean, inside), inside)
    assert torch.allclose(inside.norm(dim=-1), torch.tensor([0.01, 0.1]).expand(2, 1, 3, 2))


def test_in_the_localized_mode_only_chosen_joints_and_what_hangs_on_them_move():
    clips = random_clips(4)
    names = ("left_elbow", "right_knee")
    outcome = attack(joints=names)(linear_victim(clips, distance=1.0), clips)
    moved = (outcome.adversarial.xyz != clips.xyz).flatten(0, 2).any(-1).any(0)
    bones = [child for child, _ in COCO17.bones]
    allowed = sum(ancestors(COCO17)[:, bones.index(COCO17.index(name))] for name in names).bool()
    assert torch.equal(moved, allowed)
    assert lengthened(clips, outcome.adversarial.xyz) < 1e-5
    assert attack(joints=(7, 14))(linear_victim(clips, distance=1.0), clips).adversarial.xyz.equal(
        outcome.adversarial.xyz
    )
    with pytest.raises(fb.DataError, match="no joint 'tail'"):
        attack(joints=("tail",))(linear_victim(clips), clips)
    with pytest.raises(fb.DataError, match="not all of 0"):
        attack(joints=(17,))(linear_victim(clips), clips)


def test_a_joint_that_carries_what_is_held_does_not_move():
    clips = random_clips(4)
    held = COCO17.index("left_wrist")
    threat = Mask(joints=tuple(joint for joint in range(17) if joint != held))
    outcome = attack()(linear_victim(clips, distance=1.0), clips, threat=threat)
    still = ancestors(COCO17)[held].nonzero().flatten()
    chain = [COCO17.root, *(COCO17.bones[bone][0] for bone in still)]
    moved = (outcome.adversarial.xyz != clips.xyz).flatten(0, 2).any(-1).any(0)
    assert not moved[chain].any()
    assert moved.sum() == 17 - len(chain)
    assert outcome.violation.max() == 0


def test_the_gradient_of_plausibility_reaches_the_motion():
    clips = random_clips(2, persons=2, frames=3, absent=True)
    weights = new_weights(Chance(torch.tensor([1, 2])), 120, 8)
    generator = torch.Generator().manual_seed(0)
    # A discriminator says nothing before it has learned: see what trained ones say.
    attacked = bone_cosines(clips.xyz + 0.1 * torch.randn(clips.xyz.shape, generator=generator), COCO17)
    state = {}
    for k in range(20):
        weights = trained(state, weights, bone_cosines(clips.xyz, COCO17), attacked, clips.valid, k, 0.01)
    weights = {layer: value.double() for layer, value in weights.items()}
    xyz = clips.xyz.double().requires_grad_(True)

    def loss(positions):
        return implausibility(positions, weights, clips.valid, COCO17)

    (gradient,) = torch.autograd.grad(loss(xyz).sum(), xyz)
    assert (gradient != 0).any(-1)[clips.valid].all()
    assert (gradient[~clips.valid] == 0).all()
    for _ in range(5):
        way = torch.randn(xyz.shape, generator=generator, dtype=torch.float64)
        difference = (loss(xyz + 1e-6 * way) - loss(xyz - 1e-6 * way)).detach() / 2e-6
        assert torch.allclose(difference, (gradient * way).sum((1, 2, 3, 4)), rtol=1e-5, atol=1e-8)


def test_a_discriminator_learns_to_tell_poses_from_clean_ones():
    clips = random_clips(3, frames=30)
    bent = clips.xyz.clone()
    bent[..., COCO17.index("left_wrist"), :] = bent[..., COCO17.index("left_shoulder"), :] + 0.1
    clean, attacked = bone_cosines(clips.xyz, COCO17), bone_cosines(bent, COCO17)
    weights, state = new_weights(Chance(torch.arange(3)), 120, 16), {}
    assert set(weights) == set(LAYERS)
    for k in range(100):
        weights = trained(state, weights, clean, attacked, clips.valid, k, 0.01)
    assert (judged(weights, clean) > 0.8).all()
    assert (judged(weights, attacked) < 0.2).all()


def test_each_clip_has_a_discriminator_of_its_own():
    clips = random_clips(4)
    clean = bone_cosines(clips.xyz, COCO17)
    attacked = bone_cosines(clips.xyz.flip(0), COCO17)

    def fit(rows):
        weights, state = new_weights(Chance(torch.tensor([3, 1, 4, 1])[rows]), 120, 8), {}
        for k in range(10):
            weights = trained(state, weights, clean[rows], attacked[rows], clips.valid[rows], k, 0.01)
        return weights

    together, alone = fit([0, 1, 2, 3]), fit([2])
    for layer in LAYERS:
        assert torch.allclose(together[layer][2], alone[layer][0], atol=1e-6)
    assert not torch.allclose(together["hidden"][1], together["hidden"][2], atol=0.1)


def test_plausibility_changes_the_motion():
    clips = random_clips(3)
    victim = linear_victim(clips, distance=1.0)
    with_it, without = (attack(plausibility=weight)(victim, clips).adversarial.xyz for weight in (0.5, 0.0))
    assert (with_it - without).abs().amax((1, 2, 3, 4)).min() > 1e-3


def test_smoothness_makes_the_motion_smoother():
    clips = random_clips(4, frames=30)
    # Reached in the middle of the attack, so that there is time to be smooth, and at no bound.
    victim = linear_victim(clips, distance=0.3)
    rough, smooth = (attack(smoothness=weight, plausibility=0.0, steps=100)(victim, clips) for weight in (0.0, 0.5))
    assert rough.success.all()
    assert smooth.success.all()
    assert smooth.distances["acceleration"].mean() < 0.8 * rough.distances["acceleration"].mean()


def test_roughness_is_in_physical_units():
    clips = random_clips(1, frames=9)
    xyz = torch.zeros_like(clips.xyz)
    xyz[0, 0, 4, 3, 1] = 0.01
    # 1, -2, 1 times a centimetre, 30^2 times a second squared, over 7 frames and 17 joints.
    assert roughness(xyz, clips.valid, clips.fps) == pytest.approx(6 * (0.01 * 30**2) ** 2 / (7 * 17), rel=1e-5)
    assert roughness(xyz, clips.valid, 2 * clips.fps) == pytest.approx(6 * (0.01 * 60**2) ** 2 / (7 * 17), rel=1e-5)
    assert roughness(xyz[:, :, :2], clips.valid[:, :, :2], clips.fps) == 0


def test_cosines_are_those_between_all_bones():
    clips = random_clips(1, frames=1, skeleton=HDM05_25)
    clips.xyz[..., 0, :] = clips.xyz[..., HDM05_25.root, :]  # a bone without length
    xyz = clips.xyz.clone().requires_grad_(True)
    found = bone_cosines(xyz, HDM05_25)[0, 0, 0]
    unit = torch.nn.functional.normalize(HDM05_25.bone_vectors(clips.xyz[0, 0, 0]), dim=-1)
    expected = [unit[one] @ unit[other] for one in range(24) for other in range(one + 1, 24)]
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)
    found.square().sum().backward()
    assert torch.isfinite(xyz.grad).all()
    assert xyz.grad.abs().max() < 1e3


def test_bones_without_length_stay_without_and_few_frames_do_no_harm():
    clips = random_clips(3, frames=2, skeleton=HDM05_25)
    xyz = clips.xyz.clone()
    xyz[..., [0, 5], :] = xyz[..., [HDM05_25.root], :]
    clips = clips.with_xyz(xyz)
    outcome = attack()(linear_victim(clips, distance=0.05), clips)
    assert outcome.success.all()
    assert lengthened(clips, outcome.adversarial.xyz) < 1e-5


def test_a_step_goes_where_bones_let_it():
    """What a gradient gains by stretching a bone does not move the joint at its end."""
    clips = random_clips(2)
    attacking = attack(smoothness=0.0, plausibility=0.0, joints=("left_wrist",))
    leaf = COCO17.index("left_wrist")
    along = clips.xyz[..., leaf, :] - clips.xyz[..., COCO17.parents[leaf], :]
    across = torch.linalg.cross(along, torch.ones_like(along))
    steps = []
    for stretch in (0.0, 10.0):
        problem = problem_of(linear_victim(clips), clips)
        attacking.start(problem)
        gradient = torch.zeros_like(clips.xyz)
        gradient[..., leaf, :] = across + stretch * along
        steps.append(attacking.step(problem, clips.xyz, gradient, 0))
    assert (steps[0] != clips.xyz).any()
    assert torch.allclose(*steps, atol=1e-5)


def test_goals_draws_and_budgets():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.05)
    stochastic = noisy(victim, 0.01)
    outcome = attack(steps=10)(stochastic, clips, draws=4, goal=fb.goals.Specified())
    assert outcome.success.all()
    assert (outcome.queries % 4 == 0).all()
    assert attack(steps=10)(stochastic, clips, draws=4, budget=11).queries.max() == 8


def test_a_sure_victim_falls_like_an_unsure_one():
    clips = random_clips(4)
    victim = linear_victim(clips, distance=0.05)
    certain = loud(victim, 10000)
    plain, sure = (attack()(who, clips).adversarial.xyz for who in (victim, certain))
    assert torch.allclose(plain, sure, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"step_size": 0.0},
        {"bound": 0.0},
        {"bound": float("nan")},
        {"root_share": 0.0},
        {"root_share": 1.5},
        {"smoothness": -1.0},
        {"plausibility": float("inf")},
        {"width": 0},
        {"rate": 0.0},
        {"joints": ()},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(fb.DataError, match=f"ciasa: {next(iter(settings))}"):
        attack(**settings)
