"""What hardened victims are that leave another victim as it is: something around an untouched base."""

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.registry import Registry
from funnybone.victims.base import Victim
from funnybone.victims.fingerprint import fingerprint


class Fitted(BaseModel):
    """What a defense was fitted on, as a file says it; plain values that two fits share only where they are the same.

    Parameters
    ----------
    data, split
        The clips' name, and which part of them they are taken from.
    n, held_out
        Clips that it was fitted on, and others that chose; none where the defense held out its own, or chose nothing.
    seed
        Of all that was drawn.
    sha256
        Of all of these clips.

    Examples
    --------
    >>> from funnybone.testing import random_clips
    >>> clips = random_clips(8)
    >>> Fitted.of(clips[:6], clips[6:], split="train", seed=0).held_out
    2
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    split: str | None
    n: Annotated[int, Field(ge=0)]
    held_out: Annotated[int, Field(ge=0)]
    seed: int
    sha256: str

    @classmethod
    def of(cls, clips: Clips, held_out: Clips | None, *, split: str | None, seed: int) -> "Fitted":
        """Return what a fit on these clips has to say."""
        parts = [clips] if held_out is None else [clips, held_out]
        content = hashlib.sha256("/".join("".join(part.fingerprints()) for part in parts).encode()).hexdigest()
        chose = 0 if held_out is None else len(held_out)
        return cls(data=clips.name, split=split, n=len(clips), held_out=chose, seed=seed, sha256=content)


def seconds_since_undefended(base: Victim, seconds: float) -> float | None:
    """Return the wall time of a fit with those that made its base; None where the base's is not known.

    Examples
    --------
    >>> from funnybone.testing import linear_victim, random_clips
    >>> seconds_since_undefended(linear_victim(random_clips(2)), 2.5)
    2.5
    """
    before = 0.0 if base.defense is None else base.fit_seconds
    return None if before is None else before + seconds


class Way(str):
    """What a way into a victim is called, which also says whether one answer of it is as good as many.

    An attack is given ways under their names, and of their victims nothing but answers.

    Parameters
    ----------
    name : str
        As tables call it.
    steady : bool
        Whether one answer is enough: it never differs, or is a mean itself.

    Examples
    --------
    >>> Way("base", steady=True) == "base"
    True
    """

    steady: bool

    def __new__(cls, name: str, steady: bool = False) -> "Way":
        way = super().__new__(cls, name)
        way.steady = steady
        return way


class Hardened(Victim):
    """A victim around another one, whose weights stay what they were.

    What the base says of itself (skeleton, classes, access, ...) holds for the hardened victim too, unless a form sets
    it otherwise. A form says with `settings` and `tensors` all that, with its base, makes it again, so that a file can
    hold it: see `funnybone.victims.files`.

    Parameters
    ----------
    base : Victim
        The undefended victim.
    defense : str
        What hardened it.
    name : str, optional
        How tables call it; the base's name, a plus sign and the defense's by default.

    Attributes
    ----------
    form : str
        What this kind of hardened victim is called in files.
    defense_settings : dict
        Those that the defense had when it made this victim.
    fitted : Fitted or None
        On what; None where nobody said.
    steady : bool
        Whether one answer is enough for an attacker who descends it: answers do not differ, or each is a mean of many.
    """

    form: ClassVar[str]

    def __init__(self, base: Victim, *, defense: str, name: str | None = None) -> None:
        self.base, self.defense = base, defense
        self.name = name or f"{base.name}+{defense}"
        self.skeleton, self.classes, self.access = base.skeleton, base.classes, base.access
        self.frames, self.persons, self.up, self.unit = base.frames, base.persons, base.up, base.unit
        self.stochastic, self.exact_gradients = base.stochastic, base.exact_gradients
        self.steady = _steady(base)
        self.parameters = base.parameters
        self.defense_settings: dict[str, Any] = {}
        self.fitted: Fitted | None = None

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that, with `tensors`, make it again around its base."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what it has learned; nothing, unless a form says otherwise."""
        return {}

    @classmethod
    @abstractmethod
    def restore(
        cls, base: Victim, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], *, defense: str, name: str | None
    ) -> "Hardened":
        """Return the victim that `settings` and `tensors` describe, which nobody has looked at before.

        Raises
        ------
        DataError
            For settings and tensors that describe none.
        """

    def around(self, base: Victim) -> "Hardened":
        """Return the same form around another base, which names its defense first.

        Raises
        ------
        DataError
            For a base that it does not fit around.
        """
        defense = "+".join(filter(None, (base.defense, self.defense)))
        name = f"{base.name}+{self.defense}"
        other = type(self).restore(base, self.settings, self.tensors(), defense=defense, name=name)
        other.defense_settings, other.fitted = self.defense_settings, self.fitted
        return other

    def own_ways(self) -> dict[str, Victim]:
        """Return the ways in that this form adds; none, unless it says otherwise."""
        return {}

    def ways_in(self) -> dict[str, Victim]:
        """Return the base, the form's own ways, and the form around each way into the base: see `Victim.ways_in`.

        Of several layers, each way into an inner one is seen through all outer ones, as in ``"filtered member 0"``.
        They are as many as all layers have of their own, and two for each layer: layers add up and do not multiply.
        """
        ways = {"base": self.base, **self.own_ways()}
        for name, way in self.base.ways_in().items():
            try:
                ways[f"{self.form} {name}"] = self.around(way)
            except DataError:  # corrections of another network, say; without this layer the way still is a surrogate
                ways[f"base, {name}"] = way
        # Without a layer its gradient is taken for that of the identity, which is of use where it hides gradients: the
        # outermost one, in "base", or all at once, down to the network that nothing is around. Other inner ways without
        # the outer layers are neither the victim nor the undefended network, and fool it no better than these.
        inner = self.base
        while isinstance(inner, Hardened):
            inner = inner.base
        if inner is not self.base:
            ways["innermost base"] = inner
        return {Way(name, _steady(way)): way for name, way in ways.items()}

    @property
    def fingerprint(self) -> str:
        """Hash of the base's fingerprint, the form, its settings and its tensors."""
        return fingerprint(self.base.fingerprint, self.form, self.settings, self.tensors())

    @property
    def device(self) -> torch.device:
        """Where its base is."""
        return self.base.device

    def to(self, device: torch.device | str) -> "Hardened":
        """Return the victim on a device; where it is now, when its base cannot be moved."""
        moved = copy.copy(self)
        moved.base = self.base.to(device) if hasattr(self.base, "to") else self.base
        return moved


def _steady(victim: Victim) -> bool:
    return victim.steady if isinstance(victim, Hardened) else not victim.stochastic


forms: Registry[type[Hardened]] = Registry("form of hardened victim", "funnybone.victims")


def register_form(form: type[Hardened]) -> type[Hardened]:
    """File a kind of hardened victim under its ``form``; a decorator."""
    return forms.register(form.form)(form)
