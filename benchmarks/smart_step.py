"""What SMART costs: a step beside the bare forward pass and input gradient, and whole attacks to the same success.

Prints ratios, each of medians over interleaved repetitions in one run: a SMART step over the bare pass (at most 1.15);
the same step with parameter gradients left on, as published code does it, over ours; and the same steps on the same
clips with parameter gradients on and every clip kept to the last step, as published code does it, over ours (at least
2), and over ours with a search in bf16 and a verdict in float32 (at least 3, where the processor computes in bf16).

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
from funnybone.attacks.problem import Problem
from funnybone.chance import Chance
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
        chance=Chance(torch.arange(len(clips))),
    )


def seconds(function):
    """Wall time of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def timed(candidates, repetitions):
    """Median seconds of each, interleaved, so that a busy moment of the machine hits all alike."""
    times = {name: [] for name in candidates}
    for function in candidates.values():
        function()
    for _ in range(repetitions):
        for name, function in candidates.items():
            times[name].append(seconds(function))
    return {name: statistics.median(values) for name, values in times.items()}


def to_the_last_step(victim, clips, attack):
    """Which clips that are right fall at some step, if none may leave and gradients of weights are computed along."""
    problem = problem_for(victim, clips)
    xyz = attack.start(problem)
    right, fallen = victim.logits(clips.xyz).argmax(1) == clips.labels, torch.zeros(len(clips), dtype=torch.bool)
    for k in range(attack.steps + 1):
        xyz = xyz.detach().requires_grad_(True)
        logits = victim.logits(xyz)
        fallen |= right & problem.goal.achieved(logits, problem.reference)
        problem.goal.loss(logits, problem.reference).sum().backward()
        xyz = problem.constrain(attack.step(problem, xyz.detach(), xyz.grad, k))
        victim.module.zero_grad(set_to_none=True)
    return fallen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--steps", type=int, default=50, help="of whole attacks")
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
    steps = {"bare": bare, "smart": step_of(victim), "published": published}
    medians = timed(steps, arguments.repetitions)

    whole = fb.create_attack("smart", steps=arguments.steps)
    successes = {}

    def ours(precision):
        def run():
            outcome = whole(victim, clips, precision=precision, batch_size=len(clips))
            successes[precision] = int(outcome.success.sum())

        return run

    def published_whole():
        successes["published"] = int(to_the_last_step(trainable, clips, whole).sum())

    attacks = {"ours": ours("fp32"), "ours_bf16": ours("bf16"), "published": published_whole}
    attack_medians = timed(attacks, max(arguments.repetitions // 5, 1))
    result = {
        "clips": len(clips),
        "repetitions": arguments.repetitions,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "median_seconds": medians,
        "smart_over_bare": medians["smart"] / medians["bare"],
        "with_parameter_gradients_over_smart": medians["published"] / medians["smart"],
        "attack_steps": arguments.steps,
        "attack_median_seconds": attack_medians,
        "successes": successes,
        "published_over_ours": attack_medians["published"] / attack_medians["ours"],
        "published_over_ours_bf16": attack_medians["published"] / attack_medians["ours_bf16"],
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
