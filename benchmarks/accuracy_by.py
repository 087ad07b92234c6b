"""Accuracy of a trained victim, group by group: where its mistakes are.

python benchmarks/accuracy_by.py WEIGHTS --data nw_ucla.npz --split subject:8,9,10 --by subject view
"""

import argparse

import torch

import funnybone as fb
from funnybone.metrics.intervals import wilson
from funnybone.tables import plain, rate


def rows(right, groups):
    """A line for all clips, then one for each value of each group: how many, how many wrong, accuracy."""
    parts = [("all", "", torch.ones_like(right))]
    for key, values in groups.items():
        parts += [(key, name, torch.tensor([value == name for value in values])) for name in sorted(set(values))]
    counted = [(key, name, int(part.sum()), int((right & part).sum())) for key, name, part in parts]
    return [(key, name, str(n), str(n - hits), rate(hits / n, wilson(hits, n))) for key, name, n, hits in counted]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", help="the part to ask about; all clips by default")
    parser.add_argument("--by", nargs="+", default=[], help="groups of the data; all by default")
    arguments = parser.parse_args()
    victim = fb.create_victim(arguments.weights)
    clips = fb.load_data(arguments.data, split=arguments.split, frames=victim.frames)
    right = fb.victims.predict(victim, clips)[0] == clips.labels
    groups = {key: values for key, values in clips.groups.items() if key in (arguments.by or clips.groups)}
    print(plain(("group", "value", "clips", "wrong", "accuracy %"), rows(right, groups), numbers=("clips", "wrong")))


if __name__ == "__main__":
    main()
