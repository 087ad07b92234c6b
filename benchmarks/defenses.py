"""Every defense against every attack: clean accuracy, what is left in a ball of 5 mm, how far joints have to move.

Two steps for each victim, both resumed where they were stopped: `harden` fits a defense on the training subjects, a
file each; `attack` audits such files with the suite ``defense``, shows them what that suite makes of their bases, and
measures how near SMART and BASAR come where nothing bounds them. Everything is seeded; test clips choose nothing. The
full grid (all victims, seeds and clips) is meant for machines with a GPU; with `--small` a few attacks take few steps,
which has a table of its own.

    python benchmarks/defenses.py --weights FOLDER --data FOLDER --work FOLDER [--small] [--only CELL ...] [--limit 48]
    python benchmarks/defenses.py --docs
"""

import time
from functools import partial
from pathlib import Path

import torch

import funnybone as fb
from cells import HERE, SPLITS, Results, arguments_of, clips_of, table, victim_of, write_page
from funnybone.attacks.as_text import attack_from
from funnybone.attacks.verdict import judge, repeatable
from funnybone.auditing import Entry, Suite, create_suite
from funnybone.auditing.ledger import Ledger
from funnybone.metrics.intervals import wilson
from funnybone.metrics.natural import learn_natural_motion
from funnybone.tables import rate
from funnybone.victims.hardened import seconds_since_undefended

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
    # What carries BEAT: its settings as released, a single member, no adversaries, noise, what its networks see.
    "beat, published": (("beat", {"preset": "published"}),),
    "beat, one member": (("beat", {"members": 1}),),
    "beat, clean only": (("beat", {"adversary_weight": 0.0, "motion_weight": 0.0}),),
    "beat, noise": (("beat", {"noise": 0.1}),),
    "beat, logits": (("beat", {"input": "logits"}),),
    # TRADES over budgets, in metres; 5 mm is its default.
    "trades, 2 mm": (("trades", {"radius": 0.002}),),
    "trades, 10 mm": (("trades", {"radius": 0.01}),),
    "trades, 20 mm": (("trades", {"radius": 0.02}),),
}
ON_ST_GCN = list(RECIPES)[:10]
ON_OTHERS = ("none", "beat", "smoothing")
FREE, NEAREST = "smart, free", "basar"  # nothing bounds them
# What stands for the suite of defenses where time is short: the same kinds of attack, the last one in by every way.
SMALL = {
    "pgd": "pgd steps=50 step_size=0.1",
    "smart": "smart steps=100",
    "adaptive": "cascade "
    "stages=\"('pgd steps=20 step_size=0.25 loss=margin', 'apgd steps=50 loss=dlr', 'square queries=200')\" "
    "through=\"('pgd steps=50 step_size=0.1 loss=margin',)\"",
}
SMALL_TRANSFER = {"mifgsm, base": "mifgsm steps=20 step_size=0.05 early_stop=false"}
STEPS = (20, 50, 100, 200, 400, 1000)  # of SMART
SEEDS = {"sgn": (0, 1, 2), "stgcn": (0,), "ctrgcn": (0,), "msg3d": (0,)}


def cells():
    """Every (data, model, seed, recipe): the order is that of the work."""
    wanted = {"stgcn": ON_ST_GCN, "sgn": list(RECIPES), "ctrgcn": ON_OTHERS, "msg3d": ON_OTHERS}
    for data in SPLITS:
        for model, recipes in wanted.items():
            for seed in SEEDS[model]:
                yield from ((data, model, seed, recipe) for recipe in recipes)


def name_of(cell, small=False):
    return "-".join(map(str, (*cell, *(("small",) if small else ())))).replace(", ", "-").replace(" ", "-")


