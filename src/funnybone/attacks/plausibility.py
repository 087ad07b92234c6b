"""Whether a pose looks like a body: a small discriminator of the angles between bones, one for each clip.

A discriminator that clips share would couple them: what becomes of a clip would depend on the clips beside it. So each
clip has its own, trained on its own frames alone, clean ones against attacked ones; all of a batch are trained at once,
as one product of matrices for each layer. Weights and moments lie in `Problem.state` and leave with their clip.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.attacks.adam import adam
from funnybone.chance import Chance
from funnybone.metrics.deviations import masked_mean
from funnybone.skeletons import Skeleton

LAYERS = ("hidden", "hidden_bias", "out", "out_bias")

Weights = dict[str, Tensor]


@lru_cache(maxsize=64)
def _pairs(bones: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.triu_indices(bones, bones, 1, device=device)


def bone_cosines(xyz: Float[Tensor, "*batch V C"], skeleton: Skeleton) -> Float[Tensor, "*batch P"]:
    """Return the cosine of the angle between every two bones of each pose; zero at a bone without length.

    The part of CIASA's matrix ``Psi_ij = <b_i, b_j> / (|b_i| |b_j|)`` above its diagonal: the rest is the same again.
    Differentiable; a bone without length passes no gradient.

    Examples
    --------
    >>> arm = Skeleton("arm", ("shoulder", "elbow", "wrist"), (-1, 0, 1))
    >>> bone_cosines(torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.3, 0.2]]), arm)
    tensor([0.])
    """
    bones = skeleton.bone_vectors(xyz)
    length = torch.linalg.vector_norm(bones, dim=-1, keepdim=True)
    unit = torch.where(length > 0, bones, 0) / torch.where(length > 0, length, 1)
    one, other = _pairs(len(skeleton.bones), xyz.device)
    return (unit @ unit.mT)[..., one, other]


def new_weights(chance: Chance, inputs: int, width: int) -> Weights:
    """Return the weights of an untrained discriminator for each clip: one hidden layer, and one number out.

    The last layer is zero: a discriminator that has learned nothing says nothing, and pushes nowhere.
    """
    hidden = chance.normal(inputs, width) * (2 / inputs) ** 0.5
    out = torch.zeros_like(hidden[:, 0, :, None])
    return {
        "hidden": hidden,
        "hidden_bias": torch.zeros_like(hidden[:, :1]),
        "out": out,
        "out_bias": torch.zeros_like(out[:, :1]),
    }


def judged(weights: Weights, cosines: Float[Tensor, "N M T P"]) -> Float[Tensor, "N M T"]:
    """Return what each clip's discriminator says to its frames: one to poses like the clean ones, zero to others."""
    n, m, t, _ = cosines.shape
    hidden = cosines.reshape(n, m * t, -1) @ weights["hidden"] + weights["hidden_bias"]
    out = torch.nn.functional.leaky_relu(hidden, 0.2) @ weights["out"] + weights["out_bias"]
    return out.reshape(n, m, t)


def implausibility(
    xyz: Float[Tensor, "N M T V C"], weights: Weights, valid: Bool[Tensor, "N M T"], skeleton: Skeleton
) -> Float[Tensor, " N"]:
    """Return the least-squares loss ``mean over valid frames of (D(Psi) - 1)^2`` of each clip, to be descended."""
    return masked_mean((judged(weights, bone_cosines(xyz, skeleton)) - 1).square(), valid)


def trained(
    state: dict[str, Tensor],
    weights: Weights,
    clean: Float[Tensor, "N M T P"],
    attacked: Float[Tensor, "N M T P"],
    valid: Bool[Tensor, "N M T"],
    k: int,
    rate: float,
) -> Weights:
    """Return the weights after one step of Adam on ``(D(clean) - 1)^2 + D(attacked)^2``; moments go into ``state``.

    References
    ----------
    Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017, equation 2 with labels one and zero.
    """
    weights = {layer: value.detach().requires_grad_(True) for layer, value in weights.items()}
    with torch.enable_grad():
        loss = masked_mean((judged(weights, clean.detach()) - 1).square(), valid)
        loss = loss + masked_mean(judged(weights, attacked.detach()).square(), valid)
        gradients = torch.autograd.grad(loss.sum(), list(weights.values()))
    return {
        layer: value.detach() - rate * adam(state, f"discriminator.{layer}", gradient, k)
        for (layer, value), gradient in zip(weights.items(), gradients, strict=True)
    }
