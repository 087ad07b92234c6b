"""What a step of an attack costs on each victim: forward pass and gradient with respect to the input.

Our form with frozen parameters against the authors' operation order (benchmarks/textbook) with parameter gradients
on, as published attack code runs it, and against the same with frozen parameters. Interleaved in one run; medians with
quartiles, and ratios of medians. Also our form in bf16 autocast, where the processor computes in it, with the cosine
between its input gradient and float32's (of weights drawn at random; and, given a folder of trained weights and their
motion file, of those on clips: the median over clips, beside what it is in float32 where each coordinate of a joint is
moved by 1 mm at random); and the achieved GFLOP/s beside those of matrix products of the same machine in both
precisions.

    python benchmarks/victims.py [--models agcn ...] [--clips 8] [--frames 60] [--repetitions 9] [--json FILE]
                                 [--weights FOLDER --data hdm05_11.npz --split subject:mm,tr] [--docs]
    python benchmarks/victims.py --cosines --weights FOLDER --data hdm05_11.npz    # these alone, into the last results
"""

import argparse
import importlib
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import funnybone as fb
from funnybone import models
from funnybone.skeletons import NTU25

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "victims_speed.json"
PAGE = HERE.parent / "docs" / "models.md"
MILLIMETRE = 1e-3
MARKS = ("<!-- speed: made by benchmarks/victims.py -->\n", "<!-- end of speed -->\n")


def seasoned(name):
    """A network whose batch norms are not the identity, in evaluation mode."""
    torch.manual_seed(0)
    network = models.create(name, skeleton=NTU25, num_classes=60, persons=1, frames=60).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network


def step(forward, xyz, labels):
    """One call that an attack makes at each of its steps."""

    def run():
        moved = xyz.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(forward(moved).float(), labels, reduction="sum")
        loss.backward()
        return moved.grad

    return run


def bf16(function):
    """The same under autocast."""

    def run(*arguments):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(*arguments)

    return run


def product_rate(dtype=torch.float32, size=1024, repetitions=15):
    """GFLOP/s of a matrix product."""
    a, b = torch.randn(2, size, size).to(dtype)
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(times) / 1e9


def compare(name, clips, frames, repetitions, half):
    """Median seconds of each form, and what follows from them."""
    network = seasoned(name)
    textbook = importlib.import_module(f"textbook.{name}").forward
    frozen, trainable = seasoned(name).requires_grad_(False), network
    generator = torch.Generator().manual_seed(0)
    xyz = 0.3 * torch.randn(clips, 1, frames, 25, 3, generator=generator).cumsum(2)
    labels = torch.arange(clips) % 60

    def published():
        gradient = step(lambda moved: textbook(trainable, moved), xyz, labels)()
        trainable.zero_grad(set_to_none=True)
        return gradient

    candidates = {
        "ours": step(frozen, xyz, labels),
        "textbook_frozen": step(lambda moved: textbook(frozen, moved), xyz, labels),
        "textbook": published,
    }
    if half:
        candidates["ours_bf16"] = step(bf16(frozen), xyz, labels)
    gradients = {key: function() for key, function in candidates.items()}
    times = {key: [] for key in candidates}
    for _ in range(repetitions):  # interleaved, so that a busy moment of the machine hits all alike
        for key, function in candidates.items():
            begin = time.perf_counter()
            function()
            times[key].append(time.perf_counter() - begin)
    medians = {key: statistics.median(values) for key, values in times.items()}
    with FlopCounterMode(display=False) as counter:
        candidates["ours"]()
    result = {
        "median_seconds": medians,
        "quartiles_seconds": {
            key: statistics.quantiles(values, n=4)[::2] if len(values) > 1 else values * 2
            for key, values in times.items()
        },
        "textbook_over_ours": medians["textbook"] / medians["ours"],
        "textbook_frozen_over_ours": medians["textbook_frozen"] / medians["ours"],
        "cosine_to_textbook": cosine(gradients["ours"], gradients["textbook"]),
        "gflop": counter.get_total_flops() / 1e9,
        "gflop_per_second": counter.get_total_flops() / 1e9 / medians["ours"],
    }
    if half:
        result["textbook_over_ours_bf16"] = medians["textbook"] / medians["ours_bf16"]
        result["cosine_bf16"] = cosine(gradients["ours_bf16"], gradients["ours"])
    return result


