"""Forward kinematics in joint angles: what a batch of clips costs, beside the same by 3 x 3 matrices.

Clips of 60 frames on the 31 joints of HDM05 with bones of their own length in each frame, as attacks by labels ask for
them; then with the derivative in the angles, as attacks by gradients do. Both forms take turns, and of the repetitions
of each the one counts that took least processor time.

    OMP_NUM_THREADS=1 python benchmarks/forward_kinematics.py [--clips 1 32 160] [--repetitions 15] [--json FILE]
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from funnybone.motion.angles import positions
from funnybone.motion.limits import learn_limits
from funnybone.motion.rotations import matrix
from funnybone.motion.turns import walk
from funnybone.skeletons import HDM05
from funnybone.testing import random_clips

FRAMES = 60
AT_ONCE = 160  # clips that are timed at once; of fewer as many calls


def by_matrices(motion):
    """The same joints by products of matrices, for all joints of a level of the tree at once."""
    way, turned = walk(motion.skeleton, motion.theta.device), matrix(motion.theta)
    drawn = (motion.lengths[..., None] * motion.rest)[..., None]
    frames, joints = motion.facing[:, :, None, None], motion.root[..., None, :]
    placed, names = [joints], [torch.tensor([motion.skeleton.root])]
    for level in way.levels:
        frames = frames.index_select(-3, level.among) @ turned.index_select(-3, level.turn)
        frames = frames.index_select(-3, level.owner)
        own = frames.index_select(-3, level.shared) @ turned.index_select(-3, level.own)
        frames = frames.index_copy(-3, level.shared, own)
        joints = joints.index_select(-2, level.among).index_select(-2, level.owner)
        joints = joints + (frames @ drawn.index_select(-3, level.bones)).squeeze(-1)
        placed.append(joints)
        names.append(level.ends)
    xyz = torch.cat(placed, -2).index_select(-2, torch.cat(names).argsort())
    return torch.where(motion.valid[..., None, None], xyz, 0)


def forward(form, motion):
    with torch.inference_mode():
        form(motion)


def backward(form, motion):
    theta = motion.theta.clone().requires_grad_(True)
    form(replace(motion, theta=theta)).square().sum().backward()


def timed(task, form, motion):
    """Milliseconds of processor time for one call."""
    calls = max(1, AT_ONCE // len(motion.theta) // 4)
    began = time.process_time()
    for _ in range(calls):
        task(form, motion)
    return 1000 * (time.process_time() - began) / calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 32, 160])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    clips = random_clips(max(arguments.clips), frames=FRAMES, skeleton=HDM05)
    motions = learn_limits(clips).angles(clips, breathing=True)
    apart = float((positions(motions) - by_matrices(motions)).abs().max())
    result = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    result |= {"repetitions": arguments.repetitions, "metres_apart": apart, "milliseconds": {}}
    print(f"joints are at most {1e6 * apart:.2g} micrometres apart")
    for count in arguments.clips:
        motion = motions[torch.arange(count)]
        for task in (forward, backward):
            took = {positions: [], by_matrices: []}
            for _ in range(arguments.repetitions):
                for form, values in took.items():
                    values.append(timed(task, form, motion))
            ours, theirs = (min(values) for values in took.values())
            result["milliseconds"][f"{task.__name__} {count}"] = {"ours": ours, "matrices": theirs}
            print(
                f"{task.__name__}, {count} clips: {ours:.3f} ms, by matrices {theirs:.3f} ms: {theirs / ours:.2f} times"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
