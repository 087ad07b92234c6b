"""BEAT, Bayesian energy-based adversarial training (Wang et al., 2023): a posterior over appended networks."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from funnybone.clips import Clips
from funnybone.defenses.base import Defense, Progress, register_defense
from funnybone.defenses.posterior import Posterior
from funnybone.defenses.retraining import held_out_by
from funnybone.defenses.whole_network import WholeNetwork
from funnybone.errors import DataError
from funnybone.training import Trained
from funnybone.training.hardware import Precision
from funnybone.training.measure import hold_out
from funnybone.victims.access import offers
from funnybone.victims.averaged import MOST_MEMBERS, Answer, Averaged, Input, has_features
from funnybone.victims.base import Victim
from funnybone.victims.load import create_victim


@register_defense("beat")
@dataclass(frozen=True, kw_only=True)
class BEAT(Defense):
    """Append small networks to a frozen victim, sample their weights, and average what they say.

    The model is of a clean motion, its adversary and its label together, ``p(x, x~, y) = exp(F(x)[y] + F(x~)[y] -
    lambda d(x, x~)) / Z`` with ``F = f(phi(x)) + g(x)``: g is the victim, f a network of two layers on its features or
    logits, of which the weights have a posterior. Each round draws adversaries from ``p(x~ | x, y)`` and motions from
    ``p(x)`` by Langevin dynamics, then weights by adaptive Hamiltonian Monte Carlo, of all chains at once. What the
    victim shows of clean clips is asked once, of the others when they are drawn. The hardened victim is an `Averaged`.

    Its adversaries are no worst cases: they climb towards their label, so they are likely motions near the clean one.
    ``adversary="worst"`` descends instead, within the ball that the others begin in; that is ours, to tell what an
    adversary's shape contributes.

    Everything is in metres and through the victim's own preprocessing, where the released code is in standardised
    coordinates. The preset ``published`` has its settings, with one unit of its coordinates taken for a metre:
    rectified heads on logits, the sum of their logits as the answer, the mean logit in place of the log of the sum of
    exponentials, chains of p(x) that never go on, no position in d, and the optimiser as released. Its adversaries
    climb a mean over a batch of 32: of each one's gradient a 32nd counts there, of its noise all
    (``adversary_power``). Of the chains of p(x) no mean is known to us: they climb by the whole step. Not repeated are:
    chains of both kinds that follow the sum of all members whichever of them trains (each of ours follows one member),
    adversaries made anew for each batch and member, how the appended networks begin (ours: normal weights, no biases),
    bone lengths of standardised coordinates, weights chosen on the test set, gradients of the base's weights. The
    printed settings and results of the paper are not known to us: this is a reconstruction, and the defaults are ours.

    How near its weights come to draws of their posterior is not tested: the sampler is, where gradients are exact or
    their noise is known. Here they are those of mini-batches, and all of their second moment V is taken for noise, as
    in the sampler's paper; V rests after burn-in; a weight with ``V^{1/2} > 2 friction / step_size^2``, where gradients
    are large, gets no noise at all; and validation clips choose the round.

    Without a gradient (a victim that offers scores alone) the adversaries and motions come from ``surrogate``, to whose
    logits the same networks are appended, and the victim is asked for its scores of them. Without a surrogate both
    terms are left out: what remains is a Bayesian classifier of its scores, and the settings that the hardened victim
    names have both weights at zero.

    Parameters
    ----------
    members : int
        N, networks in the average; 5 in the released code.
    chains : int or None
        Chains of weights that are run side by side; each gives ``members / chains`` samples, its last. None: as many as
        members.
    input : {"features", "logits", "both"}
        phi(x): what enters the victim's last layer, its logits, or both.
    hidden : int or None
        Width of f; None: as many as there are classes.
    rectified : bool
        Heads as released: see `funnybone.victims.averaged.Heads`.
    answer : {"probabilities", "logits"}
        ``"logits"``: the sum of the members' logits, as released.
    noise : float
        Of the appended networks' inputs when they answer: see `Averaged`.
    clean_weight, adversary_weight, motion_weight : float
        w_c of ``log p(y | x)``, w_x~ of the adversaries' labels, w_x of ``log p(x)``; 1, 0.1 and 0.1 in the released
        code.
    adversary : {"sgld", "worst"}
        How x~ is found.
    langevin_steps : int
        K, for both kinds of chains; 10 as released.
    langevin_step : float
        eta, in square metres.
    langevin_noise : float
        sigma, as a share of the noise of temperature one; 5e-3 as released.
    adversary_power : float
        What the chains of p(x~ | x, y) raise it to: a factor of their gradient, and not of their noise.
    share : float
        Of the clips, in each round another: they get a new adversary, and the others keep theirs. 1: all, in each
        round. Adversaries are nearly all that a fit costs.
    radius : float
        u, in metres: x~ begins within it of x, in each coordinate. Worst cases stay there, in steps of a quarter of it.
    distance_weight : float
        lambda, in one over square metres.
    orders : tuple of int
        Derivatives in d, from frame to frame: see `joint_model.motion_distance`.
    position : bool
        Whether positions are in d.
    partition : {"lse", "mean"}
        What stands for log p(x): the log of the sum of exponentials of the logits, or as released their mean.
    negatives : int
        Chains of p(x) that each round moves on.
    buffer : int
        Chains of p(x) that are remembered, 0 for none.
    anew : float
        Share of them that begin anew.
    box : float or None
        Where chains of p(x) begin: at coordinates between plus and minus so many metres, as released. None: within
        ``radius`` of training clips. From far away a few steps reach no motion that is likely, and what tells recorded
        motion from such chains makes the appended networks steep: SGN was weaker with them than alone
        (``benchmarks/beat_parts.py``).
    sampler : {"sghmc", "released"}
        What moves the weights: see `funnybone.sampling`.
    step_size : float
        eps of it. Chosen on logistic regressions of 30 to 2000 clips, at the default steps, by the normal distribution
        around their mode (``benchmarks/choose_step_size.py``): 0.01 leaves the members' mean up to 5.7 of its standard
        deviations off, 0.03 at most 0.44 with a spread within 12 %, 0.1 is up to 2.9 times too wide. Held-out training
        clips of SGN and the synthetic set do not tell 0.01 to 0.04 apart, by their clean loss.
    friction : float
        Share of the momentum that a step loses.
    prior : float or None
        Standard deviation of the weights' normal prior, times the root of their layer's inputs; None: flat.
    rounds : int
        Rounds of adversaries and weights.
    steps : int
        Steps of the weights in each.
    batch : int
        Clips of a step, for each chain its own.
    burn_in : int
        Rounds in which the sampler adapts and of which no sample is kept.
    thinning : int
        Rounds from sample to sample.
    surrogate : str or None
        A victim with a gradient, by the name or file that `create_victim` takes; asked in place of the base's gradient.
    full : bool
        Train the whole network on the same terms instead, one network without a posterior: see `WholeNetwork`.
    epochs, lr, from_scratch
        Of that, as in `Retraining`.

    References
    ----------
    Wang, Diao, Tan and Guo, "Defending Black-box Skeleton-based Human Activity Classifiers", AAAI 2023. Springenberg et
    al., "Bayesian Optimization with Robust Bayesian Neural Networks", NIPS 2016, for the sampler.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("sgn", data="synthetic"), fb.load_data("synthetic", split="test")[:8]
    >>> small = {"hidden": 8, "rounds": 2, "burn_in": 1, "steps": 5, "langevin_steps": 1, "negatives": 2}
    >>> hardened = fb.create_defense("beat", members=2, **small).fit(victim, clips)
    >>> hardened
    Averaged('sgn.synthetic+beat', 14 classes, gradients)
    """

    resumes: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {
            "input": "logits",
            "hidden": None,
            "rectified": True,
            "answer": "logits",
            "clean_weight": 1.0,
            "adversary_weight": 0.1,
            "motion_weight": 0.1,
            "langevin_steps": 10,
            "langevin_step": 2.0,
            "langevin_noise": 5e-3,
            "adversary_power": 1 / 32,
            "share": 1.0,
            "radius": 0.1,
            "distance_weight": 1e-5,
            "position": False,
            "partition": "mean",
            "negatives": 32,
            "buffer": 0,
            "box": 1.0,
            "sampler": "released",
            "step_size": 1e-3,
            "prior": None,
            "rounds": 20,
            "steps": 66,
            "batch": 32,
            "burn_in": 0,
        }
    }

    members: int = 5
    chains: int | None = None
    input: Input = "features"
    hidden: int | None = 64
    rectified: bool = False
    answer: Answer = "probabilities"
    noise: float = 0.0
    clean_weight: float = 1.0
    adversary_weight: float = 0.1
    motion_weight: float = 0.01
    adversary: Literal["sgld", "worst"] = "sgld"
    langevin_steps: int = 10
    langevin_step: float = 1e-3
    langevin_noise: float = 5e-3
    adversary_power: float = 1.0
    share: float = 0.2
    radius: float = 0.005
    distance_weight: float = 100.0
    orders: tuple[int, ...] = (1, 2, 3)
    position: bool = True
    partition: Literal["lse", "mean"] = "lse"
    negatives: int = 10
    buffer: int = 20
    anew: float = 0.05
    box: float | None = None
    sampler: Literal["sghmc", "released"] = "sghmc"
    step_size: float = 0.03
    friction: float = 0.05
    prior: float | None = 1.0
    rounds: int = 6
    steps: int = 100
    batch: int = 64
    burn_in: int = 2
    thinning: int = 1
    surrogate: str | None = None
    full: bool = False
    epochs: int | None = None
    lr: float | None = None
    from_scratch: bool = False

    def __post_init__(self) -> None:
        chains = self.chains or self.members
        if self.chains is not None and (self.chains < 1 or self.members % chains):
            raise DataError(
                f"defense beat: chains is {self.chains}", hint=f"give a number that divides members, {self.members}"
            )
        least = {"members": 1, "hidden": 1, "langevin_steps": 1, "negatives": 1, "rounds": 1, "steps": 1, "batch": 1}
        least |= {"thinning": 1, "buffer": 0, "burn_in": 0}
        least |= dict.fromkeys(("noise", "adversary_weight", "motion_weight", "langevin_noise", "distance_weight"), 0)
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= lowest):
                raise DataError(f"defense beat: {name} is {value}", hint=f"give at least {lowest}")
        if self.members > MOST_MEMBERS:
            raise DataError(f"defense beat: members is {self.members}", hint=f"give at most {MOST_MEMBERS}")
        above = ("clean_weight", "langevin_step", "adversary_power", "share", "radius", "box", "step_size")
        for name in (*above, "friction", "prior"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise DataError(f"defense beat: {name} is {value}", hint="give a number above 0")
        for name in ("friction", "anew", "share"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"defense beat: {name} is {getattr(self, name)}", hint="give a share, at most 1")
        idle = ("surrogate", "noise") if self.full else ("epochs", "lr", "from_scratch")
        for name in idle:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise DataError(
                    f"defense beat: {name} is {getattr(self, name)} and full is {self.full}, so that it means nothing",
                    hint=f"leave it out, or set full={not self.full}".lower(),
                )
        if not all(order in (1, 2, 3, 4) for order in self.orders):
            raise DataError(f"defense beat: orders is {self.orders}", hint="name derivatives from 1 to 4")
        needed = self.burn_in + self.thinning * (self.members // chains - 1) + 1
        if self.rounds < needed:
            raise DataError(
                f"defense beat: rounds is {self.rounds}", hint=f"the first members are there after {needed}"
            )

    @property
    def trains(self) -> bool:
        return self.full

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "orders": list(self.orders)}

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
        """Return the victim with networks appended, or trained anew where it is ``full``: see `Defense.fit`.

        ``precision`` and ``trained`` are of the latter, as in `Retraining.fit`.
        """
        if self.full:
            whole = WholeNetwork(beat=self, epochs=self.epochs, lr=self.lr, from_scratch=self.from_scratch)
            return whole.fit(
                victim,
                clips,
                validation=validation,
                generator=generator,
                progress=progress,
                checkpoint=checkpoint,
                precision=precision,
                trained=trained,
            )
        if precision != "fp32":
            raise DataError(f"defense beat: precision is {precision} and full is False", hint="leave it out")
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        source = self._source(victim)
        for part in (clips, validation):
            if part is not None:
                victim.check(part)
        if validation is None:
            # As the victim's own were, so that where these are its training clips, those choose that it has not seen.
            clips, validation = hold_out(clips, *held_out_by(victim))
        used = self if source else dataclasses.replace(self, adversary_weight=0.0, motion_weight=0.0)
        clips = clips.to(victim.device)
        posterior = Posterior(used, victim, source, clips, validation and validation.to(victim.device), seed)
        heads = posterior.fit(progress, checkpoint)
        hardened = Averaged(
            victim,
            heads,
            input=self.input,
            answer=self.answer,
            temperature=1 / self.members,
            margin=posterior.margin(heads),
            noise=self.noise,
            defense=self.name,
        )
        hardened.defense_settings = used.settings()
        return hardened

    def _source(self, victim: Victim) -> Victim | None:
        """Whose gradient adversaries follow."""
        if not offers(victim, "scores"):
            raise DataError(
                f"defense beat: victim {victim.name!r} offers {victim.access}", hint="it needs scores at least"
            )
        _refuse_chance(victim)
        if self.input != "logits" and not has_features(victim):
            raise DataError(f"defense beat: victim {victim.name!r} does not show its features", hint="set input=logits")
        if self.surrogate is None:
            return victim if offers(victim, "gradients") else None
        surrogate = create_victim(self.surrogate, device=str(victim.device))
        _refuse_chance(surrogate)
        alike = surrogate.skeleton.same_layout(victim.skeleton) and surrogate.classes == victim.classes
        if self.input != "logits" or not alike or not offers(surrogate, "gradients"):
            raise DataError(
                f"defense beat: surrogate is {self.surrogate!r}, input is {self.input!r}",
                hint="a surrogate stands in for logits: it needs gradients, and the same skeleton and classes",
            )
        return surrogate


def _refuse_chance(victim: Victim) -> None:
    if victim.stochastic:
        raise DataError(
            f"defense beat: victim {victim.name!r} is stochastic: what it shows of a clip is not one function of it",
            hint="append networks to a victim that gives one answer to one question",
        )
