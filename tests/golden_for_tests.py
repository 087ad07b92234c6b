"""The authors' networks as numbers, which lie beside the project, and how near to them a network of ours comes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from funnybone.models import create

FOLDER = Path(__file__).parents[1].parent / "shared" / "golden"


def read(name, whose="the authors'"):
    """The tensors of one file: ``sd/`` weights, ``in/`` inputs, ``out/`` and ``out64/`` what came out, by precision."""
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"{whose} numbers are not here: {path}")
    return load_file(path)


def with_weights(model, golden, dtype, **options):
    """A network with the weights of a file."""
    net = create(model, **options).eval()
    state = {key.removeprefix("sd/"): value for key, value in golden.items() if key.startswith("sd/")}
    net.load_state_dict(state, strict=True)
    return net.to(dtype)


def ours(x):
    """Clips as (N, M, T, V, C), which the authors have as (N, C, T, V, M)."""
    return x.permute(0, 4, 2, 3, 1).contiguous()


def answer(net, features, block, stored, *inputs):
    """Logits, features, what a file holds of a block, and the gradient at each input.

    ``features`` is a function of the inputs; ``stored`` is one of the block's arguments and output.
    """
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    blocks = []
    hook = block.register_forward_hook(lambda module, args, out: blocks.append(stored(args, out)))
    found = features(*inputs)
    hook.remove()
    logits = net.classify(found)
    gradients = torch.autograd.grad(logits.log_softmax(1)[:, 7].sum(), inputs)
    return logits.detach(), found.detach(), blocks[0].detach(), *gradients


def relative(found, expected):
    """The largest error as a share of the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def assert_float64_parity(found, golden, suffix=""):
    """That an `answer` for one input is the authors'; what a block puts out is stored from a float32 run only."""
    limits = {"out64/logits": 1e-7, "out64/feature": 1e-7, "out/block1": 2e-6, "out64/grad_x": 1e-6}
    for number, (name, limit) in zip(found, limits.items(), strict=True):
        error = relative(number, golden[name + suffix].double())
        assert error < limit, f"{name}{suffix}: {error}"


def assert_float32_parity(found, golden, suffix=""):
    """The same for float32, in which the gradient keeps no more than its direction."""
    *numbers, gradient = found
    for number, name in zip(numbers, ("logits", "feature", "block1"), strict=True):
        torch.testing.assert_close(number, golden[f"out/{name}{suffix}"], atol=5e-4, rtol=1e-4)
    assert_same_direction(gradient, golden[f"out/grad_x{suffix}"])


def assert_same_direction(found, expected):
    cosine = torch.cosine_similarity(found.flatten(), expected.flatten(), 0)
    assert cosine > 0.9999, f"the cosine is {cosine}"