def harden(base, clips, recipe, seed, file):
    """Fit a recipe and write the victim that came of it, which says how long it took unless a part was done earlier."""
    parts = [file.with_name(f"{file.name}.{place}.partial") for place in range(len(RECIPES[recipe]))]
    whole, began, victim = not any(part.exists() for part in parts), time.perf_counter(), base
    for part, (name, settings) in zip(parts, RECIPES[recipe], strict=True):
        chance = torch.Generator().manual_seed(seed)
        victim = fb.create_defense(name, **settings).fit(victim, clips, generator=chance, checkpoint=part)
    if whole and parts:
        victim.fit_seconds = seconds_since_undefended(base, time.perf_counter() - began)
    file.parent.mkdir(parents=True, exist_ok=True)
    fb.save_victim(file, victim)
    for part in parts:
        part.unlink(missing_ok=True)


def suites(small):
    """The suite of defenses, and SMART and BASAR that nothing bounds, for the displacement; or few steps of some."""
    inside, nowhere = create_suite("defense"), fb.threat.Unbounded()
    free = [_entry(FREE, "smart steps=200", nowhere), _entry(NEAREST, "basar queries=1000", nowhere)]
    if small:
        ball = inside.entries[0].threat
        few = [_entry(name, text, ball) for name, text in SMALL.items()]
        ready = tuple(_entry(name, text, ball) for name, text in SMALL_TRANSFER.items())
        inside, free = Suite("few", tuple(few), inside.unit, ready), [_entry(FREE, "smart steps=100", nowhere)]
    return inside, Suite(f"{inside.name}-free", tuple(free), unit=inside.unit)


def _entry(name, text, threat):
    return Entry(attack_from(text), fb.goals.AnythingBut(), threat, name)


def attack(victim, base, clips, natural, split, folder, limit, precision, small):
    """Audit a victim with both suites, and show it what its base was fooled by; return what is told of it."""
    found = {}
    inside, free = suites(small)
    for one in (inside, free):
        out = folder / one.name
        result = fb.audit(
            {"victim": victim},
            clips,
            surrogates={"base": base} if base is not None and one is inside else None,
            suite=one,
            out=out,
            seed=0,
            limit=limit or None,
            split=split,
            natural=natural,
            precision=precision,
        ).result
        (own,) = result.victims
        found["n"], found["clean"] = own.clean.n, [own.clean.accuracy, *own.clean.ci95]
        for entry in own.attacks:
            found.setdefault("attacks", {})[entry.name] = {
                "attacked": entry.attacked,
                "succeeded": entry.succeeded,
                "robust": [entry.robust_accuracy, *entry.robust_accuracy_ci95],
                "position_m": entry.position_m,
                "acceleration": entry.acceleration,
                "bone_length_change": entry.bone_length_change,
                "on_manifold_rate": entry.on_manifold_rate,
            }
        found.setdefault("warnings", []).extend(sorted({warning.code for warning in result.warnings}))
    with Ledger.read(folder / inside.name) as ledger:
        rows = {entry.name: ledger.rows("victim", entry.name) for entry in inside.entries}
        made = {entry.name: ledger.rows("base", entry.name) for entry in inside.transfer if base is not None}
        said = {name: ledger.answers_to(own, "victim") for name, own in made.items()}
    # SMART stops at success: what fewer steps reach
    taken = [row.steps for row in rows["smart"] if row.success]
    found["smart_by_steps"] = {steps: sum(own <= steps for own in taken) for steps in _steps(inside)}
    over = {row.clip_index for own in rows.values() for row in own if row.success or row.clean_prediction != row.label}
    found["transferred"] = {}
    for name, own in made.items():
        shown = [(row.clip_index, one) for row, one in zip(own, said[name], strict=True) if one.right]
        found["transferred"][name] = [sum(one.fooled for _, one in shown), len(shown)]
        over |= {clip for clip, one in shown if one.fooled}
    left = found["n"] - len(over)
    found["left"] = [left / found["n"], *wilson(left, found["n"])]
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
    inside = {name: own["robust"] for name, own in attacks.items() if name not in (FREE, NEAREST)}
    least = min(left for left, *_ in inside.values())
    shown = [(rate(left, tuple(interval)), left == least) for left, *interval in inside.values()]
    figures = [f"**{figure}**" if worst else figure for figure, worst in shown]
    shown_to = max(found["transferred"].values(), default=None)
    near, seconds = attacks.get(NEAREST), found["seconds"]
    steps = " ".join(str(reached) for reached in found["smart_by_steps"].values())
    return [
        *(cell[1], str(cell[2]), cell[3]),
        rate(found["accuracy"]["value"], tuple(found["accuracy"]["ci95"])),
        *figures,
        "-" if shown_to is None else f"{shown_to[0]} of {shown_to[1]}",
        rate(found["left"][0], tuple(found["left"][1:])),
        f"{steps} of {attacks['smart']['attacked']}",
        _millimetres(attacks[FREE]),
        *([] if near is None else [_millimetres(near), _percent(near["on_manifold_rate"])]),
        "-" if seconds is None else f"{seconds:.0f}",
    ]