def trained_cosines(weights, data, split, clips):
    """Median over clips of cosines between a trained victim's input gradients: bf16's, and that a millimetre away."""
    victim = fb.create_victim(weights)
    shown = fb.load_data(data, split=split, frames=victim.frames)
    shown = shown[torch.randperm(len(shown), generator=torch.Generator().manual_seed(0))[:clips].sort().values.tolist()]
    moved = shown.xyz + MILLIMETRE * torch.randn(shown.xyz.shape, generator=torch.Generator().manual_seed(1))
    plain, half, near = (
        step(forward, xyz, shown.labels)().flatten(1).double()
        for forward, xyz in ((victim.logits, shown.xyz), (bf16(victim.logits), shown.xyz), (victim.logits, moved))
    )
    kinds = {"cosine_bf16_trained": half, "cosine_moved_trained": near}
    return {name: torch.cosine_similarity(plain, other, 1).median().item() for name, other in kinds.items()}


def cosine(a, b):
    return torch.cosine_similarity(a.flatten().double(), b.flatten().double(), 0).item()


def write_page(report):
    """Put the table between the marks of docs/models.md."""
    head = ("model", "ms", "authors' order / ours", "the same, frozen / ours", "authors' order / ours in bf16")
    head += ("cosine in bf16", "cosine 1 mm away", "GFLOP/s")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, found in report["victims"].items():
        ratios = (found[key] for key in ("textbook_over_ours", "textbook_frozen_over_ours", "textbook_over_ours_bf16"))
        cosines = f"{found['cosine_bf16']:.3f}"
        if "cosine_bf16_trained" in found:
            cosines += f" ({found['cosine_bf16_trained']:.3f})"
        cells = [f"`{name}`", f"{1000 * found['median_seconds']['ours']:.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
        near = found.get("cosine_moved_trained")
        cells += [cosines, "-" if near is None else f"({near:.3f})", f"{found['gflop_per_second']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    products = [report[f"product_{kind}gflop_per_second"] for kind in ("", "bf16_")]
    lines += [
        "",
        f"{report['clips']} clips of {report['frames']} frames and 25 joints; {report['threads']} threads, "
        f"{report['machine']}, torch {report['torch']}; medians of {report['repetitions']} interleaved repetitions. "
        f"A matrix product of this machine: {products[0]:.0f} GFLOP/s in float32, {products[1]:.0f} in bf16.",
        "",
    ]
    page = PAGE.read_text()
    before, rest = page.split(MARKS[0])
    PAGE.write_text(before + MARKS[0] + "\n".join(lines) + MARKS[1] + rest.split(MARKS[1])[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=models.names())
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--weights", type=Path, help="a folder with MODEL.hdm05_11.0.safetensors")
    parser.add_argument("--data", help="the motion file that they were trained on")
    parser.add_argument("--split", default="subject:mm,tr")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true", help="write the table of docs/models.md from the last results")
    parser.add_argument("--cosines", action="store_true", help="only measure those of trained weights anew")
    arguments = parser.parse_args()

    def trained(name):
        weights = arguments.weights and arguments.weights / f"{name}.hdm05_11.0.safetensors"
        if not (weights and weights.exists()):
            return {}
        return trained_cosines(str(weights), arguments.data, arguments.split, arguments.clips)

    if arguments.cosines:
        report = json.loads(RESULTS.read_text())
        for name in arguments.models:
            report["victims"][name] |= trained(name)
        RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.docs:
        write_page(json.loads(RESULTS.read_text()))
    if arguments.docs or arguments.cosines:
        return

    capability = torch.backends.cpu.get_cpu_capability()
    half = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    report = {
        "clips": arguments.clips,
        "frames": arguments.frames,
        "repetitions": arguments.repetitions,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "machine": f"{platform.machine()}, {capability}",
        "bf16": half,
        "victims": {},
    }
    rates = [product_rate()]
    for name in arguments.models:
        found = compare(name, arguments.clips, arguments.frames, arguments.repetitions, half)
        found |= trained(name) if half else {}
        report["victims"][name] = found
        line = f"{name:12} {1000 * found['median_seconds']['ours']:7.0f} ms"
        line += f"   textbook {found['textbook_over_ours']:5.2f}x, frozen {found['textbook_frozen_over_ours']:5.2f}x"
        if half:
            line += f"   bf16 {found['textbook_over_ours_bf16']:5.2f}x, cosine {found['cosine_bf16']:.4f}"
        print(f"{line}   {found['gflop_per_second']:6.1f} GFLOP/s", flush=True)
        rates.append(product_rate())
    report["product_gflop_per_second"] = statistics.median(rates)
    if half:
        report["product_bf16_gflop_per_second"] = product_rate(torch.bfloat16)
    print(f"matrix product of this machine: {report['product_gflop_per_second']:.1f} GFLOP/s")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
