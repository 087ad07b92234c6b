"""What scripts share that measure attacks cell by cell: arguments, victims and clips, results that survive, the page.

A cell is a tuple of what meets in it, data first, and has a name. A script goes through its cells in the order of the
work, and keeps what it measured of each in one JSON file, so that it can be stopped and started again.
"""

import argparse
import json
import os
from functools import lru_cache
from pathlib import Path

import funnybone as fb
from funnybone.models import list_packaged

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "attacks.md"
SPLITS = {"hdm05_11": "subject:mm,tr", "utd_mhad": "subject:2,4,6,8"}


def arguments_of(description, *, results, example, limit, page=PAGE):
    """Return the parser of what all of these scripts are told."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="folder of train_victims.py; by default packaged victims alone")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], help=f"beginnings of cells' names, as {example}")
    parser.add_argument("--limit", type=int, default=limit, help="clips of each data set; 0 for all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=HERE / "results" / results)
    parser.add_argument("--docs", action="store_true", help=f"write the tables of docs/{page.name} from the results")
    return parser


class Results:
    """A JSON file with a record of each cell under ``"cells"``, and what else a script keeps in ``all``."""

    def __init__(self, path):
        self.path = path
        self.all = json.loads(path.read_text()) if path.exists() else {}
        self.cells = self.all.setdefault("cells", {})

    def left(self, cells, name_of, only, *, again=False):
        """The cells whose names begin so and that are not measured, or ``again`` all of them, each with its name."""
        for cell in cells:
            name = name_of(cell)
            if name.startswith(tuple(only)) and (again or name not in self.cells):
                yield cell, name

    def add(self, name, record):
        """Keep the record of a cell, and show it."""
        self.cells[name] = record
        self.write()
        print(name, json.dumps(record), flush=True)

    def write(self):
        """Write the file: all of it or, when killed, none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(json.dumps(self.all, indent=1) + "\n")
        os.replace(new, self.path)


@lru_cache(maxsize=32)
def victim_of(folder, model, data, device, *, seed=0):
    """Return the victim that `train_victims.py` made of a model and a data set, or None where there is none.

    Without a file of that in the folder, or without a folder, the packaged one is taken, where there is one, of seed 0.
    """
    weights, packaged = f"{model}.{data}.{seed}.safetensors", f"{model}.{data}"
    if folder is not None and (folder / weights).exists():
        return fb.create_victim(str(folder / weights), device=device)
    return fb.create_victim(packaged, device=device) if seed == 0 and packaged in list_packaged() else None


@lru_cache(maxsize=32)
def clips_of(folder, data, frames, *, part="test"):
    """Return the test clips of a data set at a length, or those of the ``"training"`` subjects."""
    found = str(next(folder.glob(f"**/{data}.npz")))
    return fb.load_data(found, split=("!" if part == "training" else "") + SPLITS[data], frames=frames)


def table(headers, rows):
    """Return a table of Markdown, of rows of texts."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_page(marks, parts, page=PAGE):
    """Put paragraphs and tables between two marks of a page, docs/attacks.md by default."""
    before, rest = page.read_text().split(marks[0])
    after = rest.split(marks[1])[1]
    page.write_text(before + marks[0] + "\n" + "\n\n".join([*parts, marks[1]]) + after)
