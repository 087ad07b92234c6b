"""What filters and noise in front of a victim cost it on clips that it was trained on: by this defaults are chosen.

The default is the strongest of each list that costs no victim more than a point. Test clips are never asked about.

    python benchmarks/front_ends.py stgcn.synthetic synthetic train
    python benchmarks/front_ends.py WEIGHTS DATA '!subject:2,4,6,8'
"""

import argparse

import torch

import funnybone as fb
from funnybone.auditing.plan import choose
from funnybone.motion.rest import rest_pose
from funnybone.victims import predict
from funnybone.victims.filtered import Filter, Filtered
from funnybone.victims.smoothed import Noise, Smoothed

KEEP = (1 / 15, 1 / 10, 1 / 6, 1 / 4, 1 / 3, 1 / 2)
GAUSSIAN = ((1, 5), (2, 9), (4, 17))  # standard deviation in frames, taps
METRES = (0.002, 0.005, 0.01, 0.02, 0.05)
RADIANS = (0.01, 0.02, 0.05, 0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim")
    parser.add_argument("data")
    parser.add_argument("split", help="the training part")
    parser.add_argument("--clips", type=int, default=100)
    arguments = parser.parse_args()

    base = fb.create_victim(arguments.victim)
    clips = choose(fb.load_data(arguments.data, split=arguments.split, frames=60), arguments.clips, 0)
    rest = rest_pose(clips.xyz, clips.valid, clips.skeleton)

    def tell(what, victims):
        right = {key: (predict(victim, clips, 16)[0] == clips.labels).float().mean() for key, victim in victims}
        print(what, ", ".join(f"{key}: {100 * share:.0f}" for key, share in right.items()), flush=True)

    def noisy(sigma, space):
        return Smoothed(base, Noise(sigma=sigma, space=space), rest=None if space == "positions" else rest, defense="n")

    print(f"{base.name} on {len(clips)} clips, % right; of noise one answer for each clip")
    tell("clean", [("", base)])
    tell("dct, keep", [(f"{keep:.3f}", Filtered(base, Filter(keep=keep), defense="f")) for keep in KEEP])
    bells = [(Filter(mode="gaussian", sigma=sigma, taps=taps), (sigma, taps)) for sigma, taps in GAUSSIAN]
    tell("gaussian, (sigma, taps)", [(key, Filtered(base, bell, defense="f")) for bell, key in bells])
    torch.manual_seed(0)  # what stochastic victims draw from
    for space, sigmas in (("positions", METRES), ("joint_angles", RADIANS)):
        tell(f"noise on {space}, sigma", [(sigma, noisy(sigma, space)) for sigma in sigmas])


if __name__ == "__main__":
    main()
