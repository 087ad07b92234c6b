"""What defenses share that train the network again, from its weights or from scratch."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from funnybone.clips import Clips
from funnybone.defenses.base import Defense, Progress
from funnybone.errors import DataError
from funnybone.models import Model, Recipe, WeightsRecord, recipe_for
from funnybone.models.corrections import correct, corrections_of
from funnybone.settings import build
from funnybone.training import Method, Trained, hardware, hold_out, train
from funnybone.training import Progress as Training
from funnybone.training.fit import content_of
from funnybone.training.hardware import Precision
from funnybone.victims.adapted import Adapted
from funnybone.victims.base import Victim
from funnybone.victims.filtered import Filtered
from funnybone.victims.hardened import Hardened
from funnybone.victims.torch import TorchVictim

EPOCHS = 10  # of a fine-tuning
SHARE = 0.25  # of the recipe's learning rate, in a fine-tuning
HELD_OUT = 0.1  # of each class, where the victim's own training held out nothing


def held_out_by(victim: Victim) -> tuple[float, int]:
    """Return the share and the seed with which the training of a victim's network held out the clips that judged it.

    By them `hold_out` finds those of its training clips that have not taught it anything, whatever has been put around
    the network since, and however often it was trained again.

    Examples
    --------
    >>> import funnybone as fb
    >>> held_out_by(fb.create_victim("sgn", data="synthetic"))
    (0.1, 0)
    """
    while isinstance(victim, Hardened):
        victim = victim.base
    record = victim.record if isinstance(victim, TorchVictim) else None
    if record is None:
        return HELD_OUT, 0
    chosen = record.selection
    if chosen is not None and chosen.share is not None and chosen.seed is not None:
        return chosen.share, chosen.seed
    return _recipe_of(record).validation or HELD_OUT, record.seed or 0


def _recipe_of(record: WeightsRecord) -> Recipe:
    """How a network was trained; its family's recipe where that is not known."""
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in record.recipe.items()}
    return build("training", "recipe", Recipe, settings) if settings else recipe_for(record.model)


