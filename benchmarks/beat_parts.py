"""What carries BEAT: victims hardened with and without its parts, attacked on training clips that were held out.

These clips choose the round of each fit, and no weight is fitted to them; test clips choose nothing here. PGD follows
margins through the average, in a ball of each radius. Each cell (data, victim, line) is written as it ends and never
measured again. Weights files are those of `train_victims.py`.

    python benchmarks/beat_parts.py --weights FOLDER --data FOLDER [--only CELL ...] [--json FILE]
    python benchmarks/beat_parts.py --docs
"""

import time

import torch

import funnybone as fb
from cells import HERE, Results, arguments_of, clips_of, table, victim_of, write_page
from funnybone.auditing.plan import choose
from funnybone.defenses.retraining import held_out_by
from funnybone.metrics.intervals import wilson
from funnybone.tables import rate
from funnybone.training.measure import hold_out

PAGE = HERE.parent / "docs" / "defenses.md"
ON_PAGE = ("<!-- parts: made by benchmarks/beat_parts.py -->\n", "<!-- end of parts -->\n")
NEITHER = {"adversary_weight": 0.0, "motion_weight": 0.0}
LINES = {
    "not hardened": None,
    "defaults": {},
    "chains of p(x) from anywhere": {"box": 1.0},
    "no p(x)": {"motion_weight": 0.0},
    "no adversaries": {"adversary_weight": 0.0},
    "neither": NEITHER,
    "neither, prior 0.3": {**NEITHER, "prior": 0.3},
    "one member": {"members": 1},
    "on logits": {"input": "logits"},
    "worst cases of 10 mm, weight 1": {"adversary": "worst", "adversary_weight": 1.0, "radius": 0.01, "share": 0.34},
    "as released": {"preset": "published"},
}
VICTIMS = {"utd_mhad": ("sgn", "stgcn"), "hdm05_11": ("sgn",)}
RADII = (0.005, 0.01)  # metres
ATTACK = {"steps": 20, "step_size": 0.1, "loss": "margin"}


def cells():
    """Every (data, victim, line): the order is that of the work."""
    return [(data, model, line) for data, models in VICTIMS.items() for model in models for line in LINES]


def name_of(cell):
    return "-".join(cell).replace(", ", "-").replace(" ", "-")


def measure(base, clips, settings, limit=None):
    """Harden with these settings, or leave it with none; attack what comes of it on clips that were held out."""
    judges = choose(hold_out(clips, *held_out_by(base))[1], limit, seed=0)
    victim, began = base, time.perf_counter()
    if settings is not None:
        victim = fb.create_defense("beat", **settings).fit(base, clips, generator=_chance())
    found = {"settings": settings, "seed": 0, "n": len(judges), "seconds": time.perf_counter() - began}
    attack = fb.create_attack("pgd", **ATTACK)
    for radius in RADII:
        outcome = attack(victim, judges, threat=fb.threat.Linf(radius), generator=_chance())
        fell, attacked = int(outcome.success.sum()), int(outcome.attacked.sum())
        found["right"] = attacked
        found[f"{1000 * radius:g} mm"] = {"fell": fell, "attacked": attacked, "ci95": wilson(fell, attacked)}
    return found


def _chance():
    return torch.Generator().manual_seed(0)


def row(cell, found):
    """A line of the table."""
    fell = [found[f"{1000 * radius:g} mm"] for radius in RADII]
    return [
        *cell[1:],
        f"{found['right']} of {found['n']}",
        *(f"{rate(one['fell'] / one['attacked'], one['ci95'])} of {one['attacked']}" for one in fell),
        "-" if found["settings"] is None else f"{found['seconds']:.0f}",
    ]


def page(result):
    """A table of each data set."""
    headers = ["victim", "BEAT", "right", *(f"fell at {1000 * radius:g} mm, %" for radius in RADII), "fit s"]
    parts = []
    for data in VICTIMS:
        rows = [
            row(cell, result["cells"][name_of(cell)])
            for cell in cells()
            if cell[0] == data and name_of(cell) in result["cells"]
        ]
        if rows:
            parts += [f"**{data}**, held-out clips of the training subjects:", table(headers, rows)]
    return parts


def main():
    parser = arguments_of(__doc__, results="beat_parts.json", example="utd_mhad-sgn-defaults", limit=0, page=PAGE)
    arguments = parser.parse_args()
    results = Results(arguments.json)
    if arguments.docs:
        write_page(ON_PAGE, page(results.all), PAGE)
        return
    for (data, model, line), name in results.left(cells(), name_of, arguments.only):
        base = victim_of(arguments.weights, model, data, arguments.device)
        if base is not None:
            clips = clips_of(arguments.data, data, base.frames, part="training")
            results.add(name, measure(base, clips, LINES[line], arguments.limit or None))


if __name__ == "__main__":
    main()
