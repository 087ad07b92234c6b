"""The projection onto natural motion: the optimum of its programme, limits, bones, and what it leaves alone."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

import funnybone as fb
from funnybone.motion.angles import positions, to_angles
from funnybone.motion.limits import JointLimits, learn_limits
from funnybone.motion.manifold import Manifold, project, project_angles
from funnybone.motion.turns import turns
from funnybone.testing import random_clips


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def general_solver(theta, clean, low, high, weight):
    """One path by a solver for any bounded least squares, which knows nothing of this one's structure."""
    second = np.diff(np.eye(len(theta)), n=2, axis=0)
    matrix = np.vstack([np.eye(len(theta)), np.sqrt(weight) * second])
    wanted = np.concatenate([theta, np.sqrt(weight) * second @ clean])
    return lsq_linear(matrix, wanted, bounds=(low, high), method="bvls", tol=1e-14).x


def test_it_is_the_optimum_of_a_general_solver():
    generator = np.random.default_rng(0)
    for _ in range(20):  # of ten paths each
        frames, weight = int(generator.integers(3, 40)), float(10 ** generator.uniform(-2, 3.5))
        clean = generator.normal(size=(frames, 10)).cumsum(0) * 0.2
        theta = clean + generator.normal(size=(frames, 10)) * 0.5
        low, high = -generator.uniform(0.1, 1, 10), generator.uniform(0.1, 1, 10)
        tensors = [torch.tensor(part) for part in (theta[None], clean[None], low, high)]
        found = project_angles(*tensors, weight=weight)[0].numpy()
        wanted = np.stack(
            [general_solver(theta[:, d], clean[:, d], low[d], high[d], weight) for d in range(10)], axis=1
        )
        assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_without_weight_it_is_a_clamp_and_comes_back_unchanged():
    theta, clean = torch.randn(2, 3, 9, 4)
    limit = torch.full((4,), 0.5)
    found = project_angles(theta, clean, -limit, limit, weight=0.0)
    assert torch.equal(found, theta.clamp(-0.5, 0.5))
    assert torch.equal(project_angles(found, clean, -limit, limit, weight=0.0), found)


def test_what_has_the_clean_accelerations_comes_back_unchanged():
    clean = 0.1 * torch.randn(2, 9, 3).cumsum(1)
    theta = clean + 0.05 + 0.01 * torch.arange(9)[:, None]  # turned, and turning on evenly
    limit = torch.full((3,), 5.0)
    found = project_angles(theta, clean, -limit, limit, weight=7.0)
    torch.testing.assert_close(found, theta)


def test_a_great_weight_gives_the_clean_accelerations():
    theta, clean = torch.randn(2, 1, 20, 5, dtype=torch.float64)
    free = torch.full((5,), torch.inf, dtype=torch.float64)
    found = project_angles(theta, clean, -free, free, weight=1e9)
    assert (found - clean).diff(n=2, dim=1).abs().max() < 1e-5


def test_limits_hold_exactly_in_the_precision_of_the_angles():
    theta, clean = torch.randn(2, 4, 30, 6)
    low, high = -torch.rand(4, 6), torch.rand(4, 6)  # of each clip its own
    found = project_angles(theta, clean, low, high)
    assert (found >= low[:, None]).all()
    assert (found <= high[:, None]).all()


def test_frames_that_do_not_count_are_nobodys_neighbours():
    theta, clean = torch.randn(2, 2, 12, 3)
    limit = torch.full((3,), 0.7)
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[0, 8:] = False
    found = project_angles(theta, clean, -limit, limit, valid=valid)
    alone = project_angles(theta[:1, :8], clean[:1, :8], -limit, limit)
    torch.testing.assert_close(found[:1, :8], alone)
    torch.testing.assert_close(found[1:], project_angles(theta[1:], clean[1:], -limit, limit))


def test_wrong_limits_and_weights_are_refused():
    theta = torch.zeros(1, 4, 2)
    with pytest.raises(fb.DataError, match="above the upper one"):
        project_angles(theta, theta, torch.tensor([1.0, 0.0]), torch.zeros(2))
    with pytest.raises(fb.DataError, match="weight of accelerations"):
        project_angles(theta, theta, torch.zeros(2), torch.zeros(2), weight=-1.0)


@pytest.fixture(scope="module")
def walkers():
    return fb.load_data("synthetic", split="train")[:8]


def test_natural_motion_is_projected_onto_itself(walkers):
    limits = learn_limits(walkers)
    clean = limits.angles(walkers, breathing=True)
    found = project(walkers.xyz, clean, limits.lower, limits.upper)
    assert (found - walkers.xyz).abs().max() < 1e-5


