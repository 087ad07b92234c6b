"""Train every victim of the table in docs/models.md, collect what came of it, and write the table.

What is trained already is left alone, and an interrupted training goes on where it was, so the script can be stopped
and started again. Recordings are looked for in FOLDER/<data>.npz, in the layout of docs/npz.md.

    python benchmarks/train_victims.py --data FOLDER --out FOLDER [--only DATA ...] [--jobs 2]
    python benchmarks/train_victims.py --out FOLDER --collect
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from funnybone.metrics.intervals import wilson
from funnybone.models import models, recipe_for
from funnybone.models.recipe import settings_of

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "victims.json"
PAGE = HERE.parent / "docs" / "models.md"
MARKS = ("<!-- accuracies: made by benchmarks/train_victims.py -->\n", "<!-- end of accuracies -->\n")

SPLITS = {"hdm05_11": "subject:mm,tr", "utd_mhad": "subject:2,4,6,8", "nw_ucla": "subject:8,9,10"}
SEVERAL = ("stgcn", "sgn")  # three seeds
# What differs from a family's recipe, because of NW-UCLA's few clips of few people: parts of clips for whole ones, two
# streams where a network is cheap, more shown where it still rose. Chosen on its training subjects, see docs/models.md.
OTHERWISE = {
    ("nw_ucla", "sgn"): ["--set", "crop=0.6", "--streams", "joint,bone"],
    ("nw_ucla", "ctrgcn"): ["--set", "crop=0.6", "--set", "shown=16000"],
    ("nw_ucla", "stgcn"): ["--set", "crop=0.6"],
}
PLAN = [
    *((data, model, 0) for data in ("hdm05_11", "utd_mhad") for model in models.names()),
    *(("nw_ucla", model, 0) for model in ("ctrgcn", "sgn", "stgcn")),
    *((data, model, seed) for data in SPLITS for model in SEVERAL for seed in (1, 2)),
]


def path_of(folder, data, model, seed):
    """The weights file of one training."""
    return folder / f"{model}.{data}.{seed}.safetensors"


def train(arguments, data, model, seed):
    """Run one training as a user would, on its share of the processor."""
    out = path_of(arguments.out, data, model, seed)
    if out.exists():
        return
    command = [sys.executable, "-m", "funnybone", "train", model, "--data", str(arguments.data / f"{data}.npz")]
    command += ["--split", SPLITS[data], "--seed", str(seed), "--out", str(out), *OTHERWISE.get((data, model), [])]
    threads = str(max((os.cpu_count() or 1) // arguments.jobs, 1))
    with out.with_suffix(".log").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": threads})
    print(" ".join(command), "ended with", done.returncode, flush=True)


def collect(folder):
    """What the learning curves in a folder say of each planned training that has ended."""
    rows = []
    for data, split in SPLITS.items():
        for model in models.names():
            said = {}
            for seed in (0, 1, 2):
                file = path_of(folder, data, model, seed).with_suffix(".curves.json")
                if (data, model, seed) in PLAN and file.exists():
                    said[seed] = json.loads(file.read_text())
            if not said:
                continue
            accuracies = {seed: one["accuracy"]["value"] for seed, one in said.items()}
            first = next(iter(said.values()))
            n = first["accuracy"]["n"]
            rows.append(
                {
                    "data": data,
                    "split": split,
                    "model": model,
                    "n": n,
                    "trained_on": first["data"]["n"],
                    "held_out_to_choose_the_epoch": first["selection"]["n"],
                    "streams": list(first["streams"]),
                    "otherwise_than_the_recipe": _changes(model, first["recipe"]),
                    "epochs_kept": {seed: one["selection"]["epochs"] for seed, one in said.items()},
                    "accuracy": accuracies,
                    "mean": statistics.mean(accuracies.values()),
                    "ci95_of_the_first_seed": wilson(round(first["accuracy"]["value"] * n), n),
                }
            )
    return rows


def _changes(model, recipe):
    """The settings that a training had, where its family's recipe says otherwise."""
    own = json.loads(json.dumps(settings_of(recipe_for(model))))
    return {key: value for key, value in recipe.items() if value != own.get(key)}


def table(rows):
    """The table of docs/models.md, one line for each model."""
    named = [data for data in SPLITS if any(row["data"] == data for row in rows)]
    lines = [
        "| model | " + " | ".join(f"{data}, {SPLITS[data]}" for data in named) + " |",
        "| --- | " + " | ".join("---" for _ in named) + " |",
    ]
    for model in models.names():
        cells = []
        for data in named:
            row = next((row for row in rows if (row["data"], row["model"]) == (data, model)), None)
            cells.append(_cell(row) if row else "-")
        lines.append(f"| `{model}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row):
    low, high = row["ci95_of_the_first_seed"]
    streams = "" if row["streams"] == ["joint"] else f" ({', '.join(row['streams'])})"
    values = [100 * value for value in row["accuracy"].values()]
    if len(values) == 1:
        return f"{values[0]:.1f} [{100 * low:.1f}, {100 * high:.1f}], n={row['n']}{streams}"
    return f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)}), n={row['n']}{streams}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--collect", action="store_true")
    arguments = parser.parse_args()

    if not arguments.collect:
        if arguments.data is None:
            parser.error("--data names the folder of the recordings")
        arguments.out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda one: train(arguments, *one), [one for one in PLAN if one[0] in arguments.only]))
    rows = collect(arguments.out)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    PAGE.write_text(before + MARKS[0] + table(rows) + MARKS[1] + rest.partition(MARKS[1])[2], encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
