"""How long BEAT takes to its best validation score, over what SMART-AT takes to its own: one run, the same clips.

Both are fitted on one victim, by the same training clips, one after the other, and judged by the same held-out ones:
BEAT after each round, SMART-AT after each epoch, which is part of the time of both. Processor time, so that other work
on the machine counts for nothing; on one thread it is what a clock would show on an idle core.

    python benchmarks/time_to_best.py VICTIM --data FILE --split TRAINING_PART [--limit N] [--epochs N] [--json FILE]
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open

import funnybone as fb
from funnybone.auditing.plan import choose
from funnybone.defenses.retraining import EPOCHS


def timed(defense, victim, clips, folder):
    """When each round or epoch was over, how its validation loss was, and which was the best."""
    checkpoint, stamps, began = folder / f"{defense.name}.partial", [], time.process_time()

    def tell(done, total, text):
        stamps.append((done / total, time.process_time() - began))

    defense.fit(victim, clips, generator=torch.Generator().manual_seed(0), progress=tell, checkpoint=checkpoint)
    whole = time.process_time() - began
    with safe_open(checkpoint, "pt") as file:
        (record,) = (json.loads(text) for text in file.metadata().values())
    losses = [one["validation_loss"] for one in record.get("rounds", record.get("epochs"))]
    judged = [(loss, place) for place, loss in enumerate(losses) if loss is not None]
    if not judged:
        raise SystemExit(f"{len(clips)} clips are too few to hold some of each class out")
    best = min(judged)[1]
    # SMART-AT tells of an epoch's steps, and judges before the next one's: the first of those, one step late.
    rounds = "rounds" in record
    planned = len(losses) if rounds else defense.epochs or EPOCHS  # some recipes stop early
    over = [when for share, when in stamps if share * planned > best + (1 - 1e-6 if rounds else 1 + 1e-6)]
    return {
        "settings": defense.settings(),
        "validation_loss": losses,
        "best": best + 1,
        "seconds_to_best": min([*over, whole]),
        "seconds": whole,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("victim")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", required=True, help="the training part, as !subject:mm,tr")
    parser.add_argument("--limit", type=int, default=0, help="clips of it; 0 for all")
    parser.add_argument("--epochs", type=int, help="of SMART-AT; its default where not given")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    victim = fb.create_victim(arguments.victim)
    clips = fb.load_data(arguments.data, split=arguments.split, frames=victim.frames)
    if arguments.limit:
        clips = choose(clips, arguments.limit, seed=0)
    found = {"victim": victim.name, "data": clips.name, "split": arguments.split, "n": len(clips)}
    found |= {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": str(torch.__version__)}
    with tempfile.TemporaryDirectory() as folder:
        beat = fb.create_defense("beat", members=arguments.members)
        smart_at = fb.create_defense("smart-at", epochs=arguments.epochs)
        for defense in (beat, smart_at):
            found[defense.name] = one = timed(defense, victim, clips, Path(folder))
            print(
                f"{defense.name}: best after {one['best']} of {len(one['validation_loss'])}, "
                f"{one['seconds_to_best']:.1f} s; {one['seconds']:.1f} s in all",
                flush=True,
            )
    for key in ("seconds_to_best", "seconds"):
        found[f"ratio_of_{key}"] = found["beat"][key] / found["smart-at"][key]
        print(f"ratio of {key}: {found[f'ratio_of_{key}']:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
