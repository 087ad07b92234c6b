"""The exams of attacks and of defenses."""

import contextlib
import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from funnybone.attacks.base import Attack
from funnybone.attacks.verdict import repeatable
from funnybone.clips import Clips
from funnybone.defenses.base import Defense
from funnybone.errors import DataError
from funnybone.goals import AnythingBut, Goal, Specified
from funnybone.outcome import Outcome
from funnybone.testing.analytic import linear_victim, random_clips
from funnybone.testing.victim_exam import check_victim
from funnybone.threat import BoneLength, Linf, Mask, Threat
from funnybone.threat.ball import Ball
from funnybone.victims.base import Victim, predict
from funnybone.victims.files import save_victim
from funnybone.victims.load import create_victim
from funnybone.victims.torch import TorchVictim

DISTANCE = 0.05  # of the victim's border to each clip, L2, in metres


def check_attack(attack: Attack, *, threat: Threat | None = None, every: bool | None = None) -> None:
    """Examine an attack on a victim whose answer is known.

    It must stay inside the threat model, or refuse one that is composed of several, leave padding and absent persons
    alone, tell the truth about success, find what there is to find, give the same result for the same generator, and to
    a clip whatever clips are beside it, ask no more than it says and than a budget allows, leave the victim and the
    global random state as they were, and survive being saved and loaded.

    Parameters
    ----------
    attack : Attack
        The one to examine, with its settings.
    threat : Threat, optional
        A threat model that it accepts and in which it can succeed; L-infinity at 20 mm by default, which is 4.5 times
        what the nearest adversary of each clip needs.
    every : bool, optional
        Whether every clip must fall in there, or one is enough; by default every one of an attack that sees gradients.

    Examples
    --------
    >>> import funnybone as fb
    >>> check_attack(fb.create_attack("pgd", steps=20))
    """
    assert dataclasses.is_dataclass(attack), "an attack is a frozen dataclass of its settings"
    assert type(attack).__dataclass_params__.frozen, "an attack is frozen: calling it must not change it"  # type: ignore[attr-defined]
    threat = threat or Linf(0.02)
    every = attack.access == "gradients" if every is None else every
    clips = random_clips(6, persons=2, absent=True)
    victim = linear_victim(clips, distance=DISTANCE)
    before = {key: value.clone() for key, value in victim.module.state_dict().items()}
    xyz = clips.xyz.clone()
    chance = torch.get_rng_state()

    with _counted(victim) as asked:
        first = attack(victim, clips, threat=threat, generator=torch.Generator().manual_seed(3))
    again = attack(victim, clips, threat=threat, generator=torch.Generator().manual_seed(3))

    _check_truth(attack, victim, clips, threat, first)
    _check_count(first, asked)
    assert torch.equal(first.adversarial.xyz, again.adversarial.xyz), "the same generator gave another result"
    assert torch.equal(chance, torch.get_rng_state()), "the global random state was used; use problem.chance"
    assert torch.equal(xyz, clips.xyz), "the clean clips were changed in place"
    _check_alone(attack, victim, clips, threat, first)
    for key, value in victim.module.state_dict().items():
        assert torch.equal(before[key], value), f"the victim's {key} was changed"
    fallen = int(first.success.sum())
    assert fallen > 0, "no clip fell although the border is near"
    assert fallen == len(clips) or not every, (
        f"{len(clips) - fallen} of {len(clips)} clips stand{_reach(victim, threat)}"
    )

    for other in (threat & BoneLength(0.05), threat & Mask(joints=(0, 1, 2))):
        try:
            outcome = attack(victim, clips, threat=other)
        except DataError:  # it may say that it cannot
            continue
        _check_truth(attack, victim, clips, other, outcome)
    _check_truth(attack, victim, clips, threat, attack(victim, clips, threat=threat, goal=Specified(1)), Specified(1))

    wrong = dataclasses.replace(clips, labels=1 - clips.labels)
    nothing = attack(victim, wrong, threat=threat)
    assert not nothing.attacked.any(), "clips that the victim gets wrong are not attacked"
    assert torch.equal(nothing.adversarial.xyz, clips.xyz), "a clip that is not attacked must not move"
    _check_saved_outcome(first, clips, threat)


