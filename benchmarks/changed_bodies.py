"""Which bodies that were changed for good the test for natural motion flags, of clips of people it did not learn from.

Bones are scaled the same in all frames, so nothing happens over time. ``before`` is the share of clips flagged by the
figures other than asymmetry and proportions, ``after`` by all. Examples:

    python benchmarks/changed_bodies.py synthetic --split test
    python benchmarks/changed_bodies.py DATA/hdm05_11.npz --split subject:mm,tr
"""

import argparse

import torch

import funnybone as fb
from funnybone.metrics.natural import FIGURES
from funnybone.motion.kinematics import scale_bones

LEGS = ("knee", "ankle", "foot", "femur", "tibia", "toes")
ARMS = ("elbow", "wrist", "hand", "thumb", "humerus", "radius", "fingers")


def changes(skeleton, count):
    """Return the scales (N, B) of each change."""
    names = [skeleton.joints[child].lower() for child, _ in skeleton.bones]
    left = [child in {left for left, _ in skeleton.pairs} for child, _ in skeleton.bones]
    legs = [any(part in name for part in LEGS) for name in names]
    arm = [own and any(part in name for part in ARMS) for own, name in zip(left, names, strict=True)]
    everything = [True] * len(names)

    def scaled(which, scale):
        return torch.where(torch.tensor(which), scale, 1.0).expand(count, -1)

    found = {"none": scaled(everything, 1.0), "left side x1.5": scaled(left, 1.5), "left arm x1.2": scaled(arm, 1.2)}
    found |= {f"legs x{scale}": scaled(legs, scale) for scale in (1.3, 1.5)}
    found |= {f"whole body x{scale}": scaled(everything, scale) for scale in (0.7, 1.3)}
    signs = torch.randint(0, 2, (count, len(names)), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    return found | {f"each bone x{1 - by:g} or x{1 + by:g}": 1 + by * signs for by in (0.1, 0.2, 0.3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set's name or a motion file")
    parser.add_argument("--split", required=True, help="the test part; it is learned from the others")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--every", type=int, default=1, help="learn from and test each so-manieth clip")
    arguments = parser.parse_args()
    others = "train" if arguments.split == "test" else f"!{arguments.split}"
    training, test = (
        fb.load_data(arguments.data, split=split, frames=arguments.frames)[:: arguments.every]
        for split in (others, arguments.split)
    )
    natural = fb.metrics.learn_natural_motion(training)
    body = [FIGURES.index(name) for name in ("asymmetry", "proportions")]
    rest = [index for index in range(len(FIGURES)) if index not in body]
    print(f"{len(test)} clips, learned from {len(training)}; share flagged, %")
    print(f"{'change':24} {'before':>8} {'after':>8} {'asymmetry':>10} {'proportions':>12}")
    for name, scale in changes(test.skeleton, len(test)).items():
        scale = scale[:, None].repeat(1, test.xyz.shape[1], 1)
        moved = torch.where(test.valid[..., None, None], scale_bones(test.xyz, scale, test.skeleton), test.xyz)
        over = natural.figures(test.with_xyz(moved)) > natural.thresholds
        shares = [over[:, rest].any(1), over.any(1), *over[:, body].mT]
        before, after, sides, shape = (100 * float(flagged.float().mean()) for flagged in shares)
        print(f"{name:24} {before:8.1f} {after:8.1f} {sides:10.1f} {shape:12.1f}", flush=True)


if __name__ == "__main__":
    main()
