"""SimBA (Guo et al., 2019) on motion: one joint, one axis, a smooth bump over some frames at a time."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from funnybone.attacks.base import register_attack
from funnybone.attacks.problem import Problem, free
from funnybone.attacks.scored import RandomSearch
from funnybone.errors import DataError
from funnybone.skeletons import Skeleton
from funnybone.threat.ball import ball_of


@register_attack("simba")
@dataclass(frozen=True, kw_only=True)
class SimBA(RandomSearch):
    """Try small movements in random order, forwards and then backwards, and keep what makes the loss fall.

    The published directions are pixels, or the lowest frequencies of images. Those here are movements: one joint of one
    person goes along one axis and comes back, along a raised cosine over some frames. None is tried twice; the search
    ends when all were tried. What cannot move, padding, absent persons and what a mask holds, is not tried.

    Works in any threat model, which is projected onto, and without one: what bounds it then is the number of steps.

    Parameters
    ----------
    queries : int
        Most queries for each clip; a budget of the call that is smaller holds.
    loss : {"goal", "ce", "margin", "dlr"}
        What is made small: see `funnybone.attacks.losses`. The paper's, the probability, falls where the goal's does.
    step_size : float
        How far a joint goes in the middle of a movement.
    unit : {"metres", "radius"}
        What ``step_size`` is given in; ``"radius"`` is that of the threat model's ball.
    windows : int
        How many movements follow each other over the valid frames of a person. Each lasts for twice its share, so that
        neighbours overlap: with as many windows as frames, a movement is one frame.
    carries : bool
        Whether a joint takes all joints along that hang on it, as the bones of a real arm would.

    References
    ----------
    Guo et al., "Simple Black-box Adversarial Attacks", ICML 2019, algorithm 1.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("simba", queries=5)(victim, clips, threat=fb.threat.Linf(0.01))
    >>> outcome.violation.max() <= 1e-6
    tensor(True)
    """

    step_size: float = 0.02
    unit: Literal["metres", "radius"] = "metres"
    windows: int = 8
    carries: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step_size < float("inf"):
            raise DataError(f"attack simba: step_size is {self.step_size}", hint="give a length, above zero")
        if self.unit not in ("metres", "radius"):
            raise DataError(f"attack simba: unit is {self.unit!r}", hint="it is metres or radius")
        if self.windows < 1:
            raise DataError(f"attack simba: windows is {self.windows}", hint="give at least 1")

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        self._height(problem)  # said now, where there is no ball
        state, movable = problem.state, free(problem)[..., 0]
        state["time"] = share_of_way(problem.clips.valid)
        state["turn"] = torch.zeros(len(problem), dtype=torch.long, device=movable.device)
        state["order"], state["many"] = self._order(problem, movable)
        return problem.clean

    def _order(
        self, problem: Problem, movable: Bool[Tensor, "N M T V"]
    ) -> tuple[Int[Tensor, "N P"], Int[Tensor, " N"]]:
        """The movements of each clip in random order, and how many of them, the first ones, move anything."""
        windows = torch.arange(self.windows, device=movable.device)
        felt = bump(problem.state["time"][..., None], windows, self.windows) > 0  # (N, M, T, W)
        joints = torch.einsum("nmtw,nmtv->nmvw", felt.float(), movable.float())
        moves = self._carried(problem) @ joints > 0
        moves = moves[:, :, :, None].expand(-1, -1, -1, problem.clean.shape[-1], -1).flatten(1)
        drawn = problem.chance.uniform(moves.shape[1])
        return torch.where(moves, drawn, 2).argsort(dim=1, stable=True), moves.sum(1)

    def heard(self, problem: Problem, xyz: Float[Tensor, "N M T V C"], loss: Float[Tensor, " N"]) -> None:
        first = "lowest" not in problem.state  # the clean clip is no movement
        super().heard(problem, xyz, loss)
        turn = problem.state["turn"]
        # Even turns go forwards; one that leads nowhere is followed by the same backwards, any other by the next.
        again = ~problem.state["accepted"] & (turn % 2 == 0)
        problem.state["turn"] = turn if first else torch.where(again, turn + 1, (turn // 2 + 1) * 2)

    def finished(self, problem: Problem) -> Bool[Tensor, " N"]:
        return problem.state["turn"] // 2 >= problem.state["many"]

    def proposed(self, problem: Problem, kept: Float[Tensor, "N M T V C"], k: int) -> Float[Tensor, "N M T V C"]:
        state, (_, m, _, v, c) = problem.state, kept.shape
        chosen = state["order"].gather(1, state["turn"][:, None] // 2).squeeze(1)
        window, axis = chosen % self.windows, chosen // self.windows % c
        joint, person = chosen // (self.windows * c) % v, chosen // (self.windows * c * v)
        height = torch.where(state["turn"] % 2 == 0, 1, -1) * self._height(problem)
        when = bump(state["time"], window[:, None, None], self.windows)
        who = torch.nn.functional.one_hot(person, m)
        where = self._carried(problem)[joint]
        along = torch.nn.functional.one_hot(axis, c)
        return kept + torch.einsum("n,nm,nmt,nv,nc->nmtvc", height, who.float(), when, where, along.float())

    def _height(self, problem: Problem) -> float:
        return self.step_size * (ball_of(problem.threat).radius if self.unit == "radius" else 1)

    def _carried(self, problem: Problem) -> Float[Tensor, "V V"]:
        """Which joints move with each."""
        joints = len(problem.clips.skeleton.joints)
        rows = hanging(problem.clips.skeleton) if self.carries else torch.eye(joints)
        return rows.to(problem.clean.device)


def share_of_way(valid: Bool[Tensor, "N M T"]) -> Float[Tensor, "N M T"]:
    """Return how far on in a person's valid frames each of them is, from zero to one.

    Examples
    --------
    >>> share_of_way(torch.tensor([[[True, False, True]]]))
    tensor([[[0.2500, 0.2500, 0.7500]]])
    """
    return (valid.cumsum(2) - 0.5) / valid.sum(2, keepdim=True).clamp(min=1)


def bump(time: Float[Tensor, "..."], window: Int[Tensor, "..."], windows: int) -> Float[Tensor, "..."]:
    """Return the height of a raised cosine, from 0 to 1, around the middle of one of some windows.

    Two neighbours add up to one wherever both are felt.

    Examples
    --------
    >>> bump(torch.tensor([0.0, 0.25, 0.5, 0.75]), torch.tensor(0), 2)
    tensor([0.5000, 1.0000, 0.5000, 0.0000])
    """
    off = (time * windows - window - 0.5).abs().clamp(max=1)
    return (1 + torch.cos(torch.pi * off)) / 2


@lru_cache(maxsize=64)
def hanging(skeleton: Skeleton) -> Float[Tensor, "V V"]:
    """Return for each joint, as ones, those that go where it goes: itself, and what hangs on it.

    Examples
    --------
    >>> hanging(Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1)))[1]
    tensor([0., 1., 1.])
    """
    with torch.inference_mode(False):
        rows = torch.eye(len(skeleton.joints))
        for joint in reversed(skeleton.topological_order[1:]):
            rows[skeleton.parents[joint]] += rows[joint]
        return rows
