"""What a walk by labels costs beside its questions: its time over queries times the victim's cheapest answer.

The cheapest answer is that of one clip at the batch size at which a clip costs least, measured before and after the
walk in the same run. Processor time, so that other work on the machine counts for little.

    python benchmarks/label_cost.py [--victims sgn.synthetic stgcn.synthetic] [--attacks basar "basar project=false"]
                                    [--clips 16] [--steps 20] [--json FILE]
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

import funnybone as fb
from cells import HERE
from funnybone.attacks.as_text import attack_from
from funnybone.auditing.plan import choose

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
ENOUGH = 0.5  # seconds of answers for each size


def cheapest(victim, xyz):
    """Seconds of one clip at the best batch size, and that size."""
    found = {}
    for size in SIZES:
        batch = xyz.repeat(-(-size // len(xyz)), 1, 1, 1, 1)[:size]
        victim.logits(batch)
        began, passes = time.process_time(), 0
        while (taken := time.process_time() - began) < ENOUGH or passes < 3:
            victim.logits(batch)
            passes += 1
        found[size] = taken / (passes * size)
    best = min(found, key=found.get)
    return found[best], best


@torch.no_grad()
def measure(victim, attack, clips, starts, natural):
    """The ratio, and what it is made of."""
    before, size = cheapest(victim, clips.xyz)
    began = time.process_time()
    outcome = attack(victim, clips, starts=starts, natural=natural, generator=torch.Generator().manual_seed(0))
    taken = time.process_time() - began
    after, _ = cheapest(victim, clips.xyz)
    queries = int(outcome.queries.sum())
    answer = (before + after) / 2
    return {
        "ratio": taken / (queries * answer),
        "seconds": taken,
        "queries": queries,
        "answer_ms": 1000 * answer,
        "best_batch": size,
        "steps": attack.settings().get("steps"),
        "clips": len(clips),
        "attacked": int(outcome.attacked.sum()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--victims", nargs="+", default=["sgn.synthetic", "stgcn.synthetic"])
    parser.add_argument("--attacks", nargs="+", default=["basar", "basar project=false"])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "label_cost.json")
    arguments = parser.parse_args()
    test, training = (fb.load_data("synthetic", split=part) for part in ("test", "train"))
    natural, clips = fb.metrics.learn_natural_motion(training[::8]), choose(test, arguments.clips, seed=0)
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    found = json.loads(arguments.json.read_text())["measured"] if arguments.json.exists() else {}
    for name in arguments.victims:
        victim = fb.create_victim(name)
        for text in arguments.attacks:
            attack = attack_from(f"{text} steps={arguments.steps}" if text.startswith("basar") else text)
            found[f"{name}, {text}"] = record = measure(victim, attack, clips, test, natural)
            arguments.json.write_text(json.dumps(machine | {"measured": found}, indent=1) + "\n")
            print(f"{name}, {text}: {record['ratio']:.2f} times its questions, {record['queries']:,} queries of")
            print(f"  {record['answer_ms']:.2f} ms in batches of {record['best_batch']}", flush=True)


if __name__ == "__main__":
    main()
