"""Accuracy on one training subject who is held out, for a change of a recipe: by nothing else is one chosen.

The clips of the test part are never loaded into a training or asked about. Each run is appended to the results.

    python benchmarks/choose_recipe.py sgn --data FILE --test subject:8,9,10 --hold subject:7 --set crop=0.6 --json FILE
"""

import argparse
import json
from pathlib import Path

import funnybone as fb
from funnybone.models import recipe_for
from funnybone.training import evaluate, train

RESULTS = Path(__file__).parent / "results" / "choices.json"


def setting(text):
    """A key of the recipe and its number; ``align=hips`` is one of its preprocessing."""
    key, _, value = text.partition("=")
    return ("preprocess", {key: value}) if key == "align" else (key, json.loads(value))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True, help="the test part, which is left out altogether")
    parser.add_argument("--hold", required=True, help="the part that is trained without and asked about")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--streams", default="joint")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    changes = dict(map(setting, arguments.set))
    clips = fb.load_data(arguments.data, frames=60).select(f"!{arguments.test}")
    recipe = recipe_for(arguments.model, "small", changes)
    streams = arguments.streams.split(",")
    trained = train(arguments.model, clips.select(f"!{arguments.hold}"), recipe=recipe, streams=streams)
    found = evaluate(trained.module, clips.select(arguments.hold), trained.record.build_preprocess())
    row = {
        "data": Path(arguments.data).stem,
        "held_out": arguments.hold,
        "model": arguments.model,
        "streams": streams,
        "changes": changes,
        "accuracy": found.value,
        "ci95": found.ci95,
        "n": found.n,
    }
    print(json.dumps(row))
    rows = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
    arguments.json.write_text(json.dumps([*rows, row], indent=1) + "\n")


if __name__ == "__main__":
    main()
