"""Which steps the quick suite takes, and which scales SMART measures dynamics in: chosen on training clips.

Attacks clips that the victims were trained on, so that no test clip chooses a setting, and prints for each candidate
how many fell and what that did to the motion. The rule for steps: of the candidates of an attack with at most five
successes in a hundred fewer than the one with the most, the one with the smallest acceleration deviation (mean over the
clips of a set that fall to every such candidate, as a share of the largest, averaged over the sets). That for scales:
of those with which SMART fells, within the ball in which PGD fells some, at most five in a hundred fewer than PGD, the
one with the smallest acceleration deviation and change of bone length, each as a share of PGD's over the clips that
fall to both, summed.

    python benchmarks/quick_suite.py [--clips 48] [--set VICTIM DATA SPLIT] [--json FILE]
"""

import argparse
import json
from pathlib import Path

import torch

import funnybone as fb
from funnybone.auditing.plan import choose

SCALES = [(0.05, 1.0, metres) for metres in (2.0, 4.0, 8.0, 16.0)]  # m, m/s, m/s^2
BALL = fb.threat.L2(0.19)
FIGURES = ("position_m", "acceleration", "bone_length_change")
SHARES = [{"steps": 15, "step_size": share} for share in (0.1, 0.2, 0.4)]
CANDIDATES = {
    ("smart", None): [{"steps": 40, "step_size": size} for size in (0.001, 0.002, 0.004)],
    ("pgd", fb.threat.Linf(0.010)): SHARES,
    ("pgd", fb.threat.L2(0.39)): SHARES,
}


def measure(sets, attack, threat, settings):
    """Successes of one candidate on each set, and the acceleration deviation of each clip."""
    outcomes = [
        fb.create_attack(attack, **settings)(
            victim, clips, threat=threat, generator=torch.Generator().manual_seed(0), batch_size=16
        )
        for victim, clips in sets
    ]
    fallen = [outcome.success for outcome in outcomes]
    return fallen, [outcome.distances["acceleration"] for outcome in outcomes]


def chosen(found):
    """The place of the candidate that the rule takes."""
    counts = [sum(int(one.sum()) for one in fallen) for fallen, _ in found]
    good = [place for place, count in enumerate(counts) if count >= 0.95 * max(counts)]
    cost = torch.zeros(len(good))
    for part in range(len(found[0][0])):
        all_fell = torch.stack([found[place][0][part] for place in good]).all(0)
        if all_fell.any():
            deviation = torch.stack([found[place][1][part][all_fell].mean() for place in good])
            cost += deviation / deviation.max()
    return good[int(cost.argmin())]


def beside_pgd(sets):
    """What SMART does with each of the scales in a ball in which PGD fells some, and the scales that the rule takes."""

    def attacked(name, **own):
        return [
            fb.create_attack(name, steps=40, **own)(
                victim, clips, threat=BALL, generator=torch.Generator().manual_seed(0), batch_size=16
            )
            for victim, clips in sets
        ]

    pgd, rows = attacked("pgd"), []
    for scales in SCALES:
        row = {"steps": 40, "scales": scales, "attacked": [], "fallen": [], "fallen_to_pgd": [], "shares_of_pgd": []}
        for ours, other in zip(attacked("smart", scales=scales), pgd, strict=True):
            both = ours.success & other.success
            for key, value in (("attacked", ours.attacked), ("fallen", ours.success), ("fallen_to_pgd", other.success)):
                row[key].append(int(value.sum()))
            row["shares_of_pgd"].append(
                {
                    name: float(ours.distances[name][both].mean() / other.distances[name][both].mean())
                    for name in FIGURES
                }
                if both.any()
                else None
            )
        rows.append(row)
    good = [row for row in rows if sum(row["fallen"]) >= sum(row["fallen_to_pgd"]) - 0.05 * sum(row["attacked"])]
    cost = [
        sum(share["acceleration"] + share["bone_length_change"] for share in row["shares_of_pgd"] if share)
        for row in good
    ]
    taken = good[cost.index(min(cost))] if good else None
    return [row | {"chosen": row is taken} for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--set", nargs=3, action="append", default=[], metavar=("VICTIM", "DATA", "SPLIT"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    sources = [("stgcn.synthetic", "synthetic", "train"), *arguments.set]
    sets = []
    for name, data, split in sources:
        victim = fb.create_victim(name)
        clips = fb.load_data(data, split=split, frames=victim.frames)
        sets.append((victim, choose(clips, arguments.clips, seed=0)))
    result = {
        "clips": [len(clips) for _, clips in sets],
        "data": [(Path(data).name, split) for _, data, split in sources],
        "attacks": [],
    }
    for (attack, threat), candidates in CANDIDATES.items():
        found = [measure(sets, attack, threat, settings) for settings in candidates]
        taken = chosen(found)
        rows = [
            {
                **settings,
                "fallen": [int(one.sum()) for one in fallen],
                "acceleration": [
                    float(of[one].mean()) if one.any() else None for one, of in zip(fallen, deviation, strict=True)
                ],
                "chosen": place == taken,
            }
            for place, (settings, (fallen, deviation)) in enumerate(zip(candidates, found, strict=True))
        ]
        print(attack, threat or "", *(json.dumps(row) for row in rows), sep="\n")
        result["attacks"].append({"attack": attack, "threat": repr(threat), "candidates": rows})
    result["beside_pgd"] = {"threat": repr(BALL), "candidates": beside_pgd(sets)}
    print(BALL, *(json.dumps(row) for row in result["beside_pgd"]["candidates"]), sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