def _check_alone(attack: Attack, victim: TorchVictim, clips: Clips, threat: Threat, first: Outcome) -> None:
    """Attack an absent person, padding and a plain clip each alone, then everything within a budget."""
    some = [len(clips) - 1, 0, 4]
    call = functools.partial(attack, victim, threat=threat, starts=clips)
    with _counted(victim) as asked:
        few = call(clips[some], generator=torch.Generator().manual_seed(3), batch_size=1)
    _check_count(few, asked)
    assert torch.equal(few.success, first.success[some]), "a clip's result depends on the clips beside it"
    difference = float((few.adversarial.xyz - first.adversarial.xyz[some]).abs().max())
    assert difference < 1e-5, f"a clip beside other clips ended {difference} m from where it ends alone"
    assert torch.equal(few.queries, first.queries[some]), "a clip's queries depend on the clips beside it"

    budget = 3
    # One clip at a time: the victim cannot tell on whose account it is asked, only how often.
    for who, draws in ((clips, 1), (clips, 2), *((clips[[place]], 1) for place in some)):
        with _counted(victim) as asked:
            limited = call(who, budget=budget, draws=draws)
        most = int(limited.queries.max())
        assert most <= budget, f"{most} queries with a budget of {budget}, each answer the mean of {draws}"
        _check_count(limited, asked)


@contextlib.contextmanager
def _counted(victim: TorchVictim) -> Iterator[list[int]]:
    """Give a list that grows, at each question, by the number of clips in it."""
    asked: list[int] = []
    handle = victim.module.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    try:
        yield asked
    finally:
        handle.remove()


def _check_count(outcome: Outcome, asked: list[int]) -> None:
    """The evaluator asks about each clip once before and once after; all else is the attack's."""
    seen, said = sum(asked) - 2 * len(outcome), int(outcome.queries.sum())
    assert seen == said, f"the attack asked the victim {seen} times and counted {said} queries"


def _reach(victim: TorchVictim, threat: Threat) -> str:
    """How many times as far as the border a threat model that is one ball reaches."""
    if not isinstance(threat, Ball):
        return ""
    normal = victim.module.get_parameter("plane.normal")[None]
    times = float((threat.steepest(normal) * normal).sum()) / DISTANCE
    return f", though {threat!r} reaches {times:.1f} times as far as the border"


