"""Transfer without a victim: no-box clips beside SMART's from a surrogate, and beside noise of the same size.

Each cell (data, what makes the clips, budget) is written as it ends and never measured again, unless a victim has come
in, so the script can be stopped and started again. No-box learns from all test clips without their labels, as the paper
does, and is shown no victim; SMART is crafted on AGCN, and goes on after that has fallen. Noise moves each coordinate
by the whole budget, one way or the other. Weights files are those of `train_victims.py`.

    python benchmarks/nobox.py --weights FOLDER --data FOLDER [--only CELL ...] [--limit 96] [--set epochs=30 ...]
    python benchmarks/nobox.py --docs
"""

import time

import torch

import funnybone as fb
from cells import SPLITS, Results, arguments_of, clips_of, table, victim_of, write_page
from funnybone.attacks.as_text import attack_from
from funnybone.attacks.verdict import judge
from funnybone.auditing.plan import choose
from funnybone.auditing.transfer import Made, Transfer, answers
from funnybone.chance import Chance
from funnybone.metrics import deviations
from funnybone.metrics.intervals import wilson

MARKS = ("<!-- no box: made by benchmarks/nobox.py -->\n", "<!-- end of no box -->\n")

MODELS = ("stgcn", "agcn", "ctrgcn", "sgn", "msg3d", "hrnn", "asgcn", "dgnn", "stgcnpp", "skateformer", "frhead")
SURROGATE = "agcn"
BUDGETS = (0.005, 0.01, 0.02)  # metres, L-infinity
MAKERS = ("noise", "nobox", "smart")
FRAMES = 60
SMART = "smart steps=100 early_stop=False"


def cells():
    """Every (data, maker, budget): the order is that of the work."""
    return [(data, maker, budget) for data in SPLITS for maker in MAKERS for budget in BUDGETS]


def always_right(clips):
    """Whom an attack that asks nobody is called with, so that every clip is attacked."""

    def labels(xyz):
        return clips.labels[torch.cdist(xyz.flatten(1).cpu(), clips.xyz.flatten(1)).argmin(1)]

    return fb.CallableVictim(labels, skeleton=clips.skeleton, classes=clips.classes, name="always right")


def made(maker, budget, clips, test, surrogate, settings, batch_size):
    """The clips that are shown to victims, how far each is outside of the budget, and what made them."""
    threat, generator = fb.threat.Linf(budget), torch.Generator().manual_seed(0)
    if maker == "noise":
        signs = 1 - 2 * (Chance.of(clips, generator).uniform(*clips.xyz.shape[1:]) < 0.5).float()
        xyz = threat.project(clips.xyz, clips.xyz + budget * torch.where(clips.valid[..., None, None], signs, 0))
        return clips.with_xyz(xyz), threat.violation(clips.xyz, xyz), {"seed": 0}
    if maker == "smart":
        outcome = attack_from(SMART)(surrogate, clips, threat=threat, generator=generator, batch_size=batch_size)
    else:
        attack = attack_from(" ".join(["nobox", *settings]))
        victim = always_right(clips)
        outcome = attack(victim, clips, threat=threat, starts=test, generator=generator, batch_size=batch_size)
    said = {key: outcome.provenance[key] for key in ("settings", "encoder") if key in outcome.provenance}
    return outcome.adversarial, outcome.violation, {"seed": 0, **said}


def measure(cell, clips, test, victims, settings, batch_size):
    """One cell: for each victim, over the clips that it gets right, and over those that the surrogate does as well."""
    _, maker, budget = cell
    began, goal = time.perf_counter(), fb.goals.AnythingBut()
    shown, violation, said = made(maker, budget, clips, test, victims[SURROGATE], settings, batch_size)
    seconds = time.perf_counter() - began
    before, after = (
        {name: judge(victim, which, goal, clips.labels, batch_size) for name, victim in victims.items()}
        for which in (clips, shown)
    )
    known = before[SURROGATE].prediction == clips.labels
    found = {}
    for name in victims:
        said_to_it = answers(clips, before[name], after[name])
        found[name] = {}
        for over, rows in (("right", torch.ones_like(known)), ("both", known)):
            pairs = zip(rows.tolist(), violation.tolist(), strict=True)
            counted = Transfer.of([Made(row, False, outside) for row, outside in pairs], said_to_it)
            found[name][over] = {"n": counted.n, "fooled": counted.fooled, "ci95": counted.ci95}
    moved = shown.xyz.ne(clips.xyz).flatten(1).any(1)
    means = {key: float(values[moved].nanmean()) for key, values in deviations(clips, shown.xyz).items()}
    return {**said, "n": len(clips), "moved": int(moved.sum()), **means, "seconds": seconds, "victims": found}


