"""CIASA (Liu, Akhtar and Mian, 2022): a motion that a body could make, with bones of their own length."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.adam import adam, evened
from funnybone.attacks.base import register_attack
from funnybone.attacks.gradient import GradientAttack
from funnybone.attacks.plausibility import LAYERS, bone_cosines, implausibility, new_weights, trained
from funnybone.attacks.problem import Problem
from funnybone.attacks.rigid import free_joints, furthest_inside
from funnybone.errors import DataError
from funnybone.metrics.deviations import masked_mean
from funnybone.motion.dynamics import derivative, stencil
from funnybone.motion.kinematics import free_branches, outwardness, realign
from funnybone.skeletons import Skeleton
from funnybone.threat.base import Threat, towards


@dataclass(frozen=True)
class Reach(Threat):
    """No joint is farther from where it was than its own radius: CIASA's clipping, global or hierarchical.

    Parameters
    ----------
    radii : tuple of float
        One for each joint, in metres.

    Examples
    --------
    >>> clean = torch.zeros(1, 1, 1, 2, 2)
    >>> Reach((0.01, 0.1)).project(clean, clean + torch.tensor([3.0, 4.0]))
    tensor([[[[[0.0060, 0.0080],
               [0.0600, 0.0800]]]]])
    """

    radii: tuple[float, ...]

    def project(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T V C"]:
        delta = adversarial.double() - clean.double()
        size = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
        radii = torch.tensor(self.radii, dtype=delta.dtype, device=delta.device)[:, None]
        return torch.where(size > radii, towards(clean, delta * (radii / size.clamp(min=1e-300))), adversarial)

    def violation(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, " N"]:
        return self.excess(clean, adversarial).amax((1, 2))

    def excess(
        self, clean: Float[Tensor, "N M T V C"], adversarial: Float[Tensor, "N M T V C"]
    ) -> Float[Tensor, "N M T"]:
        size = torch.linalg.vector_norm(adversarial.double() - clean.double(), dim=-1)
        radii = torch.tensor(self.radii, dtype=size.dtype, device=size.device)
        return (size - radii * (1 + 1e-9)).amax(-1).clamp(min=0).to(clean.dtype)


def roughness(
    xyz: Float[Tensor, "N M T V C"], valid: Bool[Tensor, "N M T"], fps: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Return the mean squared joint acceleration of each clip, in (m/s^2)^2; zero where it has too few frames.

    Examples
    --------
    >>> fall = -9.81 / 2 * (torch.arange(4) / 30.0) ** 2
    >>> roughness(fall.reshape(1, 1, 4, 1, 1), torch.ones(1, 1, 4, dtype=torch.bool), torch.tensor([30.0])).sqrt()
    tensor([9.8100])
    """
    square = derivative(xyz, fps, 2).square().sum(-1)
    return masked_mean(square, stencil(valid, 2)[..., None]).nan_to_num()


