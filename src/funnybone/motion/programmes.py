"""Box-constrained quadratic programmes of paths over time: near to one path, with the accelerations of another."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

FIRST = 24  # steps of splitting before the first try by active sets; before each further one twice as many
ROUNDS = 6  # of active sets in one try
ACCURACY = 1e-10  # of the way that splitting alone has to go, what may be left
CHUNK = 4096  # paths that are solved together: more do not fit into a processor's cache, fewer leave it idle
ROUNDING = 4 * torch.finfo(torch.float64).eps  # relative: by how much arithmetic alone may miss a limit


@dataclass(frozen=True, eq=False)
class Paths:
    """Programmes that are solved together, one for each of P paths of T frames.

    Parameters
    ----------
    aim : Float64[Tensor, "T P"]
        What paths shall be near to.
    still : Float64[Tensor, "T P"]
        Whose accelerations they shall have.
    low, high : Float64[Tensor, "P"]
        Limits; infinite where there is none.
    """

    aim: Float64[Tensor, "T P"]
    still: Float64[Tensor, "T P"]
    low: Float64[Tensor, " P"]
    high: Float64[Tensor, " P"]

    def __getitem__(self, which: Int64[Tensor, " K"]) -> "Paths":
        """Return some of them."""
        return Paths(*(part[..., which] for part in (self.aim, self.still, self.low, self.high)))


class Splitting(NamedTuple):
    """What steps of Peaceman-Rachford splitting are made of."""

    stiffness: float  # rho
    damped: Float64[Tensor, "T T"]  # inverse of H + rho I
    reflect: Float64[Tensor, "T T"]  # 2 rho damped - I


class Programme(NamedTuple):
    """What programmes of one length, weight and pattern of frames that count have in common: their matrix H."""

    weights: Float64[Tensor, "T_less_2 1"]  # of accelerations: w, or zero where they do not count
    bands: tuple[list[float], list[float], list[float]]  # of H: its diagonal, one beside it, two beside it
    inverse: Float64[Tensor, "T T"]  # of H
    guess: Splitting  # which finds soon where limits are met
    sure: Splitting  # whose error shrinks by a known factor
    steps: int  # that the sure one needs


@lru_cache(maxsize=16)
def programme(counted: tuple[bool, ...], weight: float, device: torch.device) -> Programme:
    """Return what programmes share whose T - 2 accelerations count or not, with one weight above zero."""
    with torch.inference_mode(False):
        weights = weight * torch.tensor(counted, dtype=torch.float64, device=device)[:, None]
        eye = torch.eye(len(counted) + 2, dtype=torch.float64, device=device)
        second = eye.diff(n=2, dim=0)
        matrix = eye + second.mT @ (weights * second)
        inverse = torch.linalg.inv(matrix)
        # Limits are met in single frames and short stretches. Which, splitting finds soonest if it pulls at a frame
        # about as hard as the path withstands there.
        guess = _splitting(matrix, 1 / float(inverse.diagonal().min()))
        # Eigenvalues lie between 1 and 1 + 16 w. Pulled like this, errors along each shrink by one factor at least.
        sure = _splitting(matrix, math.sqrt(1 + 16 * weight))
        rate = max(ACCURACY, (sure.stiffness - 1) / (sure.stiffness + 1))
        return Programme(
            weights=weights,
            bands=(matrix.diagonal().tolist(), matrix.diagonal(1).tolist(), matrix.diagonal(2).tolist()),
            inverse=inverse,
            guess=guess,
            sure=sure,
            steps=math.ceil(math.log(ACCURACY) / math.log(rate)),
        )


def _splitting(matrix: Tensor, stiffness: float) -> Splitting:
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    damped = torch.linalg.inv(matrix + stiffness * eye)
    return Splitting(stiffness, damped, 2 * stiffness * damped - eye)


@torch.no_grad()
def nearest_paths(paths: Paths, by: Programme) -> Float64[Tensor, "T P"]:
    r"""Return the paths that solve programmes of one matrix.

    .. math:: \min_x \|x - aim\|^2 + w \|\ddot x - \ddot x_{still}\|^2
              \quad \text{subject to} \quad low \le x_t \le high

    Paths that meet no limit are a product with the inverse of :math:`H = I + w D^\top D`. The others are known once it
    is known in which frames they rest on a limit: what is left is a system of five bands. Some steps of
    Peaceman-Rachford splitting, first in float32, guess these frames; a primal-dual active set method mends the guess,
    and knows when it is right: no free frame is beyond a limit, and no other is pulled away from its own. Then the path
    is exact. Active sets may go in circles, splitting does not: paths that are not settled after a few rounds get a
    better guess, of twice as many steps. Where such a guess would take as many as splitting needs by itself, it goes
    its way alone, in float64, to a stated accuracy: its error shrinks by at least
    :math:`(\sqrt\kappa - 1) / (\sqrt\kappa + 1)` a step with :math:`\kappa = 1 + 16 w`.

    No gradient flows through it.

    Parameters
    ----------
    paths : Paths
        The programmes.
    by : Programme
        What they share.

    References
    ----------
    Peaceman and Rachford, 1955; Hintermüller, Ito and Kunisch, "The primal-dual active set strategy as a semismooth
    Newton method", SIAM Journal on Optimization 13, 2002.

    Examples
    --------
    A single frame that is drawn away takes its neighbours along.

    >>> aim = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)[:, None]
    >>> limit = torch.tensor([0.2], dtype=torch.float64)
    >>> by = programme((True,) * 3, 10.0, aim.device)
    >>> nearest_paths(Paths(aim, torch.zeros_like(aim), -limit, limit), by).flatten()
    tensor([0.1402, 0.1771, 0.2000, 0.1771, 0.1402], dtype=torch.float64)
    """
    found = paths.still + by.inverse @ (paths.aim - paths.still)
    left = ((found < paths.low) | (found > paths.high)).any(0).nonzero().flatten()
    guesses = found[:, left]
    # Elimination is many small steps, one frame after the other, which only a processor is good at.
    steps = FIRST if left.device.type == "cpu" else by.steps
    while len(left) and steps < by.steps:
        waiting = []
        for part in torch.arange(len(left), device=left.device).split(CHUNK):
            some = paths[left[part]]
            # Few paths need more than the first guess, but some of these need it exact.
            kind = torch.float32 if steps == FIRST else torch.float64
            guess = _split(some, guesses[:, part], by.guess, steps, kind)
            guess = torch.where(guess.isfinite(), guess, guesses[:, part])  # beyond what float32 can tell
            path, settled = _active_sets(some, guess, by)
            found[:, left[part[settled]]] = path[:, settled]
            guesses[:, part] = guess
            waiting.append(part[~settled])
        kept = torch.cat(waiting)
        left, guesses = left[kept], guesses[:, kept]
        steps *= 2
    if len(left):
        for part in torch.arange(len(left), device=left.device).split(CHUNK):
            found[:, left[part]] = _split(paths[left[part]], guesses[:, part], by.sure, by.steps, torch.float64)
    return torch.minimum(torch.maximum(found, paths.low), paths.high)


def _split(paths: Paths, start: Tensor, by: Splitting, steps: int, kind: torch.dtype) -> Tensor:
    """Where steps of splitting lead from a start; beyond limits by the multipliers over rho."""
    pull = paths.aim - (1 + by.stiffness) * paths.still
    shift = (2 * (paths.still + by.damped @ pull)).to(kind)
    low, high, path = (part.to(kind, copy=True) for part in (paths.low, paths.high, start))
    reflect, mirrored = by.reflect.to(kind), torch.empty_like(path)
    for _ in range(steps):
        torch.lerp(path, path.clamp(low, high), 2.0, out=mirrored)
        torch.addmm(shift, reflect, mirrored, out=path)
    return path.double()


def _active_sets(paths: Paths, guess: Tensor, by: Programme) -> tuple[Tensor, Tensor]:
    """Paths after a few rounds of the primal-dual active set method, and which are settled, which is: optimal."""
    left = torch.arange(guess.shape[1], device=guess.device)
    found, settled = torch.empty_like(guess), torch.zeros_like(left, dtype=torch.bool)
    # Rounding moves paths by about the root of what H does to it, and multipliers by the whole. Without this leave,
    # frames that barely touch a limit would come and go.
    leave = ROUNDING * by.sure.stiffness * torch.maximum(paths.aim.abs(), paths.still.abs()).amax(0)
    path, above, below = guess, guess > paths.high, guess < paths.low
    for _ in range(ROUNDS):
        # Whoever is on a limit is put there, and stays while the free frames move to where nothing pulls at them.
        path = path.clamp(paths.low, paths.high)
        pull = _pull(paths, path, by)
        path += _move(pull, (~(above | below)).double(), by)
        hold = leave * by.sure.stiffness
        rises = (path > paths.high + leave) | (above & (pull > -hold))
        sinks = (path < paths.low - leave) | (below & (pull < hold))
        found[:, left] = path
        done = ((rises == above) & (sinks == below)).all(0)
        settled[left] = done
        rest = (~done).nonzero().flatten()
        if not len(rest):
            break
        left, leave, paths = left[rest], leave[rest], paths[rest]
        path, above, below = path[:, rest], rises[:, rest], sinks[:, rest]
    return found, settled


def _pull(paths: Paths, path: Tensor, by: Programme) -> Tensor:
    """What draws each frame of a path: half the negative gradient, by differences, which round less than H does."""
    bent = (paths.still - path).diff(n=2, dim=0).mul_(by.weights)
    pull = paths.aim - path
    pull[2:] += bent
    pull[1:-1].sub_(bent, alpha=2)
    pull[:-2] += bent
    return pull


def _move(pull: Float64[Tensor, "T P"], free: Float64[Tensor, "T P"], by: Programme) -> Float64[Tensor, "T P"]:
    """How far free frames (1, others 0) move until nothing pulls at them; ``pull`` becomes what then pulls at others.

    It solves H y = pull on the free frames by elimination, from the first frame to the last and back. Frames are a
    recurrence, hence the loop over them: each is one step for all paths. With the reciprocal of its pivot set to zero,
    a frame that is not free neither moves nor passes anything on. No pivot is below one, as no eigenvalue of H is.
    """
    inverses, couplings, moves = (torch.empty_like(pull) for _ in range(3))  # couplings: of a frame with the next
    pulls, frees = pull.unbind(0), free.unbind(0)
    inverse, coupling, move = inverses.unbind(0), couplings.unbind(0), moves.unbind(0)
    diagonal, beside, beyond = by.bands
    last = len(pulls) - 1
    pivot, share = torch.empty_like(pulls[0]), torch.zeros_like(pulls[0])
    for t in range(last + 1):
        if t >= 2:
            torch.mul(inverse[t - 2], -(beyond[t - 2] ** 2), out=pivot).add_(diagonal[t])
            pulls[t].sub_(move[t - 2], alpha=beyond[t - 2])
        else:
            pivot.fill_(diagonal[t])
        if t >= 1:
            pivot.addcmul_(coupling[t - 1], share, value=-1)
            pulls[t].addcmul_(coupling[t - 1], move[t - 1], value=-1)
        torch.div(frees[t], pivot, out=inverse[t])
        torch.mul(pulls[t], inverse[t], out=move[t])
        if t < last:
            torch.mul(share, -beyond[t - 1] if t >= 1 else 0.0, out=coupling[t]).add_(beside[t])
            torch.mul(coupling[t], inverse[t], out=share)
    for t in reversed(range(last)):
        if t + 2 <= last:
            pulls[t].sub_(move[t + 2], alpha=beyond[t])
        pulls[t].addcmul_(coupling[t], move[t + 1], value=-1)
        torch.mul(pulls[t], inverse[t], out=move[t])
    return moves