@dataclass(frozen=True, kw_only=True)
class Retraining(Method, Defense):
    """The victim's network, trained again for more than right answers to clean clips.

    It is trained as the victim was: by its recipe, but for what is set here. The epoch that is kept is the one with the
    lowest validation loss on what `judged_on` makes of the validation clips: chosen on clean ones it would be the least
    robust of the good ones, and the last one is usually past its best (robust overfitting).

    Networks of several streams are fine-tuned as the one that answers, so that adversaries are made against all of it;
    from scratch each is trained apart, against adversaries of its own.

    Parameters
    ----------
    epochs : int or None
        Passes over the clips; None: 10 from the victim's weights, as many as the recipe says from scratch.
    lr : float or None
        Highest learning rate; None: a quarter of the recipe's from the victim's weights, the recipe's own from scratch.
    from_scratch : bool
        Begin with fresh weights, not with the victim's.
    rank : int or None
        Leave the weights alone, and train corrections of this rank beside them: see
        `funnybone.models.corrections.correct`. The network trains in evaluation mode: norms keep their statistics, and
        nothing is drawn.

    References
    ----------
    Rice, Wong, Kolter, "Overfitting in adversarially robust deep learning", ICML 2020: which epoch to keep. The
    defaults are this library's.
    """

    resumes: ClassVar[bool] = True

    epochs: int | None = None
    lr: float | None = None
    from_scratch: bool = False
    rank: int | None = None

    def __post_init__(self) -> None:
        self.check("epochs", self.epochs is None or self.epochs >= 1, "give at least 1")
        self.check("lr", self.lr is None or 0 < self.lr < float("inf"), "give a number above zero")
        self.check("rank", self.rank is None or self.rank >= 0, "give 0 or more")
        self.check("rank", self.rank is None or not self.from_scratch, "corrections are of trained weights")

    def check(self, field: str, fits: bool, hint: str) -> None:
        """Raise `DataError` naming a setting that does not fit."""
        if not fits:
            raise DataError(f"defense {self.name}: {field} is {getattr(self, field)}", hint=hint)

    @property
    def trains(self) -> bool:
        return True

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "settings": self.settings()}

    def fit(
        self,
        victim: Victim,
        clips: Clips,
        *,
        validation: Clips | None = None,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
        precision: Precision = "fp32",
        trained: Callable[[Trained], None] | None = None,
    ) -> Victim:
        """Return the victim with its network trained again: see `Defense.fit`.

        Parameters
        ----------
        victim, clips, validation, generator, progress, checkpoint
            As of any defense.
        precision : {"fp32", "bf16"}
            ``"bf16"`` trains in mixed precision, adversaries too, which needs accelerate; epochs are judged in float32.
        trained : callable, optional
            Told at the end what `funnybone.training.train` returned: the network, its record and its learning curves.
        """
        victim.check(clips)
        fronts, network = _in_front(victim)
        network, base = self.known(network)
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        whole: dict[str, Any] = {"n": len(clips), "sha256": content_of(clips)}
        divided: dict[str, Any] = {}
        split = base.data.split if base.data.sha256 == whole["sha256"] else None
        if validation is None:
            # As the victim's own were: where it was trained on these clips, only those that judged it then have not
            # taught it anything.
            divided["share"], divided["seed"] = held_out_by(victim)
            clips, validation = hold_out(clips, **divided)
        method = self.prepared(victim, clips, generator, progress or (lambda done, total, text: None))
        done = train(
            base.model,
            clips,
            recipe=self._recipe(base),
            preprocess=base.build_preprocess(),
            options=base.options,
            streams=base.streams,
            fusion=base.fusion,
            validation=validation,
            seed=seed,
            device=network.device if precision == "fp32" else hardware(network.device, precision),
            split=split,
            progress=None if progress is None else _reporter(progress, len(base.streams) if self.from_scratch else 1),
            checkpoint=checkpoint,
            start=None if self.from_scratch else network.module.state_dict(),
            method=method,
            fronts=[front.filter for front in fronts],
        )
        said = done.record
        chosen = said.selection and said.selection.model_copy(update=divided)
        told = {"licence": base.licence, "data": said.data.model_copy(update=whole), "selection": chosen}
        done = done._replace(record=said.model_copy(update=told))
        if trained is not None:
            trained(done)
        if self.rank is None:
            hardened: Victim = self._victim(network, done.module, done.record)
        else:
            hardened = Adapted(network, corrections_of(done.module), defense=self.name)
            hardened.defense_settings = self.settings()
        for front in reversed(fronts):
            hardened = front.around(hardened)
        return hardened

    def prepare(self, network: Model) -> None:
        if self.rank is not None:
            correct(network, self.rank)
            free = any(parameter.requires_grad for parameter in network.parameters())
            self.check("rank", free, "this network has no bias and no norm; give at least 1")

    def prepared(self, victim: Victim, clips: Clips, generator: torch.Generator, progress: Progress) -> Method:
        """Return what trains, where something is to be made of the victim and the training clips first."""
        return self

    def known(self, victim: Victim) -> tuple[TorchVictim, WeightsRecord]:
        """Return a victim whose network can be trained, and what says how it was.

        Raises
        ------
        DataError
            For any other victim.
        """
        if not isinstance(victim, TorchVictim) or victim.record is None:
            raise DataError(
                f"defense {self.name}: victim {victim.name!r} is not a network with a record of how it was trained",
                hint="name a packaged victim, a file that funnybone train or funnybone models import wrote, or one of "
                "these behind lowpass",
            )
        return victim, victim.record

    def _recipe(self, record: WeightsRecord) -> Recipe:
        """How the victim was trained, changed by the settings."""
        recipe = _recipe_of(record)
        epochs, share = (recipe.epochs, 1.0) if self.from_scratch else (EPOCHS, SHARE)
        return dataclasses.replace(
            recipe,
            epochs=epochs if self.epochs is None else self.epochs,
            max_lr=share * recipe.max_lr if self.lr is None else self.lr,
            validation=0.0,  # what is held out has been chosen already
        )

    def _victim(self, base: TorchVictim, module: Model, record: WeightsRecord) -> TorchVictim:
        victim = TorchVictim(
            module,
            skeleton=base.skeleton,
            classes=base.classes,
            preprocess=base.preprocess,
            name=f"{base.name}+{self.name}",
            frames=base.frames,
            persons=base.persons,
            up=base.up,
            unit=base.unit,
            defense=self.name,
            record=record,
        )
        return victim.to(base.device)


def _in_front(victim: Victim) -> tuple[list[Filtered], Victim]:
    """The filters that a victim sees clips through, the first one first, and who is behind them."""
    fronts = []
    while isinstance(victim, Filtered):
        fronts.append(victim)
        victim = victim.base
    return fronts, victim


def _reporter(tell: Progress, streams: int) -> Any:
    def report(now: Training) -> None:
        stream = f"{now.stream}, " if streams > 1 else ""
        judged = now.last.validation_accuracy if now.last else None
        share = "" if judged is None else f", validation {100 * judged:.1f} %"
        tell(now.step, now.steps, f"{stream}epoch {now.epoch + 1} of {now.epochs}, loss {now.loss:.3f}{share}")

    return report