def _millimetres(found):
    return "-" if found["position_m"] is None else f"{1000 * found['position_m']:.1f}"


def _percent(share):
    return "-" if share is None else f"{100 * share:.0f}"


def page(result):
    """The tables of the results: of the suite of defenses, then of few steps."""
    return [*_tables(result, False), *_tables(result, True)] or ["Nothing has been measured yet."]


def _tables(result, small):
    inside = suites(small)[0]
    names, steps = [entry.name for entry in inside.entries], _steps(inside)
    head = [
        "victim",
        "seed",
        "defense",
        "clean %",
        *names,
        "shown its base's",
        "all, left %",
        f"SMART fells after {', '.join(map(str, steps))} steps",
        f"{FREE}, mm",
        *([] if small else [f"{NEAREST}, mm", "natural %"]),
        "fit s",
    ]
    parts = []
    for data in SPLITS:
        own = {cell: result["cells"].get(name_of(cell, small)) for cell in cells() if cell[0] == data}
        own = {cell: found for cell, found in own.items() if found}
        if own:
            n = ", ".join(map(str, sorted({found["n"] for found in own.values()})))
            few = ", with few steps" if small else ""
            parts.append(f"**{data}** ({SPLITS[data]}), {n} clips attacked{few}:")
            parts.append(table(head, [row(cell, found) for cell, found in own.items()]))
    return parts


def _steps(suite):
    """The numbers of SMART's steps that its own tell of: it stops at success."""
    (most,) = (entry.attack.steps for entry in suite.entries if entry.name == "smart")
    return [count for count in STEPS if count <= most]


def main():
    parser = arguments_of(__doc__, results="defenses.json", example="utd_mhad-sgn-0-beat", limit=48, page=PAGE)
    parser.add_argument("--work", type=Path, help="where hardened victims and audits are kept")
    parser.add_argument("--small", action="store_true", help="few steps of few attacks")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="in which attacks search")
    arguments = parser.parse_args()
    results = Results(arguments.json)
    if arguments.docs:
        write_page(MARKS, page(results.all), PAGE)
        return
    for cell, name in results.left(cells(), partial(name_of, small=arguments.small), arguments.only):
        data, model, seed, recipe = cell
        base = victim_of(arguments.weights, model, data, arguments.device, seed=seed)
        if base is None:
            continue
        test, part = (clips_of(arguments.data, data, base.frames, part=part) for part in ("test", "training"))
        file = arguments.work / f"{name_of(cell)}.safetensors"
        if not file.exists():
            harden(base, part, recipe, seed, file)
        victim = fb.create_victim(str(file), device=arguments.device)
        found = attack(
            victim,
            base if RECIPES[recipe] else None,
            test,
            learn_natural_motion(part),
            SPLITS[data],
            file.with_suffix(""),
            arguments.limit,
            arguments.precision,
            arguments.small,
        )
        found |= {"accuracy": accuracy(victim, test), "seconds": victim.fit_seconds}
        results.add(name, found | {"recipe": RECIPES[recipe], "seed": seed})


if __name__ == "__main__":
    main()
