"""``audit.json``: what an audit found, as versioned pydantic models. Public; readers may rely on every field."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from funnybone.attacks.problem import Precision
from funnybone.errors import DataError
from funnybone.victims.hardened import Fitted

SCHEMA_VERSION: Literal[1] = 1

Rate = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Rate, Rate]


class Model(BaseModel):
    """Fields are exactly those listed; NaN is refused (a figure that does not exist is null)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSummary(Model):
    """The clips that were audited."""

    name: str
    split: str | None
    n: int
    classes: list[str]
    frames: int
    persons: int
    skeleton: str
    unit: Literal["metre", "pixel", "normalised"]  # of positions; every distance below is in it
    synthetic: bool
    sha256: str
    on_manifold_rate: Rate | None = None  # of the clean clips, which no attack can exceed by much; null if not judged


class CleanResult(Model):
    """Accuracy on the clean clips, with a Wilson 95 % interval."""

    accuracy: Rate
    ci95: Interval
    n: int


# What `funnybone.metrics.deviations` measures of each clip, and an attack's figures have the means of.
DEVIATIONS = (
    *("position_m", "max_position_m", "velocity", "acceleration", "jerk", "joint_angle_acceleration"),
    *("bone_length_change", "npss"),
)


class AttackResult(Model):
    """One attack on one victim. Medians and means are over successes; null where there was none."""

    name: str
    access: Literal["nothing", "labels", "scores", "gradients"]
    goal: str
    threat: str
    settings: dict[str, Any]
    # It begins with a motion that achieves the goal, and nothing bounds it: what counts is how near it comes, and
    # worst_case leaves it out.
    by_distance: bool = False
    n: int  # clips audited
    attacked: int  # of those, clips that the victim got right: the denominator of success_rate
    succeeded: int
    success_rate: Rate | None  # null when nothing could be attacked
    ci95: Interval | None
    robust_accuracy: Rate  # over all n clips
    robust_accuracy_ci95: Interval
    queries_median: float | None
    steps_median: float | None
    position_m: float | None  # mean joint displacement, metres (in data.unit where that is another)
    max_position_m: float | None = None  # the mean over clips of the largest displacement of a joint in a frame
    velocity: float | None = None  # mean deviation, in the unit of the data / s
    acceleration: float | None  # mean deviation, in the unit of the data / s^2
    jerk: float | None = None  # mean deviation, in the unit of the data / s^3
    joint_angle_acceleration: float | None  # mean deviation, rad/s^2
    bone_length_change: float | None  # mean relative change
    npss: float | None = None  # distance between the power spectra of the motions
    on_manifold_rate: Rate | None  # null unless the suite judged the manifold
    max_violation: float  # of the threat model, over everything returned
    zero_gradients: int  # clips whose gradient vanished: masking, not robustness
    seconds: float
    success_by_displacement: list[tuple[float, Rate]]  # (position_m, share of attacked clips that fell within it)


class WorstCase(Model):
    """What is left when the attacker may choose, for each clip, the attack that succeeds on it.

    A clip is robust when the victim got it right before and no attack of the suite succeeded on it. This is at most the
    smallest ``robust_accuracy`` of the single attacks, and smaller where they fell different clips. Attacks that
    succeed by their making, ``by_distance``, are left out.
    """

    robust_accuracy: Rate
    robust_accuracy_ci95: Interval
    n: int


class Hardening(Model):
    """How a victim was made that leaves another one as it is."""

    base: str | None  # the victim of this audit that it was put around
    settings: dict[str, Any]  # of the defense
    fitted: Fitted | None  # on what; null where nobody said


class VictimResult(Model):
    """One victim and every attack on it."""

    name: str
    defense: str | None
    hardening: Hardening | None = None  # null of a victim with nothing around it
    fit_seconds: float | None = None  # wall time in which it was hardened, all defenses together; null if nobody said
    parameters: int | None
    clean: CleanResult
    attacks: list[AttackResult]
    worst_case: WorstCase | None  # over all attacks together; null when none was tried that can fail

    def strongest(self) -> AttackResult | None:
        """The attack that alone leaves the least; of those that leave the same, the one that moves joints less."""
        rivals = [attack for attack in self.attacks if not attack.by_distance]
        return min(rivals, key=lambda one: (one.robust_accuracy, one.position_m or 0.0), default=None)


class SurrogateResult(Model):
    """A classifier of the attacker's own, or the ensemble of several."""

    name: str
    defense: str | None
    parameters: int | None
    contains: list[str]  # targets whose own gradients it gives: itself, or the members of the ensemble
    clean: CleanResult


