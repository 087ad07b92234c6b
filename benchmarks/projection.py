"""The projection onto natural motion: clips a second, and how much faster than a general solver for each angle.

Clips of 60 frames and 78 angles on random paths, with limits that many, few or none of the paths meet; the general
solver is SciPy's interior-reflective one for bounded least squares, which solves the same programme, on some angles of
one clip. The published code gives one clip of this size to an interior-point solver, 2.3 s for each. Timed beside: the
same paths by Peaceman-Rachford splitting alone, which active sets otherwise cut short, and whole motions (inverse
kinematics, projection, forward kinematics). Beside other work, OMP_NUM_THREADS=1: threads wait for each other.

    python benchmarks/projection.py [--clips 512] [--repetitions 5] [--weight 1] [--json FILE]
"""

import argparse
import json
import math
import platform
import statistics
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from scipy.optimize import lsq_linear

from funnybone.motion import programmes
from funnybone.motion.limits import learn_limits
from funnybone.motion.manifold import Manifold, project_angles
from funnybone.skeletons import NTU25
from funnybone.testing import random_clips

FRAMES, ANGLES = 60, 78
LIMITS = {"many": 0.3, "few": 1.0, "none": 10.0}  # radians: how many paths meet them
SOLVED_BY_SCIPY = 6  # angles
PUBLISHED = 2.3  # seconds for one clip by GEKKO's interior-point solver, measured once on another machine


def timed(task):
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def general(theta, clean, limit, weight):
    """One clip's first angles by a general solver, with its usual accuracy; seconds for all 78."""
    second = math.sqrt(weight) * np.diff(np.eye(FRAMES), n=2, axis=0)
    matrix = np.vstack([np.eye(FRAMES), second])

    def solve():
        for angle in range(SOLVED_BY_SCIPY):
            wanted = np.concatenate([theta[:, angle], second @ clean[:, angle]])
            lsq_linear(matrix, wanted, bounds=(-limit, limit), method="trf", tol=1e-10)

    return timed(solve) * ANGLES / SOLVED_BY_SCIPY


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--weight", type=float, default=1.0, help="of accelerations; 1 as published, 1000 as in BASAR")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    clean = 0.05 * torch.randn(arguments.clips, FRAMES, ANGLES, generator=generator).cumsum(1)
    theta = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    result = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    result |= {"clips": arguments.clips, "weight": arguments.weight, "repetitions": arguments.repetitions, "limits": {}}
    seconds = {name: ([], [], [], []) for name in LIMITS}
    weight = arguments.weight
    for _ in range(arguments.repetitions):
        for name, limit in LIMITS.items():
            bound = torch.full((ANGLES,), limit)
            ours, busy, splitting, theirs = seconds[name]

            def task(bound=bound):
                project_angles(theta, clean, -bound, bound, weight=weight)

            began = time.process_time()
            ours.append(timed(task) / arguments.clips)
            busy.append((time.process_time() - began) / arguments.clips)
            with mock.patch.object(programmes, "FIRST", math.inf):  # no try by active sets
                splitting.append(timed(task) / arguments.clips)
            theirs.append(general(theta[0].double().numpy(), clean[0].double().numpy(), limit, weight))
    for name, limit in LIMITS.items():
        ours, busy, splitting, theirs = (statistics.median(values) for values in seconds[name])
        rates = {"clips_per_second": 1 / ours, "clips_per_processor_second": 1 / busy}
        rates |= {"times_splitting": splitting / ours}
        rates |= {"times_scipy": theirs / ours, "times_published": PUBLISHED / ours}
        result["limits"][name] = {"limit": limit, **rates}
        print(
            f"limits that {name} paths meet: {1 / ours:,.0f} clips/s, {1 / busy:,.0f} a second of processor time, "
            f"{splitting / ours:,.1f} times splitting alone, {theirs / ours:,.0f} times SciPy, "
            f"{PUBLISHED / ours:,.0f} times the published route"
        )
    clips = random_clips(64, frames=FRAMES, skeleton=NTU25)
    limits = learn_limits(clips)
    manifold = Manifold.around(limits.angles(clips, breathing=True), limits.lower, limits.upper)
    whole = [
        timed(lambda: manifold.positions(manifold.projected(manifold.paths(clips.xyz), weight)))
        for _ in range(arguments.repetitions)
    ]
    result["whole_motions_per_second"] = len(clips) / statistics.median(whole)
    print(f"whole motions, inverse and forward kinematics included: {result['whole_motions_per_second']:,.0f} clips/s")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
