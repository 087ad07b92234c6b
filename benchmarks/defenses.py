"""Every defense against every attack: clean accuracy, what is left in a ball of 5 mm, how far joints have to move.

Two steps for each victim, both resumed where they were stopped: `harden` fits a defense on the training subjects, a
file each; `attack` audits such files with the suite ``defense``, and with SMART that nothing bounds. Everything is
seeded; test clips choose nothing. The full grid (all victims, seeds and clips) is meant for machines with a GPU.

    python benchmarks/defenses.py --weights FOLDER --data FOLDER --work FOLDER [--only CELL ...] [--limit 48]
    python benchmarks/defenses.py --docs
"""

import time
from pathlib import Path

import torch

import funnybone as fb
from cells import HERE, SPLITS, Results, arguments_of, clips_of, table, victim_of, write_page
from funnybone.attacks.verdict import judge, repeatable
from funnybone.auditing import Entry, Suite, create_suite
from funnybone.auditing.ledger import Ledger
from funnybone.metrics.intervals import wilson
from funnybone.metrics.natural import learn_natural_motion
from funnybone.tables import rate

PAGE = HERE.parent / "docs" / "defenses.md"
MARKS = ("<!-- figures: made by benchmarks/defenses.py -->\n", "<!-- end of figures -->\n")

BESIDE = {"rank": 4, "steps": 4, "step_size": 0.5, "beta": 3.0, "lr": 0.002}  # of TRADES beside frozen weights
# What is fitted, one defense on what came out of the one before it.
RECIPES = {
    "none": (),
    "lowpass": (("lowpass", {}),),
    "trades, beside": (("trades", BESIDE),),
    "lowpass, trades beside": (("lowpass", {}), ("trades", BESIDE)),
    "pgd-at, norms": (("pgd-at", {"rank": 0, "steps": 4, "step_size": 0.5, "lr": 0.002}),),
    "beat": (("beat", {}),),
    "beat, worst cases": (("beat", {"adversary": "worst"}),),
    "smart-at": (("smart-at", {}),),
    "trades": (("trades", {}),),
    "smoothing": (("smoothing", {}),),
    "pgd-at": (("pgd-at", {}),),
    "mart": (("mart", {}),),
    "free-at": (("free-at", {}),),
    "gaussian": (("gaussian", {}),),
    "beat, full": (("beat", {"full": True}),),
    "mmat": (("mmat", {}),),
}
ON_ST_GCN = list(RECIPES)[:10]
ON_OTHERS = ("none", "beat", "smoothing")
FREE = "smart, free"
STEPS = (20, 50, 100, 200, 400, 1000)  # of SMART
SEEDS = {"sgn": (0, 1, 2), "stgcn": (0,), "ctrgcn": (0,), "msg3d": (0,)}


def cells():
    """Every (data, model, seed, recipe): the order is that of the work."""
    wanted = {"stgcn": ON_ST_GCN, "sgn": list(RECIPES), "ctrgcn": ON_OTHERS, "msg3d": ON_OTHERS}
    for data in SPLITS:
        for model, recipes in wanted.items():
            for seed in SEEDS[model]:
                yield from ((data, model, seed, recipe) for recipe in recipes)


def name_of(cell):
    return "-".join(map(str, cell)).replace(", ", "-").replace(" ", "-")


def harden(base, clips, recipe, seed, file):
    """Fit a recipe and write the victim that came of it, and before it the seconds, unless a part was done earlier."""
    parts = [file.with_name(f"{file.name}.{place}.partial") for place in range(len(RECIPES[recipe]))]
    whole, began, victim = not any(part.exists() for part in parts), time.perf_counter(), base
    for part, (name, settings) in zip(parts, RECIPES[recipe], strict=True):
        chance = torch.Generator().manual_seed(seed)
        victim = fb.create_defense(name, **settings).fit(victim, clips, generator=chance, checkpoint=part)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".seconds").write_text(str(time.perf_counter() - began) if whole and parts else "")
    fb.save_victim(file, victim)
    for part in parts:
        part.unlink(missing_ok=True)


def suites():
    """The suite of defenses, and SMART that nothing bounds, for the displacement."""
    free = Entry(fb.create_attack("smart", steps=200), fb.goals.AnythingBut(), fb.threat.Unbounded(), FREE)
    inside = create_suite("defense")
    return inside, Suite("free", (free,), unit=inside.unit)


