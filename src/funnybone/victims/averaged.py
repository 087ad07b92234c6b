"""A base with small networks appended to it, whose predictions are averaged: a Bayesian classifier after training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models.registry import Model
from funnybone.victims.access import offers
from funnybone.victims.base import Victim
from funnybone.victims.hardened import Hardened, register_form
from funnybone.victims.torch import TorchVictim

Input = Literal["features", "logits", "both"]
Answer = Literal["probabilities", "logits"]
MOST_MEMBERS = 1000  # each is a victim of its own in `Averaged.ways_in`, and a file may name any number
_PARTS = ("weight1", "bias1", "weight2", "bias2")


@dataclass(frozen=True)
class Heads:
    """Networks of two layers, all evaluated at once: members first.

    Parameters
    ----------
    weight1, bias1, weight2, bias2 : Tensor
        Of the layers: (S, D, H), (S, H), (S, H, K) and (S, K) for S members, D inputs, H hidden units, K classes.
    centre, spread : Tensor
        (D,): what is subtracted from each input, and what it is divided by after that.
    rectified : bool
        As in the released code of BEAT: ReLUs on the base's logits and on the output, none between the layers, so that
        evidence against a class is lost, and gradients with it. For comparison.

    Examples
    --------
    >>> heads = Heads.draw(3, 10, 8, 4, generator=torch.Generator().manual_seed(0))
    >>> heads(torch.ones(5, 10), torch.ones(5, 4)).shape
    torch.Size([3, 5, 4])
    """

    # Plain tensors: what a file hands in is looked at by `check`, in sentences.
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    centre: Tensor
    spread: Tensor
    rectified: bool = False

    @classmethod
    def draw(
        cls,
        members: int,
        inputs: int,
        hidden: int,
        classes: int,
        *,
        scale: float = 0.0,
        rectified: bool = False,
        generator: torch.Generator,
    ) -> "Heads":
        """Return heads with random first layers; last layers ``scale`` times as large as these, zero by default.

        With zero the heads say nothing, and a base with them appended answers as it does alone.
        """
        first = torch.randn(members, inputs, hidden, generator=generator) / math.sqrt(inputs)
        last = scale * torch.randn(members, hidden, classes, generator=generator) / math.sqrt(hidden)
        biases = torch.zeros(members, hidden), torch.zeros(members, classes)
        return cls(first, biases[0], last, biases[1], torch.zeros(inputs), torch.ones(inputs), rectified)

    def __len__(self) -> int:
        return len(self.weight1)

    def __getitem__(self, member: int) -> "Heads":
        """One of them."""
        return self.changed({name: getattr(self, name)[member : member + 1] for name in _PARTS})

    def __call__(self, inputs: Float[Tensor, "*own N D"], logits: Float[Tensor, "*own N K"]) -> Float[Tensor, "S N K"]:
        """Logits of each member: the base's plus what its head adds; of the same clips, or of each member's own."""
        hidden = torch.matmul((inputs - self.centre) / self.spread, self.weight1) + self.bias1[:, None]
        if self.rectified:
            return logits.relu() + (torch.matmul(hidden, self.weight2) + self.bias2[:, None]).relu()
        return logits + torch.matmul(hidden.relu(), self.weight2) + self.bias2[:, None]

    def of(self, member: Int[Tensor, " N"]) -> "Heads":
        """Return one network for each of N clips, that of the member which is named, for `apart`."""
        return self.changed({name: getattr(self, name)[member] for name in _PARTS})

    def apart(self, inputs: Float[Tensor, "N D"], logits: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """Logits of each of N networks of its own clip alone.

        Examples
        --------
        >>> heads = Heads.draw(3, 10, 8, 4, scale=1.0, generator=torch.Generator().manual_seed(0))
        >>> inputs, logits = torch.ones(2, 10), torch.ones(2, 4)
        >>> first = heads.of(torch.tensor([2, 0])).apart(inputs, logits)
        >>> bool(torch.allclose(first[0], heads(inputs, logits)[2, 0]))
        True
        """
        return self(inputs[:, None], logits[:, None])[:, 0]

    def changed(self, parts: Mapping[str, Any]) -> "Heads":
        """The same with other tensors."""
        return Heads(**{**vars(self), **parts})

    def flat(self) -> Float[Tensor, "S P"]:
        """What a sampler moves, as one vector for each member."""
        return torch.cat([getattr(self, name).flatten(1) for name in _PARTS], 1)

    def filled(self, flat: Float[Tensor, "S P"]) -> "Heads":
        """The same networks with these weights: views, so that gradients reach the vectors."""
        sizes = [getattr(self, name)[0].numel() for name in _PARTS]
        parts = zip(_PARTS, flat.split(sizes, 1), strict=True)
        return self.changed({name: part.reshape(-1, *getattr(self, name).shape[1:]) for name, part in parts})

    def tensors(self) -> dict[str, Tensor]:
        """All of their tensors, by name; none is a view of a longer one's part."""
        return {name: value.contiguous() for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str) -> "Heads":
        """The same on a device."""
        return self.changed({name: value.to(device) for name, value in self.tensors().items()})

    def check(self, inputs: int, classes: int) -> None:
        """Raise `DataError` unless they are finite, not too many, and fit so many inputs and so many classes."""
        members, _, hidden = self.weight1.shape if self.weight1.ndim == 3 else (0, 0, 0)
        wanted = {
            "weight1": (members, inputs, hidden),
            "bias1": (members, hidden),
            "weight2": (members, hidden, classes),
            "bias2": (members, classes),
            "centre": (inputs,),
            "spread": (inputs,),
        }
        for name, value in self.tensors().items():
            if value.shape != wanted[name] or not members or not value.dtype == torch.float32:
                raise DataError(
                    f"appended networks: {name} is {value.dtype} of shape {tuple(value.shape)}",
                    hint=f"for {inputs} inputs and {classes} classes, float32 of shape {wanted[name]} fits",
                )
            if not torch.isfinite(value).all() or (name == "spread" and bool((value <= 0).any())):
                raise DataError(f"appended networks: {name} has a number that is not finite, or not above 0")
        if members > MOST_MEMBERS or not hidden:
            raise DataError(
                f"appended networks: {members} of {hidden} hidden units",
                hint=f"give at most {MOST_MEMBERS}, each of at least one unit",
            )