def name_of(cell):
    data, maker, budget = cell
    return f"{data}-{maker}-{1000 * budget:g}mm"


def share(found):
    """A rate of a table, with its interval and what it counts over."""
    if not found["n"]:
        return "-"
    low, high = wilson(found["fooled"], found["n"])
    return f"{100 * found['fooled'] / found['n']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def fooled_table(measured, data, over, makers):
    """A table of one denominator: victims down, makers and budgets across."""
    own = [cell for cell in cells() if cell[0] == data and cell[1] in makers and name_of(cell) in measured]
    names = [name for name in MODELS if any(name in measured[name_of(cell)]["victims"] for cell in own)]
    lines = []
    for name in names:
        found = [measured[name_of(cell)]["victims"].get(name, {over: {"n": 0}})[over] for cell in own]
        star = "\\*" if name == SURROGATE and "smart" in makers else ""
        lines.append([name + star, str(max(one["n"] for one in found)), *map(share, found)])
    return table(["victim", "n", *(f"{maker} {1000 * budget:g} mm" for _, maker, budget in own)], lines)


def deviation_table(measured, data):
    """What was done to the motion, whoever is fooled by it."""
    rows = []
    for cell in cells():
        if cell[0] == data and (found := measured.get(name_of(cell))):
            figures = [1000 * cell[2], 1000 * found["position_m"], found["acceleration"]]
            figures += [100 * found["bone_length_change"], found["seconds"]]
            rows.append([cell[1], *(f"{figure:.3g}" for figure in figures)])
    return table(["made by", "budget mm", "position mm", "acc. m/s²", "bones %", "seconds"], rows)


def page(result):
    """The tables of the results."""
    measured, parts = result["cells"], []
    for data in SPLITS:
        n = max((found["n"] for name, found in measured.items() if name.startswith(data)), default=0)
        if not n:
            continue
        parts += [
            f"**{data}** ({SPLITS[data]}; {n} clips, seed 0), % fooled of the n clips that the victim gets right:",
            fooled_table(measured, data, "right", ("noise", "nobox")),
            f"% fooled of the n clips that the victim and the surrogate of SMART, {SURROGATE}, both get right (\\* the "
            "surrogate itself, white-box):",
            fooled_table(measured, data, "both", ("nobox", "smart")),
            "Means over the clips that were moved:",
            deviation_table(measured, data),
        ]
    return parts


def main():
    parser = arguments_of(__doc__, results="nobox.json", example="hdm05_11-nobox", limit=96)
    parser.add_argument("--models", nargs="+", default=MODELS, help="victims; the surrogate is always there")
    parser.add_argument("--set", nargs="+", default=[], help="settings of nobox, as epochs=30")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    results = Results(arguments.json)
    if arguments.docs:
        write_page(MARKS, page(results.all))
        return
    wanted = [model for model in MODELS if model in {*arguments.models, SURROGATE}]
    for cell, name in results.left(cells(), name_of, arguments.only, again=True):
        data = cell[0]
        found = {model: victim_of(arguments.weights, model, data, arguments.device) for model in wanted}
        victims = {model: victim for model, victim in found.items() if victim is not None}
        known = results.cells.get(name, {"victims": {}})["victims"]
        if SURROGATE not in victims or victims.keys() <= known.keys():
            continue
        test = clips_of(arguments.data, data, FRAMES)
        clips = choose(test, arguments.limit or None, seed=0)
        results.add(name, measure(cell, clips, test, victims, arguments.set, arguments.batch_size))


if __name__ == "__main__":
    main()