def test_bones_keep_their_length_and_dynamics_come_near_the_clean_ones(walkers):
    limits = learn_limits(walkers)
    clean = limits.angles(walkers, breathing=True)
    noisy = walkers.xyz + 0.02 * torch.randn(walkers.xyz.shape, generator=torch.Generator().manual_seed(0))
    found = project(noisy, clean, limits.lower, limits.upper, weight=0.0)
    bones = walkers.skeleton.bone_lengths
    assert (bones(found) - bones(walkers.xyz)).abs().max() < 1e-6
    smooth = project(noisy, clean, limits.lower, limits.upper, weight=10.0)
    rough = [(part - walkers.xyz).diff(n=2, dim=2).abs().mean() for part in (noisy, found, smooth)]
    assert rough[2] < 0.3 * min(rough[:2])


def test_limits_hold_when_angles_are_read_back_from_positions(walkers):
    limits = learn_limits(walkers)
    manifold = Manifold.around(limits.angles(walkers, breathing=True), limits.lower, limits.upper)
    noisy = walkers.xyz + 0.005 * torch.randn(walkers.xyz.shape, generator=torch.Generator().manual_seed(0))
    path = manifold.projected(manifold.paths(noisy))
    assert torch.equal(manifold.limited(path), path)
    # A twist that is cut off at one joint shows, a little, at the next: the angles of positions are not unique.
    again = manifold.paths(manifold.positions(path))
    assert (manifold.limited(again) - again).abs().max() < 0.1
    assert ((manifold.limited(again) - again).abs() > 0.01).float().mean() < 0.01


def test_without_limits_in_the_way_twice_is_once(walkers):
    limits = learn_limits(walkers, margin=3.0)
    clean = limits.angles(walkers, breathing=True)
    noisy = walkers.xyz + 0.02 * torch.randn(walkers.xyz.shape, generator=torch.Generator().manual_seed(0))
    once = project(noisy, clean, limits.lower, limits.upper, weight=0.0)
    twice = project(once, clean, limits.lower, limits.upper, weight=0.0)
    torch.testing.assert_close(twice, once, atol=1e-5, rtol=0)


def test_absent_persons_and_padding_stay_empty():
    clips = random_clips(4, persons=2, absent=True)
    limits = learn_limits(clips)
    found = project(clips.xyz + 0.1, limits.angles(clips, breathing=True), limits.lower, limits.upper)
    assert not found[~clips.valid].any()
    assert found[clips.valid].any()


@pytest.mark.parametrize("file", ["hdm05/hdm05_11.npz", "utd_mhad/utd_mhad.npz", "nw_ucla/nw_ucla.npz"])
def test_bones_that_breathe_come_back_exactly(shared, file):
    clips = fb.load_data(str(shared / "data" / file), frames=60)[::20]
    limits = learn_limits(clips)
    motion = limits.angles(clips, breathing=True)
    assert (positions(motion) - clips.xyz).abs().max() < 1e-5
    assert motion.lengths.shape[2] == 60


def test_angles_counted_from_another_facing_are_the_same_motion():
    clips = random_clips(3)
    limits = learn_limits(clips)
    first = limits.angles(clips, breathing=True)
    turned = to_angles(
        clips.xyz, clips.valid, clips.skeleton, limits.rest, breathing=True, facing=first.facing[[1, 2, 0]]
    )
    torch.testing.assert_close(positions(turned), clips.xyz, atol=1e-5, rtol=0)


def test_limits_are_quantiles_and_the_root_is_free(walkers):
    tight, loose = learn_limits(walkers, share=0.05, margin=0.0), learn_limits(walkers, share=0.0, margin=0.2)
    beyond = (tight.excess(tight.angles(walkers)) > 0).float().mean((0, 1, 2))
    assert 0 < beyond.max() <= 0.1 + 1e-3  # a twentieth at either end
    assert loose.excess(loose.angles(walkers)).max() == 0
    root = turns(walkers.skeleton).index(walkers.skeleton.joints[walkers.skeleton.root])
    assert loose.lower[root].isinf().all()
    assert loose.lower.isinf().sum() == 3
    with pytest.raises(fb.DataError, match="give a share below"):
        learn_limits(walkers, share=0.7)


def test_limits_say_what_does_not_fit(walkers):
    limits = learn_limits(walkers)
    with pytest.raises(fb.DataError, match="learn limits from clips on the same skeleton"):
        limits.angles(random_clips(2))
    with pytest.raises(fb.DataError, match="lower has shape"):
        JointLimits(limits.lower[1:], limits.upper, limits.rest, limits.skeleton)
    with pytest.raises(fb.DataError, match="above the upper one"):
        JointLimits(limits.upper, limits.lower, limits.rest, limits.skeleton)
