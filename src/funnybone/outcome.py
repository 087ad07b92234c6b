"""Outcome: what an attack did to each clip, re-measured on what is stored."""

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from funnybone.clips import Clips
from funnybone.clips_io import from_parts, own_memory, to_parts
from funnybone.errors import DataError
from funnybone.metrics.intervals import wilson
from funnybone.units import UNITS

FORMAT = 3
_VECTORS = (
    "attacked",
    "success",
    "claimed",
    "steps",
    "queries",
    "gradients",
    "clean_prediction",
    "prediction",
    "agreement",
    "reference",
    "violation",
    "zero_gradient",
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one attack on a batch of clips. Every tensor but the clips is (N,), on the CPU.

    Parameters
    ----------
    adversarial : Clips
        The clips as the attack left them; clean where it was not tried.
    attacked : Bool[Tensor, "N"]
        Clips that the victim got right before and that did not meet the goal already: the denominator of success.
    success : Bool[Tensor, "N"]
        The goal holds for the stored float32 clip, asked of the victim anew, and the clip is inside the threat model.
    claimed : Bool[Tensor, "N"]
        The attack believed that the clip had fallen; what it lost is ``claimed & ~success``.
    steps, queries, gradients : Int[Tensor, "N"]
        What it took: steps until success (or all of them), forward passes, and those of them with a gradient.
    clean_prediction, prediction, reference : Int[Tensor, "N"]
        The victim's class before and after, and the class that the goal refers to.
    agreement : Float[Tensor, "N"]
        Share of the answers to the stored clip in which the goal holds: one answer, or many of a stochastic victim.
    violation : Float[Tensor, "N"]
        How far the stored clip lies outside of the threat model; 0 inside.
    zero_gradient : Bool[Tensor, "N"]
        The victim gave a gradient of exactly zero (or none that is finite): a sign of masking, not of strength.
    distances : dict of str to Float[Tensor, "N"]
        `funnybone.metrics.deviations` of the stored clip; where it was said what natural motion is, ``on_manifold``,
        one for natural motion and zero for other.
    others : dict of str to Float[Tensor, "N M T V C"]
        Other positions that an attack kept, by name, clean where it was not tried; they were not judged anew. Attacks
        that see labels have ``nearest``: of all that the victim took for what was wanted, what was nearest, whether it
        is natural motion or not, and wherever balls of the threat model are.
    provenance : dict
        Attack, settings, goal, threat model, victim and its fingerprint, versions.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim = fb.create_victim("stgcn", data="synthetic")
    >>> clips = fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("pgd", steps=1)(victim, clips, threat=fb.threat.Linf(0.001))
    >>> bool(outcome.violation.max() == 0)
    True
    """

    adversarial: Clips
    attacked: Bool[Tensor, " N"]
    success: Bool[Tensor, " N"]
    claimed: Bool[Tensor, " N"]
    steps: Int[Tensor, " N"]
    queries: Int[Tensor, " N"]
    gradients: Int[Tensor, " N"]
    clean_prediction: Int[Tensor, " N"]
    prediction: Int[Tensor, " N"]
    agreement: Float[Tensor, " N"]
    reference: Int[Tensor, " N"]
    violation: Float[Tensor, " N"]
    zero_gradient: Bool[Tensor, " N"]
    distances: dict[str, Float[Tensor, " N"]] = field(default_factory=dict)
    others: dict[str, Float[Tensor, "N M T V C"]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.success)

    def median(self, values: Tensor) -> float | None:
        """Median over successes, or None without any; NaN is left out."""
        chosen = values[self.success].double()
        chosen = chosen[~chosen.isnan()]
        return float(chosen.quantile(0.5)) if len(chosen) else None

    def mean(self, values: Tensor) -> float | None:
        """Mean over successes, or None without any; NaN is left out."""
        chosen = values[self.success].double()
        chosen = chosen[~chosen.isnan()]
        return float(chosen.mean()) if len(chosen) else None

    def __str__(self) -> str:
        attacked, succeeded = int(self.attacked.sum()), int(self.success.sum())
        parts = [f"n={len(self)}", f"attacked {attacked}"]
        interval = wilson(succeeded, attacked)
        if interval is None:
            return "  ".join([*parts, "nothing to attack: the victim got no clip right"])
        low, high = interval
        parts.append(f"success {100 * succeeded / attacked:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
        position, bones = (self.mean(self.distances[key]) for key in ("position_m", "bone_length_change"))
        if position is not None:
            unit = UNITS[self.adversarial.unit]
            parts.append(f"position {unit.scale * position:.1f} {unit.distance}")
        natural = self.mean(self.distances["on_manifold"]) if "on_manifold" in self.distances else None
        if natural is not None:
            parts.append(f"natural {100 * natural:.1f} %")
        if bones is not None:
            parts.append(f"bones {100 * bones:.2f} %")
        steps = self.median(self.steps)
        if steps is not None:
            parts.append(f"steps p50 {steps:g}")
        return "  ".join(parts)

    def save(self, path: str | Path) -> None:
        """Write ``path`` (.safetensors: every tensor) and a .json beside it (names and provenance): both, or neither.

        Raises
        ------
        DataError
            When either file exists, since nothing is overwritten, or cannot be written.
        """
        tensors_path, json_path = paths(path)
        for existing in (tensors_path, json_path):
            if existing.exists():
                raise DataError(f"{existing}: exists", hint="choose another name or remove it")
        tensors = {key: getattr(self, key) for key in _VECTORS}
        clip_tensors, clip_record = to_parts(self.adversarial)
        tensors |= {f"clips.{key}": value for key, value in clip_tensors.items()}
        for group in ("distances", "others"):
            tensors |= {f"{group}.{key}": value for key, value in getattr(self, group).items()}
        record = {"format": FORMAT, "provenance": self.provenance, "clips": clip_record}
        # As bytes: save_file makes files that nobody else can read.
        content = {
            tensors_path: save({key: own_memory(value) for key, value in tensors.items()}),
            json_path: (json.dumps(record, indent=2) + "\n").encode(),
        }
        try:
            tensors_path.parent.mkdir(parents=True, exist_ok=True)
            _write_together(content)
        except OSError as error:
            raise DataError(
                f"{error.filename or path}: cannot write: {error.strerror}", hint="choose another place"
            ) from None

    @classmethod
    def load(cls, path: str | Path) -> "Outcome":
        """Read what `save` wrote; `DataError` names the file that is missing or damaged."""
        tensors_path, json_path = paths(path)
        for missing in (tensors_path, json_path):
            if not missing.is_file():
                raise DataError(f"{missing}: no such file", hint="an outcome is a .safetensors and a .json file")
        try:
            with safe_open(tensors_path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
            record = json.loads(json_path.read_text(encoding="utf-8"))
            clips = from_parts(_group(tensors, "clips"), record["clips"])
            return cls(
                adversarial=clips,
                **{key: tensors[key] for key in _VECTORS},
                distances=_group(tensors, "distances"),
                others=_group(tensors, "others"),
                provenance=record["provenance"],
            )
        except DataError as error:
            raise DataError(f"{tensors_path}: {error}") from None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{tensors_path}: not an outcome ({error})", hint="it is damaged; attack again") from None


def _group(tensors: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a group's, by what follows."""
    return {key.removeprefix(f"{group}."): value for key, value in tensors.items() if key.startswith(f"{group}.")}


def paths(path: str | Path) -> tuple[Path, Path]:
    """Return the two files that an outcome saved under this name is made of."""
    base = Path(path).expanduser()
    base = base.with_suffix("") if base.suffix in (".safetensors", ".json") else base
    if base.name in ("", ".."):
        raise DataError(f"{path}: names a folder, not an outcome", hint="give a file name without .safetensors")
    return base.with_name(f"{base.name}.safetensors"), base.with_name(f"{base.name}.json")


def _write_together(content: dict[Path, bytes]) -> None:
    """Write files that did not exist, in this order; when one cannot be written, none is left."""
    suffix = f".{secrets.token_hex(4)}.partial"
    written = {path: path.with_name(f".{path.name}{suffix}") for path in content}
    placed: list[Path] = []
    try:
        for path, partial in written.items():
            partial.write_bytes(content[path])
        for path, partial in written.items():
            os.replace(partial, path)
            placed.append(path)
    except BaseException:
        for leftover in (*written.values(), *placed):
            leftover.unlink(missing_ok=True)
        raise
