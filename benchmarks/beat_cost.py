"""What appended networks cost: a forward pass of a victim with N of them over one of the victim alone.

Interleaved in one run, each repetition a pair; the ratio is the median of the pairs' ratios. Weights are drawn at
random, which costs the same as trained ones. Processor time, so that other work on the machine counts for nothing.

    python benchmarks/beat_cost.py [--models stgcn sgn] [--members 5] [--clips 8] [--frames 60] [--repetitions 25]
                                   [--json FILE]
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

import funnybone as fb
from funnybone.skeletons import NTU25
from funnybone.victims.averaged import Averaged, Heads, input_length

CLASSES = 60


def seconds(victim, xyz):
    began = time.process_time()
    victim.logits(xyz)
    return time.process_time() - began


@torch.no_grad()
def compare(name, members, clips, frames, repetitions):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = fb.models.create(name, skeleton=NTU25, num_classes=CLASSES, persons=1, frames=frames)
    base = fb.TorchVictim(network, skeleton=NTU25, classes=CLASSES, name=name)
    xyz = 0.3 * torch.randn(clips, 1, frames, 25, 3, generator=generator).cumsum(2)
    inputs = input_length(base, "features")
    heads = Heads.draw(members, inputs, 64, CLASSES, scale=1.0, generator=generator)
    averaged = Averaged(base, heads)
    pairs = []
    for repetition in range(repetitions + 2):
        both = [base, averaged] if repetition % 2 else [averaged, base]  # neither is always the one with a warm cache
        found = {id(victim): seconds(victim, xyz) for victim in both}
        pairs.append((found[id(base)], found[id(averaged)]))
    pairs = pairs[2:]  # the first ones find out how to multiply
    ratios = [ours / alone for alone, ours in pairs]
    return {
        "base_ms": 1000 * statistics.median(alone for alone, _ in pairs),
        "averaged_ms": 1000 * statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2,
        "head_parameters": heads.flat().numel(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["stgcn", "sgn"])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = {name: getattr(arguments, name) for name in ("members", "clips", "frames", "repetitions")}
    report |= {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": str(torch.__version__)}
    report["victims"] = {}
    for name in arguments.models:
        sizes = (arguments.members, arguments.clips, arguments.frames, arguments.repetitions)
        report["victims"][name] = found = compare(name, *sizes)
        print(
            f"{name:8} {found['base_ms']:7.1f} ms alone, {found['averaged_ms']:7.1f} ms with {arguments.members} "
            f"members: {found['ratio']:.3f} times ({found['quartiles'][0]:.3f} to {found['quartiles'][1]:.3f})"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
