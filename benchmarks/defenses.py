"""Every defense against every attack: clean accuracy, what is left in a ball of 5 mm, how far joints have to move.

Two steps for each victim, both resumed where they were stopped: `harden` fits a defense on the training subjects, a
file each; `attack` audits such files with the suite ``defense``, and with SMART that nothing bounds. Everything is
seeded; test clips choose nothing. The full grid (all victims, seeds and clips) is meant for machines with a GPU.

    python benchmarks/defenses.py --weights FOLDER --data FOLDER --work FOLDER [--only CELL ...] [--limit 48]
    python benchmarks/defenses.py --docs
"""

import argparse
import json
import time
from pathlib import Path

import torch

import funnybone as fb
from funnybone.attacks.verdict import judge, repeatable
from funnybone.auditing import Entry, Suite, create_suite
from funnybone.metrics.intervals import wilson
from funnybone.metrics.natural import learn_natural_motion
from funnybone.tables import rate

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "defenses.json"
PAGE = HERE.parent / "docs" / "defenses.md"
MARKS = ("<!-- figures: made by benchmarks/defenses.py -->\n", "<!-- end of figures -->\n")

SPLITS = {"utd_mhad": "subject:2,4,6,8", "hdm05_11": "subject:mm,tr"}
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
    """Fit a recipe, and write the victim that came of it; return the seconds that it took."""
    began, victim = time.perf_counter(), base
    for place, (name, settings) in enumerate(RECIPES[recipe]):
        victim = fb.create_defense(name, **settings).fit(
            victim,
            clips,
            generator=torch.Generator().manual_seed(seed),
            checkpoint=file.with_name(f"{file.name}.{place}.partial"),
        )
    seconds = time.perf_counter() - began
    fb.save_victim(file, victim)
    return seconds


def suite():
    """The suite of defenses, and SMART that nothing bounds, for the displacement."""
    free = Entry(fb.create_attack("smart", steps=200), fb.goals.AnythingBut(), fb.threat.Unbounded(), "smart, free")
    inside = create_suite("defense")
    return inside, Suite("free", (free,), unit=inside.unit)


def attack(victim, clips, natural, split, folder, limit):
    """Audit a victim with both suites; return what is told of it."""
    found = {}
    for one in suite():
        out = folder / one.name
        result = fb.audit(
            {"victim": victim}, clips, suite=one, out=out, seed=0, limit=limit, split=split, natural=natural
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
    inside = {name: own for name, own in attacks.items() if name != "smart, free"}
    least = min(inside, key=lambda name: inside[name]["robust"][0])
    figures = []
    for name, own in inside.items():
        left = f"{100 * own['robust'][0]:.1f}"
        figures.append(f"**{left}**" if name == least else left)
    free = attacks["smart, free"]
    moved = "-" if free["position_m"] is None else f"{1000 * free['position_m']:.1f}"
    clean = found["accuracy"]
    seconds = "-" if found.get("seconds") is None else f"{found['seconds']:.0f}"
    all_clean = rate(clean["value"], clean["ci95"])
    figures = [all_clean, *figures, rate(found["left"][0], found["left"][1:]), moved, seconds]
    return f"| {' | '.join([cell[1], str(cell[2]), cell[3], *figures])} |"


def write_page(result):
    """Put the tables of the results between the marks of docs/defenses.md."""
    names = [entry.name for entry in create_suite("defense").entries]
    head = ["victim", "seed", "defense", "clean %", *names, "all, left %", "free SMART mm", "fit s"]
    parts = []
    for data in SPLITS:
        own = [cell for cell in cells() if cell[0] == data and name_of(cell) in result["cells"]]
        if own:
            n = {result["cells"][name_of(cell)]["n"] for cell in own}
            parts.append(f"**{data}** ({SPLITS[data]}), {', '.join(map(str, sorted(n)))} clips attacked:")
            lines = [row(cell, result["cells"][name_of(cell)]) for cell in own]
            parts.append("\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines]))
    page = PAGE.read_text()
    before, rest = page.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(before + MARKS[0] + "\n" + "\n\n".join(parts) + "\n\n" + MARKS[1] + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, help="where hardened victims and audits are kept")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of cells' names, as utd_mhad-sgn-0-beat")
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/defenses.md from the results")
    arguments = parser.parse_args()
    result = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    if arguments.docs:
        write_page(result)
        return
    measured = result.setdefault("cells", {})
    for cell in cells():
        data, model, seed, recipe = cell
        name = name_of(cell)
        weights = arguments.weights / f"{model}.{data}.{seed}.safetensors"
        if name in measured or not name.startswith(tuple(arguments.only)) or not weights.exists():
            continue
        base = fb.create_victim(str(weights), device=arguments.device)
        path = str(next(arguments.data.glob(f"**/{data}.npz")))
        part = fb.load_data(path, split=f"!{SPLITS[data]}", frames=base.frames)
        test = fb.load_data(path, split=SPLITS[data], frames=base.frames)
        file = arguments.work / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        spent = file.with_suffix(".seconds")
        if not file.exists():
            spent.write_text(str(harden(base, part, recipe, seed, file)))
        victim = fb.create_victim(str(file), device=arguments.device)
        found = attack(victim, test, learn_natural_motion(part), SPLITS[data], file.with_suffix(""), arguments.limit)
        found |= {"accuracy": accuracy(victim, test), "seconds": float(spent.read_text()) if RECIPES[recipe] else None}
        found |= {"recipe": RECIPES[recipe], "seed": seed}
        measured[name] = found
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
