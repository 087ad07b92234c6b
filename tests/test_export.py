"""Every model leaves as ONNX, and as a compiled function, and answers the same there."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from funnybone.models import names
from narrow_models import narrow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def clips(persons):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, persons, 24, 25, 3, generator=generator).cumsum(2) * 0.1


@pytest.mark.parametrize("name", names())
def test_onnx(name, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    network, xyz = narrow(name, frames=24), clips(2)
    xyz[1, 1] = 0
    path = tmp_path / f"{name}.onnx"
    torch.onnx.export(network, (xyz,), path, dynamo=True, input_names=["xyz"], output_names=["logits"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"xyz": xyz.numpy()})
    with torch.no_grad():
        expected = network(xyz).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


COMPILED = """
import sys
sys.path.insert(0, {tests!r})
import torch
from narrow_models import narrow

network = narrow({name!r}, frames=24, persons=1).requires_grad_(False)
xyz = torch.randn(2, 1, 24, 25, 3, generator=torch.Generator().manual_seed(1)).cumsum(2) * 0.1
answers = []
for function in (network, torch.compile(network)):
    moved = xyz.clone().requires_grad_()
    logits = function(moved)
    answers.append((logits, *torch.autograd.grad(logits[:, 0].sum(), moved)))
for found, expected in zip(answers[1], answers[0], strict=True):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.detach().abs().max()))
"""


@pytest.mark.parametrize("name", ["stgcn"])
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled(name):
    """By itself: the hook that checks types under pytest is not for compilers."""
    script = COMPILED.format(tests=str(Path(__file__).parent), name=name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
