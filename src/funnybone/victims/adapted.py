"""A network with small corrections beside its weights, which stay what they were."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models.corrections import corrected
from funnybone.victims.base import Victim
from funnybone.victims.hardened import Hardened, register_form
from funnybone.victims.torch import TorchVictim


@register_form
class Adapted(Hardened):
    """A network whose weights have corrections added to them as it answers: it costs what the base costs.

    Parameters
    ----------
    base : TorchVictim
        A network.
    corrections : mapping of str to Tensor
        As `funnybone.models.corrections.corrections_of` gives them.
    defense, name
        As in `Hardened`.

    Raises
    ------
    DataError
        For a victim that is no network, and for corrections of another one.

    Examples
    --------
    >>> import funnybone as fb
    >>> base, clips = fb.create_victim("sgn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> adapted = Adapted(base, {"fc.bias.by": torch.ones(14)}, defense="trades")
    >>> bool(torch.allclose(adapted.logits(clips.xyz), base.logits(clips.xyz) + 1, atol=1e-5))
    True
    """

    form = "adapted"

    def __init__(
        self, base: Victim, corrections: Mapping[str, Tensor], *, defense: str, name: str | None = None
    ) -> None:
        super().__init__(base, defense=defense, name=name)
        if not isinstance(base, TorchVictim):
            raise DataError(f"victim {base.name!r} is no network", hint="corrections are added to a network's weights")
        self.corrections = {key: value.to(base.device) for key, value in corrections.items()}
        self.corrected = TorchVictim(
            corrected(base.module, self.corrections),
            skeleton=base.skeleton,
            classes=base.classes,
            preprocess=base.preprocess,
            compile=base.compile,
        )
        if base.parameters is not None:
            self.parameters = base.parameters + sum(value.numel() for value in corrections.values())

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.corrections)

    @classmethod
    def restore(
        cls, base: Victim, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], *, defense: str, name: str | None
    ) -> "Adapted":
        if settings:
            raise DataError(f"adapted: settings {', '.join(sorted(settings))}", hint="it has none")
        return cls(base, tensors, defense=defense, name=name)

    def to(self, device: torch.device | str) -> "Adapted":
        moved = super().to(device)
        assert isinstance(moved, Adapted)
        moved.corrections = {key: value.to(device) for key, value in self.corrections.items()}
        moved.corrected = self.corrected.to(device)
        return moved

    def logits(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N K"]:
        return self.corrected.logits(xyz)