def attack(victim, clips, natural, split, folder, limit):
    """Audit a victim with both suites; return what is told of it."""
    found = {}
    for one in suites():
        out = folder / one.name
        result = fb.audit(
            {"victim": victim}, clips, suite=one, out=out, seed=0, limit=limit or None, split=split, natural=natural
        ).result
        (own,) = result.victims
        found["n"], found["clean"] = own.clean.n, [own.clean.accuracy, *own.clean.ci95]
        if one.name == "defense":
            found["left"] = [own.worst_case.robust_accuracy, *own.worst_case.robust_accuracy_ci95]
        for entry in own.attacks:
            found.setdefault("attacks", {})[entry.name] = {
                "attacked": entry.attacked,
                "succeeded": entry.succeeded,
                "robust": [entry.robust_accuracy, *entry.robust_accuracy_ci95],
                "position_m": entry.position_m,
                "acceleration": entry.acceleration,
                "bone_length_change": entry.bone_length_change,
            }
        found.setdefault("warnings", []).extend(sorted({warning.code for warning in result.warnings}))
    with Ledger.read(folder / "defense") as ledger:  # SMART stops at success: what fewer steps reach
        taken = [row.steps for row in ledger.rows("victim", "smart") if row.success]
    found["smart_by_steps"] = {steps: sum(own <= steps for own in taken) for steps in STEPS}
    return found


def accuracy(victim, clips):
    """Share of all clean test clips that a victim gets right, by most of its answers where these differ."""
    with repeatable(victim, torch.Generator().manual_seed(0)):
        verdict = judge(victim, clips, fb.goals.AnythingBut(), clips.labels, 64)
    right = int((verdict.prediction == clips.labels).sum())
    return {"value": right / len(clips), "ci95": wilson(right, len(clips)), "n": len(clips)}


def row(cell, found):
    """A line of the table; the attack that alone leaves least stands out."""
    attacks = found["attacks"]
    inside = {name: 100 * own["robust"][0] for name, own in attacks.items() if name != FREE}
    figures = [f"**{left:.1f}**" if left == min(inside.values()) else f"{left:.1f}" for left in inside.values()]
    moved, seconds = attacks[FREE]["position_m"], found["seconds"]
    steps = " ".join(str(found["smart_by_steps"][str(count)]) for count in STEPS)
    return [
        *(cell[1], str(cell[2]), cell[3]),
        rate(found["accuracy"]["value"], found["accuracy"]["ci95"]),
        *figures,
        rate(found["left"][0], found["left"][1:]),
        f"{steps} of {attacks['smart']['attacked']}",
        "-" if moved is None else f"{1000 * moved:.1f}",
        "-" if seconds is None else f"{seconds:.0f}",
    ]


def page(result):
    """The tables of the results."""
    names = [entry.name for entry in suites()[0].entries]
    head = ["victim", "seed", "defense", "clean %", *names, "all, left %", f"SMART fells after {STEPS} steps"]
    head += [f"{FREE}, mm", "fit s"]
    parts = []
    for data in SPLITS:
        own = [cell for cell in cells() if cell[0] == data and name_of(cell) in result["cells"]]
        if own:
            n = sorted({result["cells"][name_of(cell)]["n"] for cell in own})
            parts.append(f"**{data}** ({SPLITS[data]}), {', '.join(map(str, n))} clips attacked:")
            parts.append(table(head, [row(cell, result["cells"][name_of(cell)]) for cell in own]))
    return parts or ["Nothing has been measured yet."]


def main():
    parser = arguments_of(__doc__, results="defenses.json", example="utd_mhad-sgn-0-beat", limit=48, page=PAGE)
    parser.add_argument("--work", type=Path, help="where hardened victims and audits are kept")
    arguments = parser.parse_args()
    results = Results(arguments.json)
    if arguments.docs:
        write_page(MARKS, page(results.all), PAGE)
        return
    for cell, name in results.left(cells(), name_of, arguments.only):
        data, model, seed, recipe = cell
        base = victim_of(arguments.weights, model, data, arguments.device, seed=seed)
        if base is None:
            continue
        test, part = (clips_of(arguments.data, data, base.frames, part=part) for part in ("test", "training"))
        file = arguments.work / f"{name}.safetensors"
        if not file.exists():
            harden(base, part, recipe, seed, file)
        victim = fb.create_victim(str(file), device=arguments.device)
        found = attack(victim, test, learn_natural_motion(part), SPLITS[data], file.with_suffix(""), arguments.limit)
        seconds = file.with_suffix(".seconds").read_text()
        found |= {"accuracy": accuracy(victim, test), "seconds": float(seconds) if seconds else None}
        results.add(name, found | {"recipe": RECIPES[recipe], "seed": seed})


if __name__ == "__main__":
    main()