class TransferCell(Model):
    """What the clips made to fool one surrogate do to one target."""

    surrogate: str
    target: str
    white_box: bool  # the surrogate contains the target: no transfer, but what transfer is to be held against
    n: int  # clips that surrogate and target both get right before: the denominator of rate
    fooled: int  # those of them that fool the target, within the threat model
    rate: Rate | None  # null where n is 0
    ci95: Interval | None
    fooled_surrogate: int  # those of the n that fool the surrogate
    fooled_both: int


class TransferResult(Model):
    """One attack on every surrogate, and what each target says to the clips: surrogates x targets."""

    name: str
    attack: str
    access: Literal["nothing", "labels", "scores", "gradients"]
    goal: str
    threat: str
    settings: dict[str, Any]
    surrogates: list[str]
    targets: list[str]
    cells: list[
        TransferCell
    ]  # by surrogate, then by target; none of a target whose answers the goal cannot be judged by


class AuditWarning(Model):
    """Something that a reader of the figures must know; each code has a section in the documentation."""

    code: str
    message: str


class Observed(Model):
    """What was seen of a victim before any attack."""

    probabilities: bool
    repeat_difference: Annotated[float, Field(allow_inf_nan=True)]
    stochastic: bool
    exact_gradients: bool
    saturated: Rate  # share of clean clips on which float32 cannot tell the probability from one


class PlannedEntry(Model):
    """An entry of the suite, as `Entry.describe` gives it."""

    name: str
    attack: str
    access: Literal["nothing", "labels", "scores", "gradients"]
    settings: dict[str, Any]
    goal: str
    threat: str
    ball: tuple[str, float] | None  # the threat model with its radius left out, and that; where it has one ball
    by_distance: bool = False  # it begins with a motion that achieves the goal, and nothing bounds it


class PlannedVictim(Model):
    """A victim, and what was seen of it."""

    name: str
    defense: str | None
    hardening: Hardening | None = None
    fit_seconds: float | None = None
    parameters: int | None
    observed: Observed


class PlannedSurrogate(PlannedVictim):
    """A surrogate, and the targets whose own gradients it gives."""

    contains: list[str]


class About(Model):
    """What the ledger keeps besides rows, and the summary needs: its entry ``about``."""

    data: DataSummary
    suite: str
    seed: int
    precision: Precision = "fp32"
    entries: list[PlannedEntry]
    skipped: list[tuple[str, str, str]]  # victim, entry, why
    victims: list[PlannedVictim]
    surrogates: list[PlannedSurrogate]
    transfer: list[PlannedEntry]  # what surrogates are attacked with; none where there are no surrogates
    targets: list[str]  # who is shown the surrogates' clips

    def everyone(self) -> list[str]:
        """Names of victims and surrogates."""
        return list(dict.fromkeys(one.name for one in (*self.victims, *self.surrogates)))

    def attacks(self) -> list[tuple[str, str]]:
        """Victim and entry of every attack that has rows."""
        skipped = {(victim, entry) for victim, entry, _ in self.skipped}
        planned = [(victim.name, entry.name) for victim in self.victims for entry in self.entries]
        planned += [(surrogate.name, entry.name) for surrogate in self.surrogates for entry in self.transfer]
        return [place for place in planned if place not in skipped]

    def shown(self) -> list[tuple[str, str, str]]:
        """Surrogate, entry and target of every cell."""
        skipped = {(target, entry) for target, entry, _ in self.skipped}
        return [
            (surrogate.name, entry.name, target)
            for entry in self.transfer
            for surrogate in self.surrogates
            for target in self.targets
            if (target, entry.name) not in skipped
        ]


class AuditResult(Model):
    """The whole of ``audit.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    seed: int
    suite: str
    precision: Precision = "fp32"  # in which attacks searched; verdicts are float32's
    data: DataSummary
    victims: list[VictimResult]
    surrogates: list[SurrogateResult] = []
    transfer: list[TransferResult] = []  # one for each attack on the surrogates; empty without any
    warnings: list[AuditWarning]
    meaning: list[str] = []  # the figures in sentences, for people
    environment: dict[str, str]

    def save(self, path: Path) -> None:
        """Write as indented JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "AuditResult":
        """Read and validate; `DataError` names the file and the first field that is wrong."""
        if not path.is_file():
            raise DataError(f"{path}: no such file", hint="give a folder that funnybone audit wrote")
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            what = first_fault(error) if isinstance(error, ValidationError) else "field the whole: not UTF-8 text"
            raise DataError(f"{path}: {what}", hint="run the audit again") from None


def first_fault(error: ValidationError) -> str:
    """Return the first field that is wrong, and what is."""
    first = error.errors()[0]
    return f"field {'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
