"""Every model leaves as ONNX, and as a compiled function, and answers the same there."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import funnybone as fb
from funnybone.models import names
from narrow_models import narrow
from victims_for_tests import MeanHeight

slow = [pytest.mark.slow, pytest.mark.timeout(900)]


def clips(persons):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, persons, 24, 25, 3, generator=generator).cumsum(2) * 0.1


@pytest.mark.slow
@pytest.mark.timeout(900)
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


def run(script, **environment):
    """By itself: the hook that checks types under pytest is not for compilers."""
    head = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport torch\nimport funnybone as fb\n"
    done = subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr


COMPILED = """
from narrow_models import narrow

network = narrow({name!r}, frames=8, persons=1)
plain, compiled = (
    fb.TorchVictim(network, skeleton=network.skeleton, classes=5, compile=compile) for compile in (False, {backend!r})
)
for clips in (4, 2):
    xyz = torch.randn(clips, 1, 8, 25, 3, generator=torch.Generator().manual_seed(1)).cumsum(2) * 0.1
    answers = []
    for victim in (plain, compiled):
        moved = xyz.clone().requires_grad_()
        logits = victim.logits(moved)
        answers.append((logits.detach(), *torch.autograd.grad(logits[:, 0].sum(), moved)))
    for expected, found in zip(*answers):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
"""
SHORT = {"sgn", "stgcn"}  # the others take up to ten seconds each, and more


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in SHORT else slow) for name in names()])
def test_what_is_compiled_answers_the_same(name):
    run(COMPILED.format(name=name, backend="eager"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["stgcn"])
def test_what_is_compiled_for_this_machine_answers_the_same(name):
    run(COMPILED.format(name=name, backend=True))


MANY = """
from torch._dynamo.utils import counters
from victims_for_tests import MeanHeight

for _ in range(10):
    victim = fb.TorchVictim(MeanHeight(), skeleton=fb.skeletons.COCO17, classes=2, compile="eager")
    for clips in (2, 3, 4):
        victim.logits(torch.zeros(clips, 1, 4, 17, 3))
assert counters["stats"]["unique_graphs"] == 10
assert "_compiled" in vars(victim)
assert "_compiled" not in vars(victim.to("cpu"))
"""


def test_each_victim_is_compiled_once_for_batches_of_all_sizes():
    run(MANY)


NOTHING = """
module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Tanh())
victim = fb.TorchVictim(module, skeleton=fb.skeletons.COCO17, classes=51, name="flat", compile=True)
try:
    victim.logits(torch.zeros(2, 1, 1, 17, 3).requires_grad_())
except fb.DataError as error:
    assert "victim 'flat' cannot be compiled" in str(error), error
    assert "needs a C++ compiler" in str(error), error
else:
    raise AssertionError("it was compiled")
"""


@pytest.mark.slow
def test_without_a_compiler_it_is_said_what_is_missing(tmp_path):
    run(NOTHING, CXX="/nowhere/c++", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))


def compiled():
    return fb.TorchVictim(MeanHeight(), skeleton=fb.skeletons.COCO17, classes=2, compile="unheard-of")


def test_a_victim_to_be_compiled_travels_and_is_filed_as_the_plain_one():
    there = pickle.loads(pickle.dumps(compiled()))  # noqa: S301 (our own)
    assert there.compile == "unheard-of"
    plain = fb.TorchVictim(MeanHeight(), skeleton=fb.skeletons.COCO17, classes=2)
    assert there.fingerprint == compiled().fingerprint == plain.fingerprint


def test_what_cannot_be_compiled_is_said():
    with pytest.raises(fb.DataError, match="victim 'MeanHeight' cannot be compiled: Invalid backend: 'unheard-of'"):
        compiled().logits(torch.zeros(2, 1, 4, 17, 3))
    assert fb.create_victim("sgn", data="synthetic", compile="eager").compile == "eager"
    with pytest.raises(fb.DataError, match="give it compile=True there"):
        fb.create_victim("victims_for_tests:answers_labels", compile=True)
