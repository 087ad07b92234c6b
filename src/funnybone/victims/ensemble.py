"""Several victims that answer as one."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.victims.access import LEVELS
from funnybone.victims.base import Victim


class Ensemble(Victim):
    """Victims whose mean log-probabilities are the answer: a surrogate that is less particular than each of them.

    Published transfer attacks add logits as they are, so that the network with the widest scale decides.

    Parameters
    ----------
    victims : sequence of Victim
        At least one; of one skeleton, with the same classes.
    name : str, optional
        How tables call it; the names of all, with plus signs between, by default.

    Examples
    --------
    >>> import funnybone as fb
    >>> both = fb.Ensemble([fb.create_victim(name, data="synthetic") for name in ("stgcn", "sgn")])
    >>> both
    Ensemble('stgcn.synthetic+sgn.synthetic', 14 classes, gradients)
    """

    def __init__(self, victims: Sequence[Victim], *, name: str | None = None) -> None:
        if not victims:
            raise DataError("an ensemble of no victims", hint="give at least one")
        first = victims[0]
        for other in victims[1:]:
            if not first.skeleton.same_layout(other.skeleton) or tuple(first.classes) != tuple(other.classes):
                raise DataError(
                    f"victims {first.name!r} and {other.name!r} differ in skeleton or classes",
                    hint="an ensemble is of victims of one data set",
                )
        if any(victim.access == "labels" for victim in victims):
            raise DataError("an ensemble needs victims that offer scores")
        self.victims = tuple(victims)
        self.name = name or "+".join(victim.name for victim in victims)
        self.skeleton, self.classes = first.skeleton, first.classes
        self.access = min((victim.access for victim in victims), key=LEVELS.index)
        for key in ("frames", "persons", "up", "unit"):
            known = {getattr(victim, key) for victim in victims} - {None}
            if len(known) > 1:
                raise DataError(f"ensemble {self.name!r}: its victims differ in {key}: {', '.join(map(str, known))}")
            setattr(self, key, known.pop() if known else None)
        self.stochastic = any(victim.stochastic for victim in victims)
        self.exact_gradients = all(victim.exact_gradients for victim in victims)
        counts = [victim.parameters for victim in victims]
        self.parameters = None if None in counts else sum(filter(None, counts))

    @property
    def fingerprint(self) -> str:
        """Hash of the fingerprints of all."""
        return hashlib.sha256("".join(victim.fingerprint for victim in self.victims).encode()).hexdigest()[:32]

    @property
    def device(self) -> torch.device:
        return self.victims[0].device

    def logits(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N K"]:
        said = [victim.logits(xyz.to(victim.device)).log_softmax(1).to(xyz.device) for victim in self.victims]
        return torch.stack(said).mean(0)
