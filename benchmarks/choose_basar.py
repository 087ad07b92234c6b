"""Choose BASAR's settings on training clips: how near and how natural its clips are, for each line of settings.

Of every victim the same few clips of its training part are attacked, with joint limits and the test for natural motion
learned from all of that part. Test clips choose nothing. Each line is added to the results when it is measured, and is
not measured again.

    python benchmarks/choose_basar.py WEIGHTS ... --data hdm05_11.npz --split subject:mm,tr [--clips 16] [--steps 200]
                                      [--only TEXT] [--json FILE]
"""

import argparse
import json
import time
from pathlib import Path

import torch

import funnybone as fb
from funnybone.attacks.as_text import attack_from

RESULTS = Path(__file__).parent / "results" / "basar_choices.json"
FIRST = "frequencies=8 period=20 weight=10"
# One setting at a time away from the first line, and from the best weight.
LINES = (
    FIRST,
    "frequencies=None period=20 weight=10",
    "frequencies=4 period=20 weight=10",
    "frequencies=16 period=20 weight=10",
    "frequencies=8 period=10 weight=10",
    "frequencies=8 period=50 weight=10",
    "frequencies=8 period=250 weight=10",
    "frequencies=8 period=20 weight=1",
    "frequencies=8 period=20 weight=100",
    "frequencies=8 period=20 weight=1000",
    "frequencies=8 period=20 weight=1000 heaviest=1000",
    "frequencies=8 period=50 weight=1000",
    "frequencies=8 period=250 weight=1000",
)


def measured(victim, clips, others, natural, line, steps):
    """What a line of settings gives: metres, share of natural motion, queries, seconds."""
    attack = attack_from(f"basar steps={steps} {line}")
    start = time.perf_counter()
    outcome = attack(victim, clips, starts=others, natural=natural, generator=torch.Generator().manual_seed(0))
    seconds = time.perf_counter() - start
    distances = outcome.distances
    curve = outcome.provenance["curve"]
    at = {}
    for queries, column in zip(curve["queries"], zip(*curve["natural_position_m"], strict=True), strict=True):
        found = sorted(value if value is not None else float("inf") for value in column)
        at[queries] = found[len(found) // 2] if found[len(found) // 2] < float("inf") else None
    return {
        "n": len(clips),
        "position_m": outcome.mean(distances["position_m"]),
        "acceleration": outcome.mean(distances["acceleration"]),
        "on_manifold": outcome.mean(distances["on_manifold"]),
        "clean_on_manifold": natural.holds(clips).float().mean().item(),
        "queries_median": outcome.median(outcome.queries.float()),
        "natural_position_m_median_after": at,
        "seconds": round(seconds, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", required=True, help="the test part, which is left alone")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", help="lines that contain this")
    parser.add_argument("--lines", nargs="+", default=LINES, help="other settings than those listed here")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    done = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for weights in arguments.weights:
        victim = fb.create_victim(weights)
        others = fb.load_data(arguments.data, split=f"!{arguments.split}", frames=victim.frames)
        natural = fb.metrics.learn_natural_motion(others)
        chosen = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[: arguments.clips]
        clips = others[chosen.sort().values]
        for line in arguments.lines:
            key = f"{victim.name}, {arguments.clips} clips, {arguments.steps} steps, {line}"
            if key in done or (arguments.only and arguments.only not in line):
                continue
            found = measured(victim, clips, others, natural, line, arguments.steps)
            print(f"{key}: {1000 * found['position_m']:.0f} mm, natural {found['on_manifold']:.2f}", flush=True)
            done[key] = found
            arguments.json.write_text(json.dumps(done, indent=2) + "\n")


if __name__ == "__main__":
    main()