def _check_saved_outcome(outcome: Outcome, clips: Clips, threat: Threat) -> None:
    """What was reported must follow from the file alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcome"
        outcome.save(path)
        loaded = Outcome.load(path)
    for field in dataclasses.fields(Outcome):
        value = getattr(outcome, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(loaded, field.name)), f"{field.name} was not saved as it was"
    for name in ("xyz", "valid", "labels"):
        same = torch.equal(getattr(outcome.adversarial, name), getattr(loaded.adversarial, name))
        assert same, f"the adversarial clips' {name} was not saved as it was"
    recomputed = threat.bind(clips.skeleton).violation(clips.xyz, loaded.adversarial.xyz)
    assert torch.equal(recomputed, outcome.violation), "the violation reported is not that of the clips in the file"
    for group in ("distances", "others"):
        values, kept = getattr(outcome, group), getattr(loaded, group)
        assert kept.keys() == values.keys(), f"{group} were lost"
        for name, value in values.items():
            same = torch.allclose(value, kept[name], rtol=0, atol=0, equal_nan=True)
            assert same, f"{group}: {name} was not saved as it was"
    assert loaded.provenance == json.loads(json.dumps(outcome.provenance)), "the provenance was not saved as it was"


def _check_truth(
    attack: Attack,
    victim: Victim,
    clips: Clips,
    threat: Threat,
    outcome: Outcome,
    goal: Goal | None = None,
) -> None:
    goal = goal or AnythingBut()
    xyz = outcome.adversarial.xyz
    assert xyz.dtype == torch.float32, f"adversarial clips are {xyz.dtype}"
    assert torch.equal(xyz[~clips.valid], clips.xyz[~clips.valid]), "padding or an absent person was moved"
    measured = threat.bind(clips.skeleton).violation(clips.xyz, xyz)
    assert torch.equal(measured, outcome.violation), "the violation is not that of the clips returned"
    assert float(measured.max()) <= 1e-6, f"outside of {threat!r} by {float(measured.max())}"
    predicted, logits = predict(victim, outcome.adversarial)
    assert logits is not None
    achieved = goal.achieved(logits, outcome.reference)
    assert not bool((outcome.success & ~achieved).any()), "a success is claimed that the victim does not confirm"
    assert not bool((outcome.success & ~outcome.attacked).any()), "a clip that was not attacked counts as success"
    assert torch.equal(predicted, outcome.prediction), "the prediction is not that of the clips returned"
    if attack.access == "nothing":
        assert not bool(outcome.queries.any()), "an attack that sees nothing has asked the victim"
    else:
        assert bool((outcome.queries[outcome.attacked] > 0).all()), "queries were not counted"
    if attack.access != "gradients":
        assert not bool(outcome.gradients.any()), f"an attack with access {attack.access} used gradients"


def check_defense(defense: Any, victim: Victim, clips: Clips, *, resumes: bool = False) -> None:
    """Examine a defense: a victim goes in, another comes out, the first stays as it was.

    What comes out must pass the exam of victims and name its defense. Where the base can be written to a file, so must
    be what is made of it, and the file has to give back the same victim and say with which settings it was hardened.

    Parameters
    ----------
    defense : Defense
        With settings small enough to fit in a test.
    victim : Victim
        Who is to be hardened.
    clips : Clips
        What it is fitted on.
    resumes : bool
        Whether it keeps a checkpoint: it is then stopped half-way as well, and has to end as if it had not been.

    Examples
    --------
    >>> import funnybone as fb
    >>> clips = random_clips(4)
    >>> check_defense(fb.create_defense("lowpass"), linear_victim(clips), clips)
    """
    before, xyz = victim.fingerprint, clips.xyz.clone()
    chance = torch.get_rng_state()
    told: list[Any] = []
    trains = getattr(defense, "trains", False)
    more = {"precision": "fp32", "trained": told.append} if trains else {}
    hardened = defense.fit(victim, clips, generator=torch.Generator().manual_seed(0), **more)
    assert isinstance(hardened, Victim), f"fit returned {type(hardened).__name__}, not a victim"
    assert bool(told) == trains, f"it says that it trains: {trains}; told of trainings: {len(told)}"
    assert hardened is not victim, "fit returned the victim that it was given"
    assert victim.fingerprint == before, "the base victim was changed"
    assert hardened.defense, "the hardened victim does not name its defense"
    assert hardened.defense != victim.defense, "the hardened victim names the defense of its base"
    assert torch.equal(xyz, clips.xyz), "the clips were changed"
    assert torch.equal(chance, torch.get_rng_state()), "the global random state was used; use the generator"
    check_victim(hardened, clips)
    with tempfile.TemporaryDirectory() as folder:
        _check_saved(defense, victim, hardened, clips, Path(folder))
        if resumes:
            _check_resumed(defense, victim, hardened, clips, Path(folder) / "killed" / "checkpoint")


def _check_saved(defense: Any, victim: Victim, hardened: Victim, clips: Clips, folder: Path) -> None:
    path = folder / "hardened.safetensors"
    try:
        save_victim(folder / "base.safetensors", victim)
    except DataError:  # then what is made of it cannot be written, either
        return
    record = save_victim(path, hardened)
    if isinstance(defense, Defense):
        layer = record.defense or {}
        while layer.get("name") != defense.name and layer.get("base"):  # what was in front of the victim still is
            layer = layer["base"]
        said, meant = layer.get("settings"), json.loads(json.dumps(defense.settings()))
        assert said == meant, f"its file says that its settings were {said}; they were {meant}"
    loaded = create_victim(path)
    for key in ("fingerprint", "defense", "stochastic", "exact_gradients", "access", "frames", "persons"):
        found, meant = getattr(loaded, key), getattr(hardened, key)
        assert found == meant, f"read from its file, its {key} is {found}; it was {meant}"
    answers = []
    for one in (hardened, loaded):
        with repeatable(one, torch.Generator().manual_seed(0)):
            labels, logits = predict(one, clips)
        answers.append(labels if logits is None else logits)
    assert torch.equal(*answers), "read from its file it answers otherwise"


class _KilledError(Exception):
    """Raised by the exam, half-way."""


def _check_resumed(defense: Any, victim: Victim, hardened: Victim, clips: Clips, checkpoint: Path) -> None:
    def kill(done: int, total: int, text: str) -> None:
        if 2 * done >= total:
            raise _KilledError(text)

    def fit(progress: Callable[[int, int, str], None] | None) -> Victim:
        generator = torch.Generator().manual_seed(0)
        return defense.fit(victim, clips, generator=generator, checkpoint=checkpoint, progress=progress)

    checkpoint.parent.mkdir()
    try:
        fit(kill)
        raise AssertionError("it does not tell how far it is")
    except _KilledError:
        assert any(checkpoint.parent.iterdir()), "stopped half-way, it left no checkpoint"
    assert fit(None).fingerprint == hardened.fingerprint, "stopped and resumed it ends otherwise"
