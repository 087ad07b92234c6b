"""Black-box attacks on trained victims: how near they come to the clean motion, how natural, after how many queries.

Each cell (data, victim, attack) is written as it ends and never measured again, so the script can be stopped and
started again. What natural motion is, is learned from the training subjects; attacks start from test clips of other
classes, as the published code does. Weights files are those of `train_victims.py`.

    python benchmarks/black_box.py --weights FOLDER --data FOLDER [--only CELL ...] [--limit 32] [--json FILE]
    python benchmarks/black_box.py --docs
"""

import argparse
import json
import time
from pathlib import Path

import torch

import funnybone as fb
from funnybone.attacks.as_text import attack_from
from funnybone.auditing.plan import choose
from funnybone.auditing.schema import DEVIATIONS
from funnybone.metrics.intervals import wilson

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "basar.json"
PAGE = HERE.parent / "docs" / "attacks.md"
MARKS = ("<!-- black boxes: made by benchmarks/black_box.py -->\n", "<!-- end of black boxes -->\n")

SPLITS = {"hdm05_11": "subject:mm,tr", "utd_mhad": "subject:2,4,6,8"}
IN_FULL = ("sgn", "stgcn", "ctrgcn")
OTHERS = ("hrnn", "agcn", "asgcn", "dgnn", "msg3d", "stgcnpp", "skateformer", "frhead")
OF_OTHERS = 16  # clips
# By labels alone; the second without its projection, at as many steps.
ATTACKS = {
    "basar": "basar",
    "basar, no projection": "basar project=false",
    "basar, published": "basar tangent=published frequencies=None period=250 weight=1",
    "hopskipjump, natural": "hopskipjump space=angles frequencies=8",
    "hopskipjump": "hopskipjump",
    "hopskipjump, tangent": "hopskipjump jump=tangent",
    "boundary": "boundary",
    "rays": "rays",
}
ON_OTHERS = ("basar", "hopskipjump, natural")


def cells():
    """Every (data, model, attack): the order is that of the work."""
    for attack in ATTACKS:
        for data in SPLITS:
            yield from ((data, model, attack) for model in IN_FULL)
    for attack in ON_OTHERS:
        yield from (("utd_mhad", model, attack) for model in OTHERS)


def measure(victim, clips, starts, natural, text):
    """One cell."""
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    outcome = attack_from(text)(victim, clips, starts=starts, natural=natural, generator=generator)
    attacked, succeeded = int(outcome.attacked.sum()), int(outcome.success.sum())
    clean = natural.holds(clips)[outcome.attacked]
    curve, fallen = outcome.provenance["curve"], outcome.success.nonzero().flatten().tolist()
    return {
        "settings": outcome.provenance["settings"],
        "seed": 0,
        "n": len(clips),
        "attacked": attacked,
        "succeeded": succeeded,
        "ci95": wilson(succeeded, attacked),
        "queries_median": outcome.median(outcome.queries),
        **{name: outcome.mean(outcome.distances[name]) for name in DEVIATIONS},
        "position_median_m": outcome.median(outcome.distances["position_m"]),
        "on_manifold": int(outcome.distances["on_manifold"][outcome.success].sum()),
        "clean_on_manifold": int(clean.sum()),
        "curve": {
            "queries": curve["queries"],
            **{key: medians([curve[key][row] for row in fallen]) for key in ("position_m", "natural_position_m")},
        },
        "seconds": time.perf_counter() - began,
    }


def medians(rows):
    """Of each column; None where half of the clips have nothing yet."""
    columns = torch.tensor([[torch.inf if value is None else value for value in row] for row in rows])
    found = columns.median(0).values.tolist() if len(rows) else []
    return [value if value < torch.inf else None for value in found]


def name_of(cell):
    return "-".join(cell).replace(", ", "-").replace(" ", "-")


def row(cell, found):
    """A line of the table."""
    succeeded = found["succeeded"]
    at = dict(zip(found["curve"]["queries"], found["curve"]["position_m"], strict=True)) if succeeded else {}

    def millimetres(value):
        return "-" if value is None else f"{1000 * value:.0f}"

    figures = [
        f"{succeeded} of {found['attacked']}",
        f"{found['queries_median']:.0f}" if succeeded else "-",
        *(millimetres(at.get(queries)) for queries in (500, 1000, 2000)),
        millimetres(found["position_median_m"]),
        *(
            "-" if found[key] is None else f"{scale * found[key]:.3g}"
            for key, scale in (("acceleration", 1), ("joint_angle_acceleration", 1), ("bone_length_change", 100))
        ),
        f"{found['on_manifold']} of {succeeded} (clean {found['clean_on_manifold']} of {found['attacked']})",
    ]
    return f"| {' | '.join([cell[1], cell[2], *figures])} |"


def write_page(result):
    """Put the tables of the results between the marks of docs/attacks.md."""
    headers = ["victim", "attack", "fell", "queries", "mm after 500", "after 1,000", "after 2,000", "in the end"]
    headers += ["acc. m/s²", "angles rad/s²", "bones %", "on manifold"]
    parts = []
    for data in SPLITS:
        own = [cell for cell in cells() if cell[0] == data and name_of(cell) in result["cells"]]
        if own:
            lines = [row(cell, result["cells"][name_of(cell)]) for cell in own]
            table = "\n".join([f"| {' | '.join(headers)} |", f"|{' --- |' * len(headers)}", *lines])
            parts += [f"**{data}** ({SPLITS[data]}); displacements are medians over the clips that fell:", table]
    page = PAGE.read_text()
    before, rest = page.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(before + MARKS[0] + "\n" + "\n\n".join(parts) + "\n\n" + MARKS[1] + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of cells' names, as hdm05_11-sgn-basar")
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/attacks.md from the results")
    arguments = parser.parse_args()
    result = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    if arguments.docs:
        write_page(result)
        return
    measured, sets = result.setdefault("cells", {}), {}
    for cell in cells():
        data, model, attack = cell
        weights = arguments.weights / f"{model}.{data}.0.safetensors"
        name = name_of(cell)
        if name in measured or not name.startswith(tuple(arguments.only)) or not weights.exists():
            continue
        victim = fb.create_victim(str(weights), device=arguments.device)
        if (data, victim.frames) not in sets:
            found = str(next(arguments.data.glob(f"**/{data}.npz")))
            test, train = (fb.load_data(found, split=part + SPLITS[data], frames=victim.frames) for part in ("", "!"))
            sets[data, victim.frames] = test, fb.metrics.learn_natural_motion(train)
        test, natural = sets[data, victim.frames]
        limit = min(arguments.limit or len(test), OF_OTHERS if model in OTHERS and arguments.limit else len(test))
        measured[name] = measure(victim, choose(test, limit, seed=0), test, natural, ATTACKS[attack])
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(measured[name]), flush=True)


if __name__ == "__main__":
    main()
