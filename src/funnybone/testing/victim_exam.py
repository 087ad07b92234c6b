"""The exam of victims."""

import copy
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.models import Fused, Model, WeightsRecord, load_weights, models, save_weights
from funnybone.models.weights import DataRecord, SkeletonRecord
from funnybone.skeletons import COCO17, NTU25
from funnybone.testing.analytic import random_clips
from funnybone.victims.base import Victim, predict
from funnybone.victims.torch import TorchVictim


def check_victim(victim: Victim, clips: Clips, *, options: Mapping[str, Any] | None = None) -> None:
    """Examine a victim on clips of its skeleton and classes.

    It must answer with one finite row for each clip, refuse another skeleton, and be after its answers what it was
    before. Unless it says that it is stochastic, it must give the same answer each time, whatever else is in the batch,
    to two threads at once and on another device, where there is one; and use no global random numbers. A gradient that
    it offers must agree with finite differences, unless it says otherwise: in float64 where its module can do that. A
    module that says it is ``symmetric`` must not mind the order of persons, one that ``skips_empty`` must not mind
    frames in which nobody is.

    Parameters
    ----------
    victim : Victim
        The one to examine.
    clips : Clips
        The first four are shown to it. Absent persons and padding among them make the exam harder.
    options : mapping, optional
        Where its module is a `funnybone.models.Model`: its family's own options, as `funnybone.models.create` took
        them. The module is then also written to a weights file, and what is read from there must answer the same.

    Examples
    --------
    >>> import funnybone as fb
    >>> clips = random_clips(4)
    >>> network = fb.models.create("stgcn", skeleton=clips.skeleton, num_classes=2, persons=1, width=4)
    >>> victim = fb.TorchVictim(network, skeleton=clips.skeleton, classes=clips.classes)
    >>> check_victim(victim, clips, options={"width": 4})
    """
    clips = clips[: min(len(clips), 4)]
    before, chance, xyz = _state(victim), torch.get_rng_state(), clips.xyz.clone()
    _check_answer(victim, clips)
    _check_refusal(victim)
    if not victim.stochastic:
        _check_repeats(victim, clips)
        _check_threads(victim, clips)
        if victim.access == "gradients":
            _check_gradients(victim, clips)
        if isinstance(getattr(victim, "module", None), nn.Module):
            _check_promises(victim, clips)
        if hasattr(victim, "to") and torch.accelerator.is_available():
            _check_device(victim, clips)
        if options is not None:
            _check_file(victim, clips, options)
        assert torch.equal(chance, torch.get_rng_state()), "the global random state was used"
    assert torch.equal(xyz, clips.xyz), "the clips were changed in place"
    after = _state(victim)
    changed = [name for name in {**before, **after} if not _equal(before.get(name), after.get(name))]
    assert not changed, f"its answers left something behind: {', '.join(changed)} changed"