@register_attack("ciasa")
@dataclass(frozen=True, kw_only=True)
class CIASA(GradientAttack):
    """Descend the goal's loss, roughness and implausibility with Adam; after every step, mend the bones.

    Every iterate, and so what is returned, keeps each bone's clean length in each frame, keeps each joint within its
    bound, and is inside the threat model. The three are visited in turn (threat model, bound, then bones from the root
    to the leaves), and what is left of a violation is taken back on the way to the clean pose, in each frame, along
    poses whose bones are right. Gradients are taken through the realignment, so that they say where a joint can go and
    what it takes along, and not how to stretch a bone. The three are scaled to root mean square one over a clip before
    they are weighted, so that the balance does not depend on how sure the victim is; with ``smoothness +
    plausibility`` below one the attack cannot stall.

    Any goal and any threat model will do. Where a threat model holds joints still (`funnybone.threat.Mask`), a joint
    moves only if all that hang on it may: bones that must keep their length carry whatever hangs on them.

    Parameters
    ----------
    steps : int
        Gradient steps for each clip.
    step_size : float
        About how far one step of Adam moves a coordinate, in metres.
    bound : float
        Farthest that a joint at the end of a limb may be from where it was, in metres.
    root_share : float
        The root's bound as a share of ``bound``; in between it grows with the number of bones from the root
        (hierarchical clipping). 1 is one bound for all (global clipping).
    joints : tuple of int or str, optional
        Joints that follow the gradient (localized mode), by index or name; what hangs on them is carried along. None:
        all of them.
    smoothness : float
        Weight of the mean squared acceleration of the attacked motion.
    plausibility : float
        Weight of the discriminator's least-squares loss on the angles between bones. 0 leaves it out.
    width : int
        Hidden units of the discriminator.
    rate : float
        Learning rate of the discriminator's Adam, one step for each step of the attack.

    References
    ----------
    Liu, Akhtar and Mian, "Adversarial Attack on Skeleton-Based Human Action Recognition", IEEE Transactions on Neural
    Networks and Learning Systems 33(4), 2022, arXiv 1909.06500. **A reconstruction**: no code of the authors is known
    to us, and the article's body was not available. The paper's, by its abstract and what others say of it: white-box
    and targeted; spatial realignment of bones; temporal smoothness; anthropomorphic plausibility learned against
    clean motion; modes that move some joints only. From the literature: the weighted sum, second differences, the
    matrix of bone angles, least squares, Adam. Ours: that gradients are taken through the realignment and scaled before
    they are weighted; the form of the realignment (`funnybone.motion.kinematics.realign`) and that it holds together
    with the bounds; the way the bound grows; goals other than targeted ones; a discriminator for each clip
    (`funnybone.attacks.plausibility`) with one hidden layer; and **every default** but ``rate``, which is that of
    published re-implementations. Those, in the code of BEAT and of RobustBenchHAR, neither realign bones nor let the
    discriminator's gradient reach the motion: figures that tables call CIASA after them are of another attack.

    Examples
    --------
    >>> import funnybone as fb
    >>> victim, clips = fb.create_victim("stgcn", data="synthetic"), fb.load_data("synthetic", split="test")[:2]
    >>> outcome = fb.create_attack("ciasa", steps=2)(victim, clips, goal=fb.goals.Specified(3))
    >>> bool(outcome.distances["bone_length_change"].nan_to_num().max() < 1e-5)
    True
    """

    steps: int = 200
    step_size: float = 0.001
    bound: float = 0.2
    root_share: float = 0.25
    joints: tuple[int | str, ...] | None = None
    smoothness: float = 0.3
    plausibility: float = 0.1
    width: int = 32
    rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("step_size", "bound", "rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise DataError(f"attack ciasa: {name} is {getattr(self, name)}", hint="give more than zero")
        for name in ("smoothness", "plausibility"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise DataError(
                    f"attack ciasa: {name} is {getattr(self, name)}", hint="give a weight, 0 to leave it out"
                )
        if not 0 < self.root_share <= 1:
            raise DataError(f"attack ciasa: root_share is {self.root_share}", hint="give a share, above 0, to 1")
        if self.width < 1:
            raise DataError(f"attack ciasa: width is {self.width}", hint="give at least 1")
        if self.joints is not None and not self.joints:
            raise DataError("attack ciasa: joints names none", hint="name some, or leave it out for all")

    def chosen(self, skeleton: Skeleton) -> Bool[Tensor, " V"]:
        """Return the joints that follow the gradient."""
        count = len(skeleton.joints)
        if self.joints is None:
            return torch.ones(count, dtype=torch.bool)
        indices = [skeleton.index(joint) if isinstance(joint, str) else joint for joint in self.joints]
        if not all(0 <= index < count for index in indices):
            raise DataError(f"attack ciasa: joints {indices} are not all of 0..{count - 1}")
        return torch.isin(torch.arange(count), torch.tensor(indices))

    def reach(self, skeleton: Skeleton) -> Reach:
        """Return the bound of each joint."""
        share = self.root_share + (1 - self.root_share) * outwardness(skeleton).double()
        return Reach(tuple((self.bound * share).tolist()))

    def start(self, problem: Problem) -> Float[Tensor, "N M T V C"]:
        skeleton = problem.clips.skeleton
        chosen = self.chosen(skeleton).to(problem.clean.device)
        problem.state["free"] = free_branches(free_joints(problem), skeleton) & chosen
        if self.plausibility:
            clean = bone_cosines(problem.clean, skeleton)
            problem.state.update(new_weights(problem.chance, clean.shape[-1], self.width), clean_cosines=clean)
        return problem.clean

    def step(
        self, problem: Problem, xyz: Float[Tensor, "N M T V C"], gradient: Float[Tensor, "N M T V C"], k: int
    ) -> Float[Tensor, "N M T V C"]:
        clips = problem.clips
        weights = {layer: problem.state[layer] for layer in LAYERS} if self.plausibility else {}
        xyz = xyz.detach().requires_grad_(True)
        with torch.enable_grad():
            pose = realign(xyz, problem.clean, clips.skeleton)
            terms = [(1.0, (pose * gradient).flatten(1).sum(1))]
            if self.smoothness:
                terms.append((self.smoothness, roughness(pose, clips.valid, clips.fps)))
            if self.plausibility:
                terms.append((self.plausibility, implausibility(pose, weights, clips.valid, clips.skeleton)))
            gradients = [torch.autograd.grad(term.sum(), xyz, retain_graph=True)[0] for _, term in terms]
        free = problem.state["free"][..., None]
        followed = torch.stack([w * evened(g, free) for (w, _), g in zip(terms, gradients, strict=True)]).sum(0)
        moved = xyz.detach() - self.step_size * adam(problem.state, "motion", followed, k)
        moved = self.mended(problem, moved)
        if self.plausibility:
            cosines = problem.state["clean_cosines"], bone_cosines(moved, clips.skeleton)
            problem.state.update(trained(problem.state, weights, *cosines, clips.valid, k, self.rate))
        return moved

    def mended(self, problem: Problem, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
        """Return clips near ``xyz``, inside the threat model and the bounds, whose bones have their clean length."""
        clean, skeleton = problem.clean, problem.clips.skeleton
        reach = self.reach(skeleton)
        for _ in range(2):
            xyz = realign(reach.project(clean, problem.constrain(xyz)), clean, skeleton)
        delta = xyz - clean

        def along(share: Tensor) -> Tensor:
            return realign(clean + share[..., None, None] * delta, clean, skeleton)

        return along(furthest_inside(problem.threat & reach, clean, along))
