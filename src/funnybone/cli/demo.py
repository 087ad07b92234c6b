"""What ``funnybone audit`` attacks when nobody names anything: the embedded victim, and the same hardened by BEAT."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funnybone.cli.common import note, prepare, progress
from funnybone.errors import DataError

if TYPE_CHECKING:
    from funnybone.defenses import Defense
    from funnybone.victims import Hardened, Victim

VICTIM, DATA, LIMIT = "stgcn.synthetic", "synthetic", 56  # four clips of each class
DEFENSE, PART, TRAINING = "beat", "train", 56  # four of each class again, too few to keep some back

# What fits into three minutes with the attacks on both victims, on two cores. Nothing else chose them.
SETTINGS: dict[str, Any] = {"rounds": 2, "burn_in": 1, "langevin_steps": 3, "share": 0.5, "buffer": 10}


def harden(base: "Victim", folder: Path, *, frames: int, seed: int, resume: bool = True) -> "Hardened":
    """Return the base hardened, which an audit's folder keeps as a file; what the file has is not done again.

    Killed at any moment it goes on with the round in which it was.

    Raises
    ------
    DataError
        Where the folder holds the same victim hardened otherwise, or an audit of others.
    """
    import torch

    from funnybone.auditing.folder import LEDGER
    from funnybone.auditing.plan import choose
    from funnybone.data import load_data
    from funnybone.defenses import create_defense
    from funnybone.victims import Hardened, save_victim
    from funnybone.victims.hardened import Fitted, seconds_since_undefended

    defense = create_defense(DEFENSE, **SETTINGS)
    clips = choose(load_data(DATA, split=PART, frames=frames), TRAINING, seed)
    fitted = Fitted.of(clips, None, split=PART, seed=seed)
    path = folder / f"{base.name}+{DEFENSE}.safetensors"
    if resume and path.exists():
        return _kept(path, base, defense, fitted)
    if (folder / LEDGER).exists():
        raise DataError(f"{folder}: holds another audit (without {path.name})", hint="choose another --out")
    checkpoint = path.with_name(f"{path.name}.partial")
    prepare(path, *([] if resume else [checkpoint]))
    note(f"{DEFENSE} on {base.name}: fitted first, on {len(clips)} training clips; then both are attacked")
    resumed, began = checkpoint.exists(), time.monotonic()
    with progress(f"{DEFENSE} on {base.name}", "rounds") as tell:
        made = defense.fit(
            base, clips, generator=torch.Generator().manual_seed(seed), progress=tell, checkpoint=checkpoint
        )
    assert isinstance(made, Hardened)
    made.fitted = fitted
    made.fit_seconds = None if resumed else seconds_since_undefended(base, time.monotonic() - began)
    save_victim(path, made)
    checkpoint.unlink(missing_ok=True)
    return made


def _kept(path: Path, base: "Victim", defense: "Defense", fitted: object) -> "Hardened":
    """The victim of the file, where it is the one that would be made."""
    from funnybone.victims import Hardened, create_victim

    found = create_victim(str(path), device=str(base.device))
    if isinstance(found, Hardened) and _said(found) == (base.fingerprint, DEFENSE, defense.settings(), fitted):
        return found
    raise DataError(f"{path}: hardened otherwise, or with another seed", hint="choose another --out")


def _said(hardened: "Hardened") -> tuple[object, ...]:
    return hardened.base.fingerprint, hardened.defense, hardened.defense_settings, hardened.fitted


def remarks(hardened: "Hardened") -> list[str]:
    """Return lines that say how the second victim came about."""
    fitted = hardened.fitted
    assert fitted is not None
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    return [
        f"{hardened.name} is {hardened.base.name} hardened by the defense {DEFENSE}, with little for the sake of time:",
        f"fitted on {fitted.n} training clips of {fitted.data}; {settings}; other settings by default.",
    ]
