"""Box-constrained programmes of paths: optimal by the conditions of an optimum, whichever way they are solved."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from funnybone.motion import programmes
from funnybone.motion.programmes import Paths, nearest_paths, programme

CPU = torch.device("cpu")


def random_paths(frames, count, seed):
    """Noisy paths around smooth ones; some limits are infinite, and some hold a path to one value."""
    generator = np.random.default_rng(seed)
    still = 0.2 * generator.normal(size=(frames, count)).cumsum(0)
    aim = still + generator.normal(scale=0.4, size=(frames, count))
    low, high = -generator.uniform(0.05, 0.8, count), generator.uniform(0.05, 0.8, count)
    low[::5], high[1::7] = -np.inf, np.inf
    low[3::11] = high[3::11] = 0.1
    return Paths(*(torch.tensor(part) for part in (aim, still, low, high)))


def farthest_from_optimal(found, paths, counted, weight):
    """The most that anything pulls at a frame which could follow, by what the matrix of the programme rounds to."""
    second = torch.eye(len(found), dtype=torch.float64).diff(n=2, dim=0)[list(counted)]
    bent = weight * second.mT @ (second @ (paths.still - found))
    pull = paths.aim - found + bent
    pull = torch.where(found >= paths.high, pull.clamp(max=0), pull)
    pull = torch.where((found <= paths.low) & (pull < 0), 0.0, pull)
    pull = torch.where(paths.low == paths.high, 0.0, pull)
    return float(pull.abs().max()) / (1 + 16 * weight)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(3, 70), exponent=st.floats(-1, 4), seed=st.integers(0, 2**31), gaps=st.sampled_from([0.0, 0.1])
)
def test_nothing_pulls_at_a_frame_that_could_follow(frames, exponent, seed, gaps):
    weight = 10**exponent
    paths = random_paths(frames, 50, seed)
    counted = tuple((np.random.default_rng(seed).random(frames - 2) >= gaps).tolist())
    found = nearest_paths(paths, programme(counted, weight, CPU))
    assert (found >= paths.low).all()
    assert (found <= paths.high).all()
    assert farthest_from_optimal(found, paths, counted, weight) < 1e-10


@pytest.mark.parametrize("weight", [1e5, 1e6])
def test_very_heavy_weights_are_solved_as_well(weight):
    paths = random_paths(30, 20, 0)
    counted = (True,) * 28
    found = nearest_paths(paths, programme(counted, weight, CPU))
    assert farthest_from_optimal(found, paths, counted, weight) < 1e-10


def test_no_weight_is_too_light():
    paths = random_paths(9, 20, 0)
    found = nearest_paths(paths, programme((True,) * 7, 1e-30, CPU))
    torch.testing.assert_close(found, torch.minimum(torch.maximum(paths.aim, paths.low), paths.high))


def test_a_general_solver_finds_the_same_at_heavy_weights():
    paths = random_paths(60, 12, 1)
    second = np.sqrt(1000.0) * np.diff(np.eye(60), n=2, axis=0)
    matrix = np.vstack([np.eye(60), second])
    found = nearest_paths(paths, programme((True,) * 58, 1000.0, CPU)).numpy()
    for path in range(12):
        if paths.low[path] == paths.high[path]:
            continue  # which SciPy refuses
        wanted = np.concatenate([paths.aim[:, path].numpy(), second @ paths.still[:, path].numpy()])
        limits = float(paths.low[path]), float(paths.high[path])
        theirs = lsq_linear(matrix, wanted, bounds=limits, method="bvls", tol=1e-14).x
        assert np.abs(found[:, path] - theirs).max() <= 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize(("name", "value"), [("ROUNDS", 0), ("FIRST", 10**9)])
def test_splitting_alone_gets_there_too(monkeypatch, name, value):
    paths = random_paths(40, 60, 2)
    by = programme((True,) * 38, 1000.0, CPU)
    soon = nearest_paths(paths, by)
    monkeypatch.setattr(programmes, name, value)
    torch.testing.assert_close(nearest_paths(paths, by), soon, rtol=0, atol=1e-8)


def test_paths_that_one_try_does_not_settle_are_tried_again(monkeypatch):
    paths = random_paths(40, 60, 3)
    by = programme((True,) * 38, 1000.0, CPU)
    soon = nearest_paths(paths, by)
    tried, settle = [], programmes._active_sets
    monkeypatch.setattr(programmes, "_active_sets", lambda some, *rest: tried.append(some) or settle(some, *rest))
    monkeypatch.setattr(programmes, "FIRST", 2)
    monkeypatch.setattr(programmes, "ROUNDS", 1)
    again = nearest_paths(paths, by)
    assert len(tried) > 2
    torch.testing.assert_close(again, soon, rtol=0, atol=1e-10)


def test_neighbours_in_a_batch_do_not_matter(monkeypatch):
    paths = random_paths(50, 40, 4)
    by = programme((True,) * 48, 1000.0, CPU)
    together = nearest_paths(paths, by)
    alone = torch.cat([nearest_paths(paths[torch.tensor([path])], by) for path in range(40)], 1)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-11)
    monkeypatch.setattr(programmes, "CHUNK", 7)
    torch.testing.assert_close(nearest_paths(paths, by), together, rtol=0, atol=1e-11)
    assert torch.equal(nearest_paths(paths, by), nearest_paths(paths, by))


def test_no_number_stays_no_number():
    paths = random_paths(20, 3, 5)
    paths.aim[4, 1] = torch.nan
    found = nearest_paths(paths, programme((True,) * 18, 1000.0, CPU))
    assert found[:, 1].isnan().all()
    assert found[:, [0, 2]].isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same():
    paths = random_paths(60, 200, 6)
    there = Paths(*(part.cuda() for part in (paths.aim, paths.still, paths.low, paths.high)))
    found = nearest_paths(there, programme((True,) * 58, 1000.0, there.aim.device))
    torch.testing.assert_close(found.cpu(), nearest_paths(paths, programme((True,) * 58, 1000.0, CPU)))
