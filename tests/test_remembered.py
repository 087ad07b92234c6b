"""What a method remembers from batch to batch lasts for the whole training, and a checkpoint has it."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from funnybone.defenses import create_defense
from funnybone.defenses.beat import BEAT
from funnybone.defenses.whole_network import WholeNetwork
from funnybone.errors import DataError
from funnybone.models import Recipe, load_weights
from funnybone.models.weights import read_tensors, write_tensors
from funnybone.training import Method, train
from funnybone.training.checkpoint import CheckpointRecord
from retraining_for_tests import waves

SIZES = {"hidden1": 6, "hidden2": 6, "hidden3": 6, "hidden4": 6}
BEGUN = 5  # of nine batches, the one that a training is killed in


class KilledError(Exception):
    """Stands for the power going off."""


@dataclass(frozen=True, kw_only=True)
class Seen(Method):
    """The larger the clips that it saw last, the more a batch counts."""

    def room(self, clips, batch):
        return {"seen": torch.empty(batch, *clips.xyz.shape[1:], device="meta")}

    def loss(self, batch):
        before = batch.memory.get("seen")
        batch.memory["seen"] = batch.clips.xyz.clone()
        return batch.loss(batch.clips.xyz) * (1.0 if before is None else before.square().mean())


@dataclass(frozen=True, kw_only=True)
class Spied(Method):
    """Another method, and what it remembered when each of its steps began."""

    inner: Method
    told: list

    def __getattribute__(self, name):
        if name in ("inner", "told", "loss") or name.startswith("__"):
            return object.__getattribute__(self, name)
        return getattr(self.inner, name)

    def loss(self, batch):
        self.told.append({key: value.clone() for key, value in batch.memory.items()})
        return self.inner.loss(batch)


METHODS = {
    "seen": Seen(),
    "free-at": create_defense("free-at", replays=2, radius=0.05),
    # With few chains that seldom begin anew, so that what they remember is most of what it learns from.
    "beat": WholeNetwork(
        beat=BEAT(full=True, motion_weight=1.0, adversary_weight=0.0, negatives=3, buffer=4, anew=0.1, langevin_steps=2)
    ),
}
NAMES = {"seen": {"seen"}, "free-at": {"noise", "gradient"}, "beat": {"xyz", "valid"}}


def trained(method, n=12, batch=4, place="cpu", **arguments):
    recipe = Recipe(epochs=3, batch=batch, max_lr=0.01, validation=0.0)
    return train("hrnn", waves(n), recipe=recipe, options=SIZES, seed=3, method=method, device=place, **arguments)


def killed(now):
    if now.step == BEGUN:
        raise KilledError


def left_by(method, checkpoint, **arguments):
    """The checkpoint of a training that was killed in its second epoch, its record and its tensors."""
    with pytest.raises(KilledError):
        trained(method, checkpoint=checkpoint, progress=killed, **arguments)
    return read_tensors(checkpoint, CheckpointRecord)


def same(one, other):
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_remembered_goes_on_in_the_next_epoch_and_after_a_kill(name, tmp_path):
    told, again = [], []
    whole = trained(Spied(inner=METHODS[name], told=told))
    steps = len(told) // 3
    assert not told[0]
    assert all(memory.keys() == NAMES[name] for memory in told[1:])
    _, tensors = left_by(METHODS[name], tmp_path / "a.partial")
    kept = {key.removeprefix("memory.0."): value for key, value in tensors.items() if key.startswith("memory.")}
    assert kept.keys() == told[steps].keys()
    assert all(torch.equal(kept[key], told[steps][key]) for key in kept), "the second epoch begins with the first's"
    resumed = trained(Spied(inner=METHODS[name], told=again), checkpoint=tmp_path / "a.partial")
    assert len(again) == 2 * steps
    for before, after in zip(told[steps:], again, strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert same(whole, resumed)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_remembered_changes_the_weights(name, tmp_path):
    """Or that a resumed training ends with the same weights would say nothing of it."""
    record, tensors = left_by(METHODS[name], tmp_path / "a.partial")
    resumed = trained(METHODS[name], checkpoint=tmp_path / "a.partial")
    zero = {key: torch.zeros_like(value) if "memory" in key else value for key, value in tensors.items()}
    write_tensors(tmp_path / "b.partial", zero, record)
    assert not same(resumed, trained(METHODS[name], checkpoint=tmp_path / "b.partial"))


def test_what_needs_no_memory_has_none_in_its_checkpoint(tmp_path):
    for place, method in enumerate((Method(), create_defense("free-at", radius=0.0))):
        _, tensors = left_by(method, tmp_path / f"{place}.partial")
        assert not any(key.startswith("memory") for key in tensors)


NOISE, CLIMBED = "memory.0.noise", "memory.0.gradient"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({NOISE: None, CLIMBED: None}, "remembered from batch to batch: gradient, noise missing"),  # an older version
        ({CLIMBED: None}, "remembered from batch to batch: gradient missing"),
        ({"memory.0.more": torch.zeros(4)}, "remembered from batch to batch: more not of this training"),
        ({NOISE: lambda noise: noise[:2]}, "not of one length"),
        ({NOISE: lambda noise: noise.double()}, "memory 'noise' is torch.float64 (4, 1, 12, 17, 3)"),
        ({NOISE: lambda noise: noise[..., :2].clone()}, "memory 'noise' is torch.float32 (4, 1, 12, 17, 2)"),
        ({NOISE: torch.zeros(())}, "memory 'noise' is torch.float32 (), not (4, 1, 12, 17, 3)"),
        (dict.fromkeys((NOISE, CLIMBED), torch.zeros(5, 1, 12, 17, 3)), "memory 'noise' has 5 rows, at most 4 fit"),
        ({NOISE: lambda noise: noise * torch.nan}, "memory 'noise' holds NaN or infinity"),
        ({CLIMBED: lambda gradient: gradient + torch.inf}, "memory 'gradient' holds NaN or infinity"),
    ],
)
def test_a_checkpoint_whose_memory_would_not_do_is_refused_in_one_line(changes, says, tmp_path):
    path = tmp_path / "a.partial"
    record, tensors = left_by(METHODS["free-at"], path)
    for key, change in changes.items():
        tensors[key] = change(tensors[key]) if callable(change) else change
    kept = {key: value.contiguous().clone() for key, value in tensors.items() if value is not None}
    write_tensors(path, kept, record)
    with pytest.raises(DataError, match=re.escape(says)) as refused:
        trained(METHODS["free-at"], checkpoint=path)
    assert "a damaged checkpoint" in str(refused.value)
    assert f"remove {path}" in str(refused.value)
    assert "\n" not in str(refused.value)


LAUNCHED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from test_remembered import METHODS, KilledError, killed, trained
from funnybone.models import save_weights
from funnybone.training import hardware

torch.set_num_threads(1)
folder, place = Path({folder!r}), hardware("cpu")
assert place.ranks == 2

def keep(name, trained):
    save_weights(folder / f"{{name}}.rank{{place.rank}}.safetensors", trained.module, trained.record)

for name, method in METHODS.items():
    sizes = {{"n": 13, "batch": 5, "place": place}}  # a batch of five: three clips here and two there
    keep(f"{{name}}.whole", trained(method, **sizes))
    checkpoint = folder / f"{{name}}.partial"
    try:
        trained(method, **sizes, checkpoint=checkpoint, progress=killed)
        raise SystemExit("was not killed")
    except KilledError:
        place.wait()
    keep(f"{{name}}.resumed", trained(method, **sizes, checkpoint=checkpoint))
"""


@pytest.mark.slow
def test_each_of_two_processes_goes_on_with_its_own_memory(tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([sys.executable, *launch, str(script)], check=True, timeout=500)
    for name in METHODS:
        modules = [
            load_weights(tmp_path / f"{name}.{kind}.rank{rank}.safetensors")[0].state_dict()
            for kind in ("whole", "resumed")
            for rank in (0, 1)
        ]
        for other in modules[1:]:
            assert all(torch.equal(value, other[key]) for key, value in modules[0].items()), name
        _, tensors = read_tensors(tmp_path / f"{name}.partial", CheckpointRecord)
        first, second = (tensors[f"memory.{rank}.{max(NAMES[name])}"] for rank in (0, 1))
        assert not torch.equal(first, second[: len(first)])