def has_features(victim: Victim) -> bool:
    """Whether one pass of a victim gives the features that enter its last layer, beside its logits."""
    return isinstance(victim, TorchVictim) and isinstance(victim.module, Model)


def seen(
    victim: Victim, xyz: Float[Tensor, "N M T V C"], kind: Input
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N K"]]:
    """Return what appended networks take of a victim's answer, and its logits: one pass gives both.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> [part.shape[1] for part in seen(victim, clips.xyz, "both")]
    [270, 14]
    """
    if kind == "logits":
        logits = victim.logits(xyz)
        return logits, logits
    assert isinstance(victim, TorchVictim)
    network: Any = victim.module
    features = network.features(xyz if victim.preprocess is None else victim.preprocess(xyz))
    logits = network.classify(features)
    return (torch.cat([features, logits], 1) if kind == "both" else features), logits


def input_length(victim: Victim, kind: Input) -> int:
    """Return how many numbers `seen` gives of each clip; a network is asked with a batch of no clips."""
    classes = len(victim.classes)
    if kind == "logits":
        return classes
    network: Any = victim.module  # type: ignore[attr-defined]
    shape = (0, network.persons, network.frames, len(network.skeleton.joints), network.in_channels)
    with torch.no_grad():
        features = network.features(torch.zeros(shape, device=victim.device))
    return features.shape[1] + (classes if kind == "both" else 0)


@register_form
class Averaged(Hardened):
    """Logits of a base plus those of each of S small networks; the answer is the mean of their probabilities.

    ``logits`` are the log of that mean, so they do not grow with the number of members. The base's weights are not
    touched, and where the heads add nothing its probabilities are the answer. A base that offers scores alone is as
    good as another, with its logits as input; then there is no gradient either.

    Parameters
    ----------
    base : Victim
        One that offers scores or gradients.
    heads : Heads
        Their inputs are as many as ``input`` has numbers.
    input : {"features", "logits", "both"}
        What they see of a clip. Features are those that enter the last layer of one of this library's networks.
    answer : {"probabilities", "logits"}
        ``"logits"``: the mean of the members' logits, over ``temperature``. With one over the number of members that is
        their sum, which the released code of BEAT has, and which hides gradients as any sharp softmax does.
    temperature : float
        For ``answer="logits"``.
    margin : float
        How far the members' mean logits typically have the best class before the second, where the one who made this
        has measured it: what an attack that does not want to be fooled by their scale divides them by.
    noise : float
        Standard deviation of Gaussian noise on each input of the heads, in units of its ``spread``. Not zero makes the
        victim stochastic; draws of torch's global generator are repeatable.
    defense, name : str, optional
        See `Hardened`.

    References
    ----------
    Wang et al., "Defending Black-box Skeleton-based Human Activity Classifiers", AAAI 2023: the post-train strategy,
    ``f(phi(x)) + g(x)``, and the average over f.

    Examples
    --------
    >>> import funnybone as fb
    >>> base, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:4]
    >>> heads = Heads.draw(5, 256, 16, 14, generator=torch.Generator().manual_seed(0))
    >>> victim = Averaged(base, heads)
    >>> bool(torch.allclose(victim.logits(clips.xyz), base.logits(clips.xyz).log_softmax(1), atol=1e-5))
    True
    >>> list(victim.ways_in())
    ['base', 'member 0', 'member 1', 'member 2', 'member 3', 'member 4', 'rescaled']
    """

    form: ClassVar[str] = "averaged"

    def __init__(
        self,
        base: Victim,
        heads: Heads,
        *,
        input: Input = "features",
        answer: Answer = "probabilities",
        temperature: float = 1.0,
        margin: float = 1.0,
        noise: float = 0.0,
        defense: str = "averaged",
        name: str | None = None,
    ) -> None:
        super().__init__(base, defense=defense, name=name)
        _check(base, input, answer, temperature, margin, noise)
        heads.check(input_length(base, input), len(base.classes))
        self.heads, self.input, self.answer = heads.to(base.device), input, answer
        self.temperature, self.margin, self.noise = temperature, margin, noise
        self.stochastic, self.steady = base.stochastic or noise > 0, self.steady and not noise
        if base.parameters is not None:
            self.parameters = base.parameters + heads.flat().numel()

    def members(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "S N K"]:
        """Return the logits of each member; the base is asked once."""
        inputs, logits = seen(self.base, xyz, self.input)
        if self.noise:
            inputs = inputs + self.noise * self.heads.spread * torch.randn_like(inputs)
        return self.heads(inputs, logits)

    def logits(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N K"]:
        """Return the log of the mean probability, or what ``answer`` says in its place."""
        return combined(self.members(xyz), self.answer, self.temperature)

    def own_ways(self) -> dict[str, Victim]:
        """Return each member, and the mean logits brought to margins of about one."""
        # A temperature of the sum of all would sharpen the logits of one, and hide the gradients that it is there for.
        own: dict[str, Any] = {"answer": "probabilities", "temperature": 1.0}
        alone = {f"member {k}": self._like(f"member {k}", heads=self.heads[k], **own) for k in range(len(self.heads))}
        rescaled = self._like("rescaled", answer="logits", temperature=self.margin)
        return {**alone, "rescaled": rescaled}

    def _like(self, called: str, *, heads: Heads | None = None, **settings: Any) -> "Averaged":
        defense, name = self.defense or self.form, f"{self.name}/{called}"
        return Averaged(self.base, heads or self.heads, **{**self._plain, **settings}, defense=defense, name=name)

    @property
    def _plain(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("input", "answer", "temperature", "margin", "noise")}

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values that, with `tensors`, make it again around its base."""
        return {**self._plain, "rectified": self.heads.rectified}

    def tensors(self) -> dict[str, Tensor]:
        """Return the heads' tensors."""
        return self.heads.tensors()

    @classmethod
    def restore(
        cls, base: Victim, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], *, defense: str, name: str | None
    ) -> "Averaged":
        """Return the victim that `settings` and `tensors` describe."""
        numbers = ("temperature", "margin", "noise")
        wanted = {"input", "answer", "rectified", *numbers}
        if set(settings) != wanted or set(tensors) != {*_PARTS, "centre", "spread"}:
            raise DataError(
                f"averaged: settings {', '.join(sorted(settings))} and tensors {', '.join(sorted(tensors))}",
                hint=f"settings are {', '.join(sorted(wanted))}, tensors {', '.join((*_PARTS, 'centre', 'spread'))}",
            )
        for key in numbers:
            if isinstance(settings[key], bool) or not isinstance(settings[key], int | float):
                raise DataError(f"averaged: {key} is {settings[key]!r}", hint="give a number")
        if not isinstance(settings["rectified"], bool):
            raise DataError(f"averaged: rectified is {settings['rectified']!r}", hint="give true or false")
        own = {key: settings[key] for key in ("input", "answer")} | {key: float(settings[key]) for key in numbers}
        _check(base, **own)
        return cls(base, Heads(**tensors, rectified=settings["rectified"]), **own, defense=defense, name=name)

    def to(self, device: torch.device | str) -> "Averaged":
        moved = super().to(device)
        assert isinstance(moved, Averaged)
        moved.heads = self.heads.to(moved.base.device)
        return moved


def combined(members: Float[Tensor, "S N K"], answer: Answer, temperature: float) -> Float[Tensor, "N K"]:
    """Return the logits of the average over members: see `Averaged`."""
    return members.mean(0) / temperature if answer == "logits" else mean_log_probability(members)


def mean_log_probability(logits: Float[Tensor, "S N K"]) -> Float[Tensor, "N K"]:
    """Return the log of the mean over members of the softmax, computed without leaving logarithms.

    Examples
    --------
    >>> mean_log_probability(torch.tensor([[[200.0, 0.0]], [[0.0, 200.0]]])).exp()
    tensor([[0.5000, 0.5000]])
    """
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def _check(base: Victim, input: str, answer: str, temperature: float, margin: float, noise: float) -> None:
    for what, value, choices in (("input", input, get_args(Input)), ("answer", answer, get_args(Answer))):
        if value not in choices:
            raise DataError(f"averaged: {what} is {value!r}", hint=f"it is one of {', '.join(choices)}")
    for what, number in {"temperature": temperature, "margin": margin}.items():
        if not (math.isfinite(number) and number > 0):
            raise DataError(f"averaged: {what} is {number}", hint="give a number above 0")
    if not (math.isfinite(noise) and noise >= 0):
        raise DataError(f"averaged: noise is {noise}", hint="give 0 or more")
    if not offers(base, "scores"):
        raise DataError(f"victim {base.name!r} offers {base.access}", hint="networks are appended to scores")
    if input != "logits" and not has_features(base):
        raise DataError(
            f"victim {base.name!r} does not show its features", hint="input=logits needs no more than scores"
        )