def _state(victim: Victim) -> dict[str, Any]:
    """Everything by which a victim could remember what it was asked: of its modules the mode and all tensors."""
    state: dict[str, Any] = {"the fingerprint": victim.fingerprint}
    module = getattr(victim, "module", None)
    if isinstance(module, nn.Module):
        state |= {f"the mode of {name or 'the module'}": part.training for name, part in module.named_modules()}
        state |= {name: tensor.clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    return state


def _equal(one: object, other: object) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other


def _answer(victim: Victim, clips: Clips, batch_size: int = 64) -> Num[Tensor, "N ..."]:
    """Logits, or labels where there are no others, on the CPU."""
    labels, logits = predict(victim, clips, batch_size)
    return labels if logits is None else logits


def _alike(one: Num[Tensor, "*S"], other: Num[Tensor, "*S"], share: float = 1e-3) -> bool:
    """Whether two answers differ by no more than a share of the largest number."""
    return float((one - other).abs().max()) <= share * (float(one.abs().max()) + 1e-6)


def _check_answer(victim: Victim, clips: Clips) -> None:
    labels, logits = predict(victim, clips)
    assert labels.shape == (len(clips),), f"labels have shape {tuple(labels.shape)}"
    assert int(labels.min()) >= 0, "a label is negative"
    assert int(labels.max()) < len(victim.classes), "a label is not one of the classes"
    if logits is not None:
        assert logits.shape == (len(clips), len(victim.classes)), f"logits have shape {tuple(logits.shape)}"
        assert bool(torch.isfinite(logits).all()), "a logit is not finite"


def _check_refusal(victim: Victim) -> None:
    other = NTU25 if victim.skeleton.same_layout(COCO17) else COCO17
    try:
        victim.check(random_clips(2, skeleton=other))
    except DataError:
        return
    raise AssertionError("clips of another skeleton were not refused")


def _check_repeats(victim: Victim, clips: Clips) -> None:
    first = _answer(victim, clips)
    same = _alike(first, _answer(victim, clips), 1e-4)
    assert same, "two answers differ; a victim that draws must say stochastic = True"
    assert _alike(first, _answer(victim, clips, 1)), "the answer depends on the rest of the batch"


def _check_threads(victim: Victim, clips: Clips) -> None:
    batches = [clips, clips[list(reversed(range(len(clips))))]] * 2
    alone = [_answer(victim, batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda batch: _answer(victim, batch), batches))
    same = all(map(_alike, alone, together))
    assert same, "two threads that ask at once get other answers than one that asks alone"


def _check_gradients(victim: Victim, clips: Clips) -> None:
    xyz = clips.xyz.to(victim.device)
    _check_gradient(victim, clips, xyz, size=1e-3, share=0.1)
    if isinstance(victim, TorchVictim):
        exact = copy.copy(victim)
        exact.module, exact.compile = copy.deepcopy(victim.module).double(), False
        try:
            exact.logits(xyz.double())
        except (RuntimeError, DataError):  # it makes or takes tensors of one type only
            return
        _check_gradient(exact, clips, xyz.double(), size=1e-6, share=1e-3)


def _check_gradient(victim: Victim, clips: Clips, xyz: Float[Tensor, "N M T V C"], size: float, share: float) -> None:
    weights = torch.randn(len(victim.classes), generator=torch.Generator().manual_seed(0)).to(xyz)
    xyz = xyz.clone().requires_grad_(True)
    logits = victim.logits(xyz)
    assert logits.requires_grad, "it offers gradients, and its logits have none"
    (gradient,) = torch.autograd.grad((logits * weights).sum(), xyz)
    assert bool(torch.isfinite(gradient).all()), "the gradient is not finite"
    assert bool((gradient != 0).any()), "the gradient is zero everywhere"
    if not victim.exact_gradients:
        return
    # Along the gradient itself the derivative is its norm: far above rounding. Only along another way is seen what a
    # gradient leaves out, and in float64 alone is that far above rounding, too.
    ways = [gradient]
    if xyz.dtype == torch.float64:
        ways.append(torch.randn(xyz.shape, generator=torch.Generator().manual_seed(1), dtype=xyz.dtype).to(xyz.device))
    for way in ways:
        way = torch.where(clips.valid[..., None, None].to(xyz.device), way, 0)
        way = way / way.norm()
        with torch.no_grad():
            ahead, behind = (victim.logits(xyz + sign * size * way) for sign in (1, -1))
            measured = float(((ahead - behind) @ weights).sum() / (2 * size))
        stated = float((gradient * way).sum())
        assert abs(measured - stated) <= share * (max(abs(stated), abs(measured)) + 1e-3), (
            f"the gradient says {stated:.4g}, finite differences {measured:.4g}, in {xyz.dtype}; "
            "say exact_gradients = False if so meant"
        )


@torch.no_grad()
def _check_promises(victim: Any, clips: Clips) -> None:
    module, xyz = victim.module, clips.xyz.to(victim.device)
    preprocess = getattr(victim, "preprocess", None)
    shown = xyz if preprocess is None else preprocess(xyz)  # may tell persons and frames apart, which is its own affair
    answer = module(shown)
    if getattr(module, "symmetric", False):
        assert _alike(answer, module(shown.flip(1))), "it is symmetric, it says, but the order of persons matters"
    if getattr(module, "skips_empty", False):
        half, empty = shown.shape[2] // 2, torch.zeros_like(shown[:, :, :2])
        longer = torch.cat([shown[:, :, :half], empty, shown[:, :, half:], empty], 2)
        assert _alike(answer, module(longer)), "it skips empty frames, it says, but they change the answer"


def _check_device(victim: Any, clips: Clips) -> None:
    here = victim.device
    there = torch.accelerator.current_accelerator() if here.type == "cpu" else torch.device("cpu")
    assert there is not None  # or this is not asked
    moved = victim.to(there)
    assert (moved.device.type, victim.device) == (there.type, here), "to() does not return another one on that device"
    try:
        answer = _answer(moved, clips)
    except RuntimeError as error:
        raise AssertionError(f"it does not work on {there}: not all of its tensors moved there ({error})") from error
    assert _alike(_answer(victim, clips), answer), f"it answers otherwise on {there}"


def _check_file(victim: Any, clips: Clips, options: Mapping[str, Any]) -> None:
    network = victim.module
    assert isinstance(network, Model), "options are those of a funnybone.models.Model, which its module is not"
    streams, fusion = (network.streams, network.weights) if isinstance(network, Fused) else (("joint",), (1.0,))
    family = type(network.network(streams[0]) if isinstance(network, Fused) else network)
    sizes = {key: getattr(network, key) for key in ("persons", "frames", "in_channels")}
    record = WeightsRecord(
        model=next(name for name in models.names() if models[name] is family),
        options={**sizes, **options},
        skeleton=SkeletonRecord.of(network.skeleton),
        classes=victim.classes,
        streams=streams,
        fusion=fusion,
        data=DataRecord(name="none", split=None, n=0, synthetic=True, sha256=""),
    )
    loaded = copy.copy(victim)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):  # a network begins at random
        save_weights(Path(folder) / "victim.safetensors", network, record)
        loaded.module = load_weights(Path(folder) / "victim.safetensors")[0].to(victim.device)
    assert _alike(_answer(victim, clips), _answer(loaded, clips)), "read from its weights file it answers otherwise"
