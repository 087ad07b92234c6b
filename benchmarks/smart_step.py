"""What a SMART step costs beside the bare forward pass and input gradient of the same victim.

Prints two ratios, each of medians over interleaved repetitions in one run: a SMART step over the bare pass (at most
1.15), and the same step with parameter gradients left on, as published code does it, over ours.

    python benchmarks/smart_step.py [--clips 16] [--repetitions 15] [--json FILE]
"""

import argparse
import copy
import json
import platform
import statistics
import time
from pathlib import Path

import torch

import funnybone as fb
from funnybone.attacks.base import Problem
from funnybone.goals import AnythingBut
from funnybone.threat import Unbounded
from funnybone.victims import Meter, view


def problem_for(victim, clips):
    """The problem that an attack on these clips would be handed."""
    return Problem(
        victim=view(victim, "gradients", Meter(len(clips))),
        goal=AnythingBut(),
        threat=Unbounded(),
        clips=clips,
        reference=clips.labels,
        rows=torch.arange(len(clips)),
        generator=torch.Generator().manual_seed(0),
    )


def seconds(function):
    """Wall time of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    clips = fb.load_data("synthetic", split="test")[: arguments.clips]
    victim = fb.create_victim("stgcn", data="synthetic")
    trainable = copy.copy(victim)
    trainable.module = copy.deepcopy(victim.module).requires_grad_(True)
    attack = fb.create_attack("smart")
    # A step away from the clean clip, where the perceptual loss has a gradient; absent persons stay absent.
    moved = torch.where(clips.valid[..., None, None], clips.xyz + 0.001, clips.xyz)

    def bare():
        xyz = moved.clone().requires_grad_(True)
        torch.autograd.grad(AnythingBut().loss(victim.logits(xyz), clips.labels).sum(), xyz)

    def step_of(victim):
        problem = problem_for(victim, clips)
        attack.start(problem)

        def step():
            logits, _, gradient = problem.gradient(moved)
            problem.goal.achieved(logits, problem.reference)
            problem.constrain(attack.step(problem, moved, gradient, 1))

        return step

    published_problem = problem_for(trainable, clips)

    def published():
        # Parameter gradients are computed along: loss.backward() reaches every weight that requires one.
        xyz = moved.clone().requires_grad_(True)
        logits = trainable.logits(xyz)
        published_problem.goal.loss(logits, clips.labels).sum().backward()
        published_problem.constrain(attack.step(smart_problem, xyz.detach(), xyz.grad, 1))
        trainable.module.zero_grad(set_to_none=True)

    smart_problem = problem_for(victim, clips)
    attack.start(smart_problem)
    candidates = {"bare": bare, "smart": step_of(victim), "published": published}
    times = {name: [] for name in candidates}
    for _ in range(2):
        for function in candidates.values():
            function()
    for _ in range(arguments.repetitions):  # interleaved, so that a busy moment of the machine hits all alike
        for name, function in candidates.items():
            times[name].append(seconds(function))
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "clips": len(clips),
        "repetitions": arguments.repetitions,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "median_seconds": medians,
        "smart_over_bare": medians["smart"] / medians["bare"],
        "with_parameter_gradients_over_smart": medians["published"] / medians["smart"],
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
