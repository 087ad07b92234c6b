"""How BEAT's step size was chosen: its sampler, with its number of steps, on posteriors that are known.

Logistic regressions of two weights on so many clips, gradients of mini-batches of 64 as in a fit, against the normal
distribution around the mode: how many of its standard deviations the members' mean is off (the worse weight), and how
wide they are, as a share of it (both weights). A spread of one and an offset near zero are right.

    python benchmarks/choose_step_size.py [--json FILE]
"""

import argparse
import json
from pathlib import Path

import torch

from cells import table
from funnybone.defenses.beat import BEAT
from funnybone.sampling import begin, move

CLIPS = (30, 100, 500, 2000)
STEP_SIZES = (0.003, 0.01, 0.02, 0.03, 0.05, 0.1)
CHAINS, BATCH = 300, 64
WEIGHTS, PRIOR = (0.6, -1.2), 2.0


def spread_and_offset(clips, step_size, friction, burn_in, steps, generator):
    """Return the chains' standard deviation as shares of the posterior's, and how many of these their mean is off."""
    x = torch.randn(clips, 2, generator=generator)
    y = (torch.rand(clips, generator=generator) < (x @ torch.tensor(WEIGHTS)).sigmoid()).float()
    mode = torch.zeros(2)
    for _ in range(20):
        answer = (x @ mode).sigmoid()
        curvature = (x * (answer * (1 - answer))[:, None]).T @ x + torch.eye(2) / PRIOR**2
        mode = mode - torch.linalg.solve(curvature, x.T @ (answer - y) + mode / PRIOR**2)
    chain = begin(torch.zeros(CHAINS, 2))
    for k in range(burn_in + steps):
        rows = torch.randint(clips, (CHAINS, BATCH), generator=generator)
        wrong = torch.einsum("sbd,sd->sb", x[rows], chain.position).sigmoid() - y[rows]
        gradient = clips * (wrong[..., None] * x[rows]).mean(1) + chain.position / PRIOR**2
        settings = {"step_size": step_size, "friction": friction, "adapt": k < burn_in}
        chain = move(chain, gradient, **settings, generator=generator)
    deviation = curvature.inverse().diagonal().sqrt()
    offset = ((chain.position.mean(0) - mode) / deviation).abs().max()
    return chain.position.std(0) / deviation, float(offset)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    beat = BEAT()
    budget = (beat.friction, beat.steps * beat.burn_in, beat.steps * (beat.rounds - beat.burn_in))
    found, rows = [], []
    for step_size in STEP_SIZES:
        for clips in CLIPS:
            chance = torch.Generator().manual_seed(0)
            spread, offset = spread_and_offset(clips, step_size, *budget, chance)
            found.append({"step_size": step_size, "clips": clips, "offset": offset, "spread": spread.tolist()})
            wide = " ".join(f"{share:.2f}" for share in spread.tolist())
            rows.append([f"{step_size:g}", str(clips), f"{offset:.2f}", wide])
    print(table(["step size", "clips", "offset", "spread"], rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
