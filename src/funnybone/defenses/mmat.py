"""MMAT (Diao et al., 2024), a reconstruction: training on a mixture of adversaries on and off the motion manifold."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.as_text import attack_from
from funnybone.attacks.pgd import PGD
from funnybone.clips import Clips
from funnybone.defenses.base import Progress, register_defense
from funnybone.defenses.crafting import WorstCases
from funnybone.metrics.natural import learn_natural_motion
from funnybone.models import Model
from funnybone.outcome import Outcome
from funnybone.threat import Linf
from funnybone.training import Batch, Method
from funnybone.victims.base import Victim


@register_defense("mmat")
@dataclass(frozen=True, kw_only=True)
class MMAT(WorstCases):
    """Train on clean clips, on adversaries that are natural motions, and on adversaries that are not, in shares.

    A reconstruction. Known of the paper are its motive and its ingredients: adversaries on and off the manifold of
    natural motion, made in advance against the undefended victim, that keep the label of the clip they were made of.
    Its loss, shares, budgets and schedule are not available to us, and no figure measured with this is MMAT's.

    Both kinds are made once, of training clips that the victim gets right. Off the manifold: projected gradient descent
    on positions, in a ball. On it: an attack that turns joints, so that bones keep their length; of what it makes only
    that is taken which the test of natural motion, learned from the training clips, takes for natural. Both must
    still fool the victim, and lie near the clean clip, or their label might no longer be true. Each time that a clip is
    shown, chance says as what; a clip without an adversary of that kind is shown as it is. Epochs are judged by fresh
    adversaries off the manifold: those made in advance are of a network that is no longer there.

    Training that is resumed makes the same adversaries again first. With both shares 0 it is plain training.

    Parameters
    ----------
    epochs, lr, from_scratch
        As in `Retraining`.
    radius, steps, step_size
        Of the adversaries off the manifold: as in `WorstCases`.
    on, off : float
        Shares of what is shown that is adversarial, on and off the manifold; the rest is clean.
    turning : str
        The attack that stays on the manifold, with its settings; ``"basar"`` is that of the paper, at thousands of
        questions a clip.
    farthest : float
        Largest mean displacement of a joint, in metres, with which an adversary keeps its label.

    References
    ----------
    Diao et al., "Understanding the Vulnerability of Skeleton-based Human Activity Recognition via Black-box Attack",
    Pattern Recognition 153, 2024. All defaults are this library's.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("sgn", data="synthetic"), fb.load_data("synthetic", split="train")[:2]
    >>> turning = "angles search='smart steps=1'"
    >>> fb.create_defense("mmat", epochs=1, steps=1, turning=turning).fit(victim, clips).defense
    'mmat'
    """

    on: float = 1 / 3
    off: float = 1 / 3
    turning: str = "angles slack=0.3"
    farthest: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for share in ("on", "off"):
            self.check(
                share, 0 <= getattr(self, share) <= 1 and self.on + self.off <= 1, "give shares of at most 1 in all"
            )
        self.check("radius", self.radius > 0, "give metres, above zero; without adversaries, on=0 and off=0")
        self.check("farthest", self.farthest > 0, "give metres, above zero")
        attack_from(self.turning)  # said now, where there is none of that name

    def prepared(self, victim: Victim, clips: Clips, generator: torch.Generator, progress: Progress) -> Method:
        if self.on == self.off == 0:
            return self
        made: dict[str, Outcome] = {}
        if self.on:
            natural = learn_natural_motion(clips)
            attack = attack_from(self.turning)
            tell = _teller(progress, "adversaries on the manifold")
            made["on"] = attack(victim, clips, natural=natural, starts=clips, generator=generator, progress=tell)
        if self.off:
            attack = PGD(steps=self.steps, step_size=self.step_size)
            tell = _teller(progress, "adversaries off the manifold")
            made["off"] = attack(victim, clips, threat=Linf(self.radius), generator=generator, progress=tell)
        return Mixture(
            self,
            clips.ids,
            {kind: outcome.adversarial.xyz for kind, outcome in made.items()},
            {kind: self.keeps(outcome) for kind, outcome in made.items()},
        )

    def keeps(self, outcome: Outcome) -> Bool[Tensor, " N"]:
        """Return which adversaries are trained on: those that fool, are near, and are natural where that was asked."""
        natural = outcome.distances.get("on_manifold", torch.ones_like(outcome.violation))
        return outcome.success & (outcome.distances["position_m"] <= self.farthest) & (natural > 0.5)

    def judged_on(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        return self.worst(batch) if self.on + self.off > 0 else batch.clips.xyz


@dataclass(frozen=True, eq=False)
class Mixture(Method):
    """What `MMAT` trains with: the adversaries of the training clips.

    Parameters
    ----------
    defense : MMAT
        Whose shares hold.
    ids : tuple of str
        The training clips.
    xyz : dict of str to Float[Tensor, "N M T V C"]
        Their adversaries of each kind, ``"on"`` and ``"off"``.
    there : dict of str to Bool[Tensor, "N"]
        Which clips have one.
    """

    defense: MMAT
    ids: tuple[str, ...]
    xyz: dict[str, Tensor]
    there: dict[str, Tensor]

    def describe(self) -> dict[str, Any]:
        found = {kind: int(there.sum()) for kind, there in self.there.items()}
        return {**self.defense.describe(), "adversaries": {**found, "clips": len(self.ids)}}

    def prepare(self, network: Model) -> None:
        self.defense.prepare(network)

    def taken(self, clips: Clips, generator: torch.Generator) -> Clips:
        draws = torch.rand(len(clips), generator=generator)
        rows = torch.tensor([self._places[name] for name in clips.ids])
        xyz, below = clips.xyz, 0.0
        for kind in self.xyz:
            share = getattr(self.defense, kind)
            chosen = (draws >= below) & (draws < below + share) & self.there[kind][rows]
            xyz = torch.where(chosen.to(xyz.device)[:, None, None, None, None], self.xyz[kind][rows].to(xyz), xyz)
            below += share
        return clips.with_xyz(xyz)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ids)}

    def judged_on(self, batch: Batch) -> Float[Tensor, "N M T V C"]:
        return self.defense.judged_on(batch)


def _teller(progress: Progress, text: str) -> Any:
    """Of the training nothing is done yet while adversaries are made."""
    return lambda done, successes, total: progress(0, total, f"{text}: {done} of {total} clips, {successes} fool")
