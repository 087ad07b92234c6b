"""Noise that is what it says, votes that are counted right, and radii that no attack undercuts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ncx2, norm
from torch import nn

import funnybone as fb
from funnybone.attacks.verdict import repeatable
from funnybone.errors import DataError
from funnybone.motion.angles import positions
from funnybone.motion.rest import rest_pose
from funnybone.skeletons import Skeleton
from funnybone.testing import linear_victim, random_clips
from funnybone.victims.filtered import Filter, Filtered
from funnybone.victims.smoothed import ABSTAINED, Noise, Smoothed, certified_radius

ARM = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
SIGMA = 0.02


def arm_clips(n, frames=2):
    return random_clips(n, frames=frames, skeleton=ARM)


def smoothed(victim, clips=None, **noise):
    noise = Noise(**{"sigma": SIGMA, **noise})
    rest = rest_pose(clips.xyz, clips.valid, clips.skeleton) if noise.space == "joint_angles" else None
    return Smoothed(victim, noise, rest=rest, defense="smoothing")


class Remembers(nn.Module):
    """Says class 0 to everything, and keeps what it was shown."""

    def forward(self, xyz):
        Remembers.shown = xyz
        return xyz.new_tensor([1.0, 0.0]).expand(len(xyz), 2) + 0 * xyz.flatten(1).sum(1, keepdim=True)


class Ball(nn.Module):
    """Class 0 within a distance of the centre, class 1 beyond it: a border that curves towards the clip."""

    def __init__(self, centre, radius):
        super().__init__()
        self.centre, self.radius = nn.Parameter(centre), radius

    def forward(self, xyz):
        room = self.radius - torch.linalg.vector_norm((xyz - self.centre).flatten(1), dim=1)
        return torch.stack([room, -room], 1)


def shown_by(clips, **noise):
    base = fb.TorchVictim(Remembers(), skeleton=clips.skeleton, classes=clips.classes)
    victim = smoothed(base, clips, **noise)
    torch.manual_seed(0)
    victim.logits(clips.xyz)
    return Remembers.shown


def test_noise_on_positions_has_its_deviation_and_moves_nobody_who_is_absent():
    clips = random_clips(6, persons=2, frames=20, absent=True)
    moved = shown_by(clips) - clips.xyz
    assert not bool(moved[~clips.valid].any())
    there = moved[clips.valid] / SIGMA
    assert abs(float(there.mean())) < 4 / math.sqrt(there.numel())
    assert abs(float(there.std()) - 1) < 4 / math.sqrt(2 * there.numel())


def test_noise_on_angles_keeps_bones_and_root():
    clips = random_clips(6, persons=2, frames=20, absent=True)
    shown = shown_by(clips, space="joint_angles", sigma=0.1)
    skeleton = clips.skeleton
    assert torch.allclose(skeleton.bone_lengths(shown), skeleton.bone_lengths(clips.xyz), atol=1e-5)
    assert torch.equal(shown[..., skeleton.root, :], clips.xyz[..., skeleton.root, :])
    moved = torch.linalg.vector_norm(shown - clips.xyz, dim=-1)
    assert not bool(moved[~clips.valid].any())
    assert float(moved[clips.valid].mean()) > 0.05
    assert torch.allclose(shown_by(clips, space="joint_angles", sigma=1e-9), clips.xyz, atol=1e-5)


def test_an_answer_is_the_log_of_the_mean_probability():
    clips = random_clips(4)
    base = linear_victim(clips, distance=0.01)
    soft = smoothed(base, draws=2000)
    torch.manual_seed(0)
    found = soft.logits(clips.xyz)
    # Of a linear score s the logits are +s and -s; s has the deviation sigma.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    score = torch.where(clips.labels == 0, 0.01, -0.01).double()[:, None] + SIGMA * torch.from_numpy(nodes)
    right = (torch.sigmoid(2 * score) * torch.from_numpy(weights / weights.sum())).sum(1)
    assert torch.allclose(found[:, 0].exp().double(), right, atol=4 * SIGMA / 2 / math.sqrt(2000))
    assert torch.allclose(found.exp().sum(1), torch.ones(4), atol=1e-5)


def test_the_mean_keeps_answers_too_sure_for_probabilities():
    clips = random_clips(4)
    victim = smoothed(linear_victim(clips, distance=400.0), draws=3)  # p of the other class is exp(-800)
    found = victim.logits(clips.xyz)
    torch.manual_seed(0)
    shown = victim.logits(clips.xyz)
    torch.manual_seed(0)
    copies = torch.stack([victim.base.logits(copy).log_softmax(1) for copy in victim._drawn(clips.xyz)])
    torch.testing.assert_close(shown, copies.logsumexp(0) - math.log(3))
    assert bool((found.amin(1) < -700).all())


def test_answers_differ_and_are_repeatable():
    clips = random_clips(2)
    victim = smoothed(linear_victim(clips))
    assert victim.stochastic
    assert not torch.equal(victim.logits(clips.xyz), victim.logits(clips.xyz))
    said = []
    for _ in range(2):
        with repeatable(victim, torch.Generator().manual_seed(3)):
            said.append(victim.logits(clips.xyz))
    assert torch.equal(*said)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_bound_is_the_exact_one(alpha):
    counts = torch.tensor([0, 1, 40, 60, 99, 100])
    found = certified_radius(counts, 100, 2.0, alpha)
    for count, radius in zip(counts.tolist(), found.tolist(), strict=True):
        low = binomtest(count, 100).proportion_ci(1 - 2 * alpha, method="exact").low
        assert radius == pytest.approx(2 * max(0.0, norm.ppf(low)) if count else 0.0, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 10**5), alpha=st.floats(1e-4, 0.4))
def test_no_radius_is_above_the_ceiling_and_more_votes_give_more(n, alpha):
    counts = torch.linspace(0, n, min(n, 20) + 1).long()
    radii = certified_radius(counts, n, 1.0, alpha)
    assert bool((radii.diff() >= 0).all())
    ceiling = max(0.0, norm.ppf(alpha ** (1 / n)))
    assert float(radii.max()) <= ceiling + 1e-9


@pytest.mark.parametrize("distance", [0.01, 0.06, 0.2])
def test_no_radius_is_above_the_distance_of_a_plane(distance):
    clips = arm_clips(12)
    found = smoothed(linear_victim(clips, distance=distance)).certify(clips, n=10_000, batch_size=512)
    certified = found.prediction != ABSTAINED
    assert torch.equal(found.prediction[certified], clips.labels[certified])
    # The exact radius of a smoothed half space is its distance.
    assert float(found.radius.max()) <= min(distance, found.ceiling)
    assert float(found.radius.min()) >= 0.75 * min(distance, found.ceiling)
    assert found.ceiling == pytest.approx(SIGMA * norm.ppf(0.001 ** (1 / 10_000)))
    assert torch.allclose(found.rms, found.radius / math.sqrt(2 * 3))


def test_no_radius_is_above_what_an_attack_needs_at_a_curved_border():
    clips = arm_clips(1)
    dimensions, inside = clips.xyz.numel(), 0.15
    victim = fb.TorchVictim(Ball(clips.xyz, inside), skeleton=ARM, classes=clips.classes)
    away = torch.randn(clips.xyz.shape, generator=torch.Generator().manual_seed(5))
    away = away / away.norm()
    steps = [0.0, 0.03, 0.05, 0.07]
    asked = arm_clips(len(steps))
    found = smoothed(victim).certify(
        asked.with_xyz(torch.cat([clips.xyz + step * away for step in steps])), n=10_000, batch_size=512
    )
    assert found.prediction.tolist() == [0] * len(steps)

    def left(step):
        return ncx2.cdf((inside / SIGMA) ** 2, dimensions, (step / SIGMA) ** 2)

    changes = next(step for step in np.arange(0, 1, 1e-4) if left(step) < 0.5)  # straight outwards, for the majority
    for step, radius in zip(steps, found.radius.tolist(), strict=True):
        assert 0.5 * min(changes - step, found.ceiling) < radius <= min(changes - step, found.ceiling)
    # An attack that goes beyond it is answered with the other class.
    beyond = next(step for step in np.arange(0, 1, 1e-3) if left(step) < 0.35)
    fallen = clips.with_xyz(clips.xyz + float(beyond) * away)
    assert smoothed(victim).classify(fallen, n=400).tolist() == [1]


def test_no_turn_within_the_radius_changes_the_answer():
    """A victim that looks at an angle: turned by less than the radius, whichever way, an arm is classified the same."""
    clips = arm_clips(1, frames=1)
    still = clips.xyz[:, :, :, 1] - clips.xyz[:, :, :, 0]
    direction = still / still.norm()

    class Angle(nn.Module):
        def forward(self, xyz):
            bone = torch.nn.functional.normalize(xyz[:, 0, 0, 1] - xyz[:, 0, 0, 0], dim=-1)
            room = (bone * direction.flatten()).sum(-1) - math.cos(0.3)
            return 50 * torch.stack([room, -room], 1)

    base = fb.TorchVictim(Angle(), skeleton=ARM, classes=clips.classes)
    victim = smoothed(base, clips, space="joint_angles", sigma=0.1)
    found = victim.certify(clips, n=2000, batch_size=512)
    radius = float(found.radius)
    assert found.prediction.tolist() == [0]
    assert 0.1 < radius <= min(0.3, found.ceiling)
    assert torch.allclose(found.rms, found.radius / math.sqrt(2))  # shoulder and elbow

    motion = victim._at(clips.xyz)
    ways = torch.randn(64, *motion.theta.shape[1:], generator=torch.Generator().manual_seed(2))
    ways = 0.95 * radius * ways / ways.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    rows = torch.zeros(64, dtype=torch.long)
    turned = motion[rows]
    xyz = positions(type(turned)(**{**vars(turned), "theta": turned.theta + ways}))
    near = victim.distance(clips.xyz[rows], xyz) < radius
    assert int(near.sum()) > 20
    said = victim.classify(arm_clips(64, frames=1).with_xyz(xyz), n=400, batch_size=512)
    assert not bool((said[near] == 1).any())
    # Far beyond it the answer is another one.
    beyond = clips.xyz.clone()
    beyond[..., 1:, :] = 2 * beyond[..., :1, :] - beyond[..., 1:, :]
    assert float(victim.distance(clips.xyz, beyond)) > found.ceiling
    assert victim.classify(clips.with_xyz(beyond), n=400).tolist() == [1]


def test_the_gradient_passes_the_angles():
    clips = arm_clips(1)
    victim = smoothed(linear_victim(clips), clips, space="joint_angles", sigma=0.1)
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(victim._at(clips.xyz).theta.shape, generator=generator, dtype=torch.float64)
    xyz = clips.xyz.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: victim._seen(victim._at(x), numbers), xyz, atol=1e-4)


def test_votes_of_a_base_that_draws_itself_certify_nothing():
    clips = arm_clips(2)
    twice = smoothed(smoothed(linear_victim(clips)))
    for ask in (twice.certify, twice.classify):
        with pytest.raises(DataError, match="is stochastic"):
            ask(clips)
    with pytest.raises(DataError, match="0 votes"):
        twice.base.certify(clips, n=0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.1, 1.0, math.nan])
def test_a_level_that_is_none(alpha):
    clips = arm_clips(2)
    victim = smoothed(linear_victim(clips))
    asks = (
        lambda: victim.certify(clips, n=10, alpha=alpha),
        lambda: victim.classify(clips, n=10, alpha=alpha),
        lambda: certified_radius(torch.tensor([10]), 10, 1.0, alpha),
    )
    for ask in asks:
        with pytest.raises(DataError, match=f"smoothing: alpha is {alpha}"):
            ask()


class Undefined(nn.Module):
    """No number, wherever the first coordinate is above zero."""

    def forward(self, xyz):
        first = xyz.flatten(1)[:, :1]
        return torch.cat([torch.where(first > 0, torch.nan, 1.0), torch.zeros_like(first)], 1)


def test_what_is_no_number_is_no_vote():
    clips = arm_clips(1)
    near = clips.with_xyz(clips.xyz - clips.xyz.flatten()[0])  # of whose noisy copies about half are answered
    far = clips.with_xyz(near.xyz - 1)
    victim = smoothed(fb.TorchVictim(Undefined(), skeleton=ARM, classes=clips.classes, name="odd"))
    for ask in (victim.certify, victim.classify):
        with pytest.raises(DataError, match="'odd' answers NaN or infinity"):
            ask(near, n=40)
    assert victim.classify(far, n=40).tolist() == [0]


@pytest.mark.parametrize("rest", [torch.zeros(2, 3), torch.ones(2, 3), torch.eye(3)[:2] * torch.inf])
def test_a_rest_pose_is_directions(rest):
    with pytest.raises(DataError, match="length is not 1"):
        Smoothed(linear_victim(arm_clips(2)), Noise(sigma=0.1, space="joint_angles"), rest=rest, defense="smoothing")


def test_what_is_infinitely_far():
    clips = arm_clips(2, frames=4)
    base = linear_victim(clips)
    by_position, by_angle = smoothed(base), smoothed(base, clips, space="joint_angles")
    moved = clips.xyz.clone()
    moved[0, 0, 1, 2, 0] += 0.03
    assert torch.allclose(by_position.distance(clips.xyz, moved), torch.tensor([0.03, 0.0]), atol=1e-6)
    assert by_angle.distance(clips.xyz, moved).tolist() == [math.inf, 0.0]  # a bone has changed
    gone = clips.xyz.clone()
    gone[1, 0, 2] = 0
    assert by_position.distance(clips.xyz, gone).tolist() == [0.0, math.inf]


def test_it_abstains_where_a_binomial_test_cannot_tell():
    clips = arm_clips(12)
    victims = [smoothed(linear_victim(clips, distance=distance)) for distance in (1e-4, 0.02, 0.2)]
    for victim in victims:
        votes = victim._votes(clips, 100, fb.attacks.base.Chance.of(clips, torch.Generator().manual_seed(0)), 512)
        said = victim.classify(clips, n=100, batch_size=512)
        for row, answer in zip(votes.tolist(), said.tolist(), strict=True):
            sure = binomtest(max(row), sum(row)).pvalue <= 0.001
            assert answer == (row.index(max(row)) if sure else ABSTAINED)
    assert (said == clips.labels).all()
    assert (victims[0].classify(clips, n=100, batch_size=512) == ABSTAINED).float().mean() > 0.9
    assert victims[0].certify(clips, n=100, batch_size=512).radius.max() == 0


def test_a_clips_votes_do_not_depend_on_the_clips_beside_it_nor_on_the_global_state():
    clips = arm_clips(5)
    victim = smoothed(linear_victim(clips, distance=0.02))
    chance = torch.get_rng_state()
    together = victim.certify(clips, n=50)
    assert torch.equal(chance, torch.get_rng_state())
    alone = victim.certify(clips[[3]], n=50, batch_size=16)
    assert torch.equal(together.radius[[3]], alone.radius)
    other = victim.certify(clips, n=50, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(together.radius, other.radius)


def test_an_attack_that_averages_its_gradients_is_not_blinded():
    clips = random_clips(4)
    victim = smoothed(linear_victim(clips, distance=0.05))
    for way in (victim, victim.ways_in()["mean"]):
        attack = fb.create_attack("pgd", steps=10, step_size=0.2, early_stop=False)
        near, far = (attack(way, clips, threat=fb.threat.L2(radius), draws=2) for radius in (0.02, 0.10))
        assert far.success.all()
        assert not near.success.any()
    assert set(victim.ways_in()) == {"base", "mean"}
    assert victim.ways_in()["mean"].noise.draws == 16
    assert all(name.steady for name in victim.ways_in())


def test_the_ways_into_a_filtered_victim_are_behind_the_noise_as_well():
    clips = random_clips(4)
    base = linear_victim(clips, distance=0.05)
    filtered = Filtered(base, Filter(keep=0.2), defense="lowpass")
    victim = Smoothed(filtered, Noise(sigma=0.02), defense="smoothing")
    ways = victim.ways_in()
    assert list(ways) == ["base", "mean", "smoothed base", "innermost base"]
    assert ways["base"] is filtered
    assert ways["innermost base"] is base
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = ways["smoothed base"].logits(clips.xyz)
        torch.manual_seed(0)
        noisy = clips.xyz + 0.02 * torch.randn_like(clips.xyz)
    assert torch.allclose(found, base.logits(noisy).log_softmax(1), atol=1e-5)
    assert ways["smoothed base"].stochastic
    assert {str(name) for name in ways if not name.steady} == {"smoothed base"}
    # A mean of many draws that is filtered is one still.
    steady = {str(name): name.steady for name in Filtered(victim, Filter(), defense="lowpass").ways_in()}
    assert steady["filtered mean"]
    assert not steady["base"]
    assert not steady["filtered smoothed base"]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"sigma": 0.0}, "smoothing: sigma is 0.0"),
        ({"sigma": float("inf")}, "smoothing: sigma is inf"),
        ({"draws": 0}, "smoothing: draws is 0"),
        ({"draws": 10**12}, "smoothing: draws is 1000000000000"),
        ({"space": "time"}, "space is 'time'"),
    ],
)
def test_settings_that_there_are_not(setting, says):
    with pytest.raises(DataError, match=says):
        fb.create_defense("smoothing", **setting)


def test_angles_need_three_coordinates():
    clips = arm_clips(2)
    flat = fb.Clips(**{**vars(clips), "xyz": clips.xyz[..., :2].contiguous(), "unit": "pixel"})
    base = fb.TorchVictim(Remembers(), skeleton=ARM, classes=clips.classes)
    with pytest.raises(DataError, match="two coordinates"):
        fb.create_defense("smoothing", space="joint_angles").fit(base, flat)
