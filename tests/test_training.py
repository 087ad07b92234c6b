"""Training depends on the seed, the recipe and the data alone, however often it was killed on the way."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import funnybone as fb
from funnybone.cli import main
from funnybone.clips import Clips
from funnybone.data import npz
from funnybone.errors import DataError
from funnybone.models import Fused, Preprocess, Recipe, create, load_weights, names, recipe_for, save_weights, shown
from funnybone.models.weights import read_tensors, write_tensors
from funnybone.skeletons import COCO17
from funnybone.testing import check_victim
from funnybone.training import Epoch, Plain, draw, evaluate, hardware, hold_out, train, write_curves
from funnybone.training.augment import mirrored, stretched, varied
from funnybone.training.checkpoint import CheckpointRecord
from funnybone.training.curves import best_of
from funnybone.training.measure import measure
from funnybone.training.step import optimiser_of

RECIPE = Recipe(epochs=4, batch=6, max_lr=0.01, validation=0.0)
OPTIONS = {"width": 4}


def waves(n=18, persons=1, seed=0):
    """Clips of two classes: the left wrist waves, or the right one."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randn(1, 1, 1, 17, 3, generator=generator).expand(n, persons, 12, 17, 3).clone()
    xyz += 0.15 * torch.randn(xyz.shape, generator=generator)
    labels = torch.arange(n) % 2
    wave = torch.sin(torch.arange(12.0))
    for clip, label in enumerate(labels.tolist()):
        xyz[clip, :, :, 9 + label, 1] += wave
    valid = torch.ones(n, persons, 12, dtype=torch.bool)
    ids = tuple(f"{seed}.{i}" for i in range(n))
    fps = torch.full((n,), 30.0)
    return Clips(xyz, valid, labels, ("left", "right"), COCO17, fps, ids, name="waves", synthetic=True)


class KilledError(Exception):
    """Stands for the power going off."""


def killed_after(steps):
    def progress(now):
        if now.step == steps:
            raise KilledError

    return progress


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Two(Plain):
    """The first of two processes, whose other half is not there."""

    ranks = 2


@pytest.fixture(scope="module")
def clips():
    return waves()


@pytest.fixture(scope="module")
def whole(clips):
    return train("stgcn", clips, recipe=RECIPE, options=OPTIONS, seed=3)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state(clips, whole):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = train("stgcn", clips, recipe=RECIPE, options=OPTIONS, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(again.module, whole.module)
    assert again.curves == whole.curves
    assert not same(train("stgcn", clips, recipe=RECIPE, options=OPTIONS, seed=4).module, whole.module)


def test_killed_and_resumed_ends_with_the_same_weights(clips, whole, tmp_path):
    checkpoint = tmp_path / "training.partial"
    for steps in (1, 4, 7, 8):  # before the first checkpoint, in the second epoch, in the third, in the third again
        with pytest.raises(KilledError):
            train(
                "stgcn",
                clips,
                recipe=RECIPE,
                options=OPTIONS,
                seed=3,
                checkpoint=checkpoint,
                progress=killed_after(steps),
            )
    steps = []
    arguments = {"recipe": RECIPE, "options": OPTIONS, "seed": 3, "checkpoint": checkpoint}
    resumed = train("stgcn", clips, **arguments, progress=steps.append)
    assert same(resumed.module, whole.module)
    assert resumed.curves == whole.curves
    assert [now.step for now in steps] == [7, 8, 9, 10, 11, 12]
    assert all(now.steps == 12 for now in steps)
    assert [now.epoch for now in steps] == [2, 2, 2, 3, 3, 3]
    finished = train("stgcn", clips, **arguments, progress=killed_after(1))  # nothing is left to do
    assert same(finished.module, whole.module)
    assert [path.name for path in tmp_path.iterdir()] == ["training.partial"]


def test_a_checkpoint_of_another_training_is_refused(clips, tmp_path):
    checkpoint, recipe = tmp_path / "a.partial", Recipe(epochs=1, validation=0.0)
    arguments = {"recipe": recipe, "options": OPTIONS, "seed": 3, "checkpoint": checkpoint}
    train("stgcn", clips, **arguments)
    others = {
        "seed": {**arguments, "seed": 4},
        "recipe": {**arguments, "recipe": Recipe(epochs=2, validation=0.0)},
        "options": {**arguments, "options": {"width": 8}},
        "preprocess": {**arguments, "preprocess": Preprocess(centre="none")},
    }
    for name, other in others.items():
        with pytest.raises(DataError, match=f"another training: {name} differ"):
            train("stgcn", clips, **other)
    with pytest.raises(DataError, match="another training: processes differ"):
        train("stgcn", clips, **arguments, device=Two())
    with pytest.raises(DataError, match="another training: data differ"):
        train("stgcn", waves(seed=1), **arguments)
    with pytest.raises(DataError, match=r"remove .*a\.partial"):
        train("stgcn", waves(seed=1), **arguments)
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-50])
    with pytest.raises(DataError, match=r"a\.partial: not a safetensors file.*remove"):
        train("stgcn", clips, **arguments)
    checkpoint.write_bytes(whole)
    found, tensors = read_tensors(checkpoint, CheckpointRecord)
    for broken in (
        {"other.x": torch.zeros(1)},
        {"model.fcn.bias": torch.zeros(7)},
        {"optimiser.x.step": torch.zeros(1)},
    ):
        write_tensors(checkpoint, {**tensors, **broken}, found)
        with pytest.raises(DataError, match=r"a\.partial: a damaged checkpoint.*remove"):
            train("stgcn", clips, **arguments)


def test_a_training_that_diverges_says_so_and_leaves_no_checkpoint(clips, tmp_path):
    recipe = Recipe(epochs=6, batch=6, max_lr=1e30)
    with pytest.raises(DataError, match=r"the loss is .* lower the learning rate"):
        train("stgcn", clips, recipe=recipe, options=OPTIONS, checkpoint=tmp_path / "a.partial")
    assert not list(tmp_path.iterdir())


def test_answers_that_are_not_numbers_have_no_accuracy(clips):
    module = create("stgcn", skeleton=COCO17, num_classes=2, persons=1, **OPTIONS)
    for value in (math.nan, math.inf):
        with torch.no_grad():
            module.fcn.bias[0] = value
        with pytest.raises(
            DataError, match=r"waves: the network answers NaN or infinity to 18 of 18 clips, first 0\.0"
        ):
            evaluate(module, clips)


def test_a_weights_file_is_not_a_checkpoint(clips, whole, tmp_path):
    save_weights(tmp_path / "a.b.safetensors", whole.module, whole.record)
    with pytest.raises(DataError, match="record, field"):
        train("stgcn", clips, recipe=RECIPE, options=OPTIONS, checkpoint=tmp_path / "a.b.safetensors")


def test_it_learns_and_the_record_says_what_was_done(tmp_path):
    clips = waves(36)
    recipe = Recipe(epochs=16, batch=6, max_lr=0.02, rotation=0.3, label_smoothing=0.0)
    module, record, curves = train("stgcn", clips, recipe=recipe, options={"width": 4, "dropout": 0.0}, split="train")
    losses = [epoch.loss for epoch in curves["joint"]]
    assert losses[-1] < 0.5 * losses[0]
    assert len(losses) == 16
    accuracy = evaluate(module, waves(seed=0, n=30), record.build_preprocess(), batch=7, split="test")
    assert accuracy.value > 0.8
    assert (accuracy.n, accuracy.split) == (30, "test")
    assert accuracy.ci95[0] < accuracy.value
    saved = save_weights(tmp_path / "a.b.safetensors", module, record.model_copy(update={"accuracy": accuracy}))
    again, read = load_weights(tmp_path / "a.b.safetensors")
    assert read == saved
    assert same(again, module)
    assert read.data.n == 36
    assert read.data.synthetic
    assert read.data.split == "train"
    assert read.recipe["epochs"] == 16
    assert read.options == {"persons": 1, "frames": 12, "in_channels": 3, "width": 4, "dropout": 0.0}


def test_the_recipe_sets_the_dropout_unless_an_option_does(clips):
    record = train("stgcn", clips, recipe=Recipe(epochs=1, dropout=0.25), options=OPTIONS).record
    assert record.options["dropout"] == 0.25
    record = train("stgcn", clips, recipe=Recipe(epochs=1), options={**OPTIONS, "dropout": 0.0}).record
    assert record.options["dropout"] == 0.0


def test_two_persons_one_absent_and_two_coordinates():
    two = waves(persons=2)
    two = two.with_xyz(torch.cat([two.xyz[:, :1], torch.zeros_like(two.xyz[:, 1:])], 1))
    assert math.isfinite(train("stgcn", two, recipe=Recipe(epochs=1), options=OPTIONS).curves["joint"][0].loss)
    flat = waves().with_xyz(waves().xyz[..., :2])
    module, record, _ = train("stgcn", flat, recipe=Recipe(epochs=1), options=OPTIONS)
    assert record.options["in_channels"] == 2
    assert evaluate(module, flat, record.build_preprocess()).n == 18


def test_evaluate_leaves_the_modes_and_counts(clips):
    module = create("stgcn", skeleton=COCO17, num_classes=2, persons=1, **OPTIONS).train()
    module.data_bn.eval()  # as where statistics are kept that another set gave
    modes = [part.training for part in module.modules()]
    with torch.no_grad():
        module.fcn.weight.zero_()
        module.fcn.bias.copy_(torch.tensor([1.0, 0.0]))
    assert evaluate(module, clips).value == 0.5
    assert [part.training for part in module.modules()] == modes


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_random_turns_keep_the_vertical_and_the_shape(up):
    xyz, axis = torch.randn(50, 1, 3, 17, 3), "xyz".index(up)
    generator = torch.Generator().manual_seed(0)
    turned = varied(xyz, Recipe(scale=0.0), up, COCO17, generator)
    torch.testing.assert_close(turned[..., axis], xyz[..., axis])
    torch.testing.assert_close(COCO17.bone_lengths(turned), COCO17.bone_lengths(xyz))
    assert (turned - xyz).abs().amax((1, 2, 3, 4)).min() > 0.001
    assert torch.equal(varied(xyz, Recipe(scale=0.0, rotation=0.0), up, COCO17, generator), xyz)
    ratio = (varied(xyz, Recipe(rotation=0.0), up, COCO17, generator) / xyz).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert 0.89 < ratio.min() < 0.95
    assert 1.05 < ratio.max() < 1.11


def test_the_learning_rate_is_one_cycle():
    recipe = Recipe(max_lr=1.0, warmup=0.25)
    rates = [recipe.learning_rate(share / 100) for share in range(101)]
    assert max(rates) == rates[25] == 1
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[-1] == pytest.approx(0)
    assert Recipe(warmup=0.0, max_lr=2.0).learning_rate(0.0) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch": 0},
        {"warmup": 1.0},
        {"scale": -0.1},
        {"label_smoothing": 1.0},
        {"max_lr": math.nan},
        {"max_lr": math.inf},
        {"weight_decay": math.inf},
        {"rotation": math.inf},
        {"rotation": -math.inf},
        {"dropout": math.nan},
        {"optimiser": "lion"},
    ],
)
def test_a_recipe_that_cannot_be_cooked(settings):
    with pytest.raises(DataError, match=f"recipe: {next(iter(settings))} is"):
        Recipe(**settings)


def test_a_recipe_whose_preprocessing_there_is_not():
    with pytest.raises(DataError, match="preprocess has no setting 'aling'; it has centre, align"):
        Recipe(preprocess={"aling": "hips"})
    with pytest.raises(DataError, match="align is 'hip'; it is one of none, hips"):
        Recipe(preprocess={"align": "hip"})


def test_one_clip_is_too_few(clips):
    with pytest.raises(DataError, match="1 clips to train on"):
        train("stgcn", clips[0])
    with pytest.raises(DataError, match="no model is named"):
        train("lstm", clips)


def test_every_model_has_a_recipe():
    assert all(isinstance(recipe_for(name), Recipe) for name in names())


def test_the_epoch_with_the_lowest_validation_loss_is_kept(clips, tmp_path):
    recipe = Recipe(epochs=6, batch=6, max_lr=0.05, validation=0.0)
    judge = waves(seed=8, n=10)
    module, record, curves = train("stgcn", clips, recipe=recipe, options=OPTIONS, validation=judge, seed=1)
    losses = [epoch.validation_loss for epoch in curves["joint"]]
    best = losses.index(min(losses)) + 1
    assert best < 6  # else it does not tell the best from the last
    assert record.selection.epochs == {"joint": best}
    assert record.selection.n == 10
    found = measure(module, judge, record.build_preprocess())
    assert found.loss == pytest.approx(min(losses), rel=1e-4)
    save_weights(tmp_path / "a.b.safetensors", module, record)
    assert load_weights(tmp_path / "a.b.safetensors")[1].selection.epochs == {"joint": best}


@pytest.mark.parametrize("name", ["sgn", "hrnn"])
def test_what_chooses_the_epoch_is_what_the_network_will_answer(name):
    """Of a stream of motion too, in which who stands still has no numbers."""
    clips, judge = waves(6), waves(seed=8, n=10)
    for part in (clips, judge):
        part.xyz[:, :, 3:6] = part.xyz[:, :, 3:4]  # all stand still for a while
    recipe = Recipe(epochs=2, batch=6, validation=0.0)
    options = {"sgn": {"width": 8}, "hrnn": {"hidden1": 4, "hidden2": 4}}[name]
    module, record, curves = train(
        name, clips, recipe=recipe, options=options, streams=("joint_motion",), validation=judge, seed=1
    )
    found = measure(module, judge, record.build_preprocess())
    assert found.loss == pytest.approx(min(epoch.validation_loss for epoch in curves["joint_motion"]), rel=1e-4)


def test_a_killed_training_keeps_the_best_epoch_of_before(clips, tmp_path):
    recipe = Recipe(epochs=6, batch=6, max_lr=0.05, validation=0.0)
    arguments = {"recipe": recipe, "options": OPTIONS, "validation": waves(seed=8, n=10), "seed": 1}
    whole = train("stgcn", clips, **arguments)
    with pytest.raises(KilledError):
        train("stgcn", clips, **arguments, checkpoint=tmp_path / "a.partial", progress=killed_after(17))
    resumed = train("stgcn", clips, **arguments, checkpoint=tmp_path / "a.partial")
    assert same(resumed.module, whole.module)
    assert resumed.curves == whole.curves


def test_patience_ends_a_training_that_no_longer_gets_better(clips):
    recipe = Recipe(epochs=30, batch=6, max_lr=0.05, validation=0.0, patience=2)
    curves = train("stgcn", clips, recipe=recipe, options=OPTIONS, validation=waves(seed=8, n=10), seed=1).curves
    losses = [epoch.validation_loss for epoch in curves["joint"]]
    assert len(losses) < 30
    assert losses.index(min(losses)) == len(losses) - 3


def test_no_epoch_is_judged_before_recognition_begins():
    recipe = Recipe(epochs=30, batch=6, validation=0.0, patience=2)
    judge = waves(seed=8, n=4)
    module, record, curves = train("asgcn", waves(6), recipe=recipe, options=OPTIONS, validation=judge, seed=1)
    losses = [epoch.validation_loss for epoch in curves["joint"]]
    assert losses[:3] == [None] * 3  # a tenth of the epochs, in which the links alone train
    assert None not in losses[3:]
    best = losses.index(min(losses[3:])) + 1
    assert record.selection.epochs == {"joint": best}
    assert len(losses) == min(best + 2, 30)
    assert measure(module, judge, record.build_preprocess()).loss == pytest.approx(losses[best - 1], rel=1e-4)


def test_a_short_training_has_an_epoch_that_is_judged():
    recipe = Recipe(epochs=1, batch=6, validation=0.0)
    curves = train("asgcn", waves(6), recipe=recipe, options=OPTIONS, validation=waves(seed=8, n=4)).curves
    assert curves["joint"][0].validation_loss is not None


@pytest.mark.parametrize(("losses", "best"), [((math.nan, 2.0, 3.0), 2), ((2.0, math.nan), 1), ((math.inf, 1.0), 2)])
def test_a_loss_that_is_no_number_is_not_the_lowest(losses, best, tmp_path):
    epochs = [
        Epoch(epoch=number, learning_rate=1.0, loss=1.0, validation_loss=loss, validation_accuracy=0.5)
        for number, loss in enumerate(losses, 1)
    ]
    assert best_of(epochs).epoch == best
    write_curves(tmp_path / "c.json", {"joint": epochs}, {})
    assert json.loads((tmp_path / "c.json").read_text())["streams"]["joint"]["kept_epoch"] == best
    draw(tmp_path / "c.svg", {"joint": epochs}, "title")
    assert [Epoch.model_validate_json(epoch.model_dump_json()) for epoch in epochs] == epochs


@pytest.mark.parametrize(("optimiser", "kept"), [("adam", 2.0 - 0.1), ("adamw", 2.0 * (1 - 0.1 * 0.01))])
def test_adam_decays_by_way_of_the_gradient_and_adamw_by_itself(optimiser, kept):
    module, nothing = torch.nn.Linear(1, 1), torch.nn.Module()
    torch.nn.init.constant_(module.weight, 2.0)
    step = optimiser_of(module, nothing, Recipe(optimiser=optimiser, max_lr=0.1, weight_decay=0.01))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step.step()
    # Adam takes a step of the learning rate, however small the gradient.
    assert module.weight.item() == pytest.approx(kept, abs=1e-5)


def test_the_published_recipe_of_sgn_is_adam():
    assert recipe_for("sgn", "published").optimiser == "adam"


@given(
    counts=st.lists(st.integers(0, 30), min_size=2, max_size=5).filter(lambda counts: sum(counts) > 1),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_what_is_held_out_is_the_same_share_of_each_class(counts, share, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    n = len(labels)
    clips = dataclasses.replace(
        waves(n), labels=labels, classes=tuple(map(str, range(len(counts)))), ids=tuple(map(str, range(n)))
    )
    part, kept = hold_out(clips, share, seed)
    kept_ids = set(kept.ids) if kept else set()
    assert kept_ids.isdisjoint(part.ids)
    assert kept_ids | set(part.ids) == set(clips.ids)
    for label, count in enumerate(counts):
        found = 0 if kept is None else int((kept.labels == label).sum())
        assert found <= max(count - 1, 0)
        assert abs(found - share * count) <= 0.51 or found == count - 1
    assert hold_out(clips, share, seed)[0].ids == part.ids


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_a_mirror_swaps_sides_and_keeps_bodies_upright(up):
    xyz, axis = torch.randn(200, 1, 3, 17, 3), "xyz".index(up)
    image = mirrored(xyz, up, COCO17)
    torch.testing.assert_close(mirrored(image, up, COCO17), xyz)
    left, right = (list(side) for side in zip(*COCO17.pairs, strict=True))
    torch.testing.assert_close(image[..., left, axis], xyz[..., right, axis])
    torch.testing.assert_close(torch.linalg.vector_norm(image[..., left, :], dim=-1), xyz[..., right, :].norm(dim=-1))
    assert (torch.linalg.det(xyz[:, 0, 0, :3]) * torch.linalg.det(image[:, 0, 0, [0, 2, 1]]) < 0).all()
    plain = Recipe(scale=0.0, rotation=0.0, mirror=0.3)
    shown = varied(xyz, plain, up, COCO17, torch.Generator().manual_seed(0))
    swapped = (shown == image).flatten(1).all(1)
    assert torch.equal(shown[~swapped], xyz[~swapped])
    assert 0.2 < swapped.float().mean() < 0.4


def test_a_cut_in_time_is_the_line_between_frames():
    times = torch.linspace(0, 1, 9)
    xyz = (1 + times).view(1, 1, 9, 1, 1).expand(3, 2, 9, 17, 3).contiguous()
    xyz[1, 1] = 0
    start, length = torch.tensor([0.0, 0.25, 0.5]), torch.tensor([1.0, 0.5, 0.3])
    found = stretched(xyz, start, length)
    expected = 1 + start[:, None] + length[:, None] * times
    torch.testing.assert_close(found[:, 0, :, 4, 1], expected)
    assert not found[1, 1].any()
    assert not (varied(xyz, Recipe(crop=0.5), "y", COCO17, torch.Generator().manual_seed(0))[1, 1]).any()


def test_streams_are_trained_apart_and_answer_together(clips, tmp_path):
    recipe = Recipe(epochs=2, batch=6, validation=0.0)
    arguments = {"recipe": recipe, "options": OPTIONS, "seed": 3, "checkpoint": tmp_path / "w.safetensors.partial"}
    module, record, curves = train("stgcn", clips, **arguments, streams=("joint", "bone_motion"), fusion=(0.6, 0.4))
    assert isinstance(module, Fused)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "w.safetensors.bone_motion.partial",
        "w.safetensors.partial",
    ]
    assert list(curves) == ["joint", "bone_motion"]
    alone = train("stgcn", clips, recipe=recipe, options=OPTIONS, seed=3)
    assert same(module.network("joint"), alone.module)
    xyz = record.build_preprocess()(clips.xyz)
    parts = [module.network(stream)(shown(stream, xyz, COCO17)) for stream in module.streams]
    torch.testing.assert_close(module(xyz), 0.6 * parts[0] + 0.4 * parts[1])
    save_weights(tmp_path / "a.b.safetensors", module, record)
    again, read = load_weights(tmp_path / "a.b.safetensors")
    assert read.streams == ("joint", "bone_motion")
    assert read.fusion == (0.6, 0.4)
    assert same(again, module)
    victim = fb.create_victim(tmp_path / "a.b.safetensors")
    check_victim(victim, clips)
    moved = clips.xyz[:1].clone().requires_grad_()
    gradient = torch.autograd.grad(victim.logits(moved)[0, 0], moved)[0]
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("streams", [("limb",), ("joint", "joint"), ()])
def test_streams_that_there_are_not(clips, streams):
    with pytest.raises(DataError, match="stream"):
        train("stgcn", clips, recipe=RECIPE, options=OPTIONS, streams=streams)


@pytest.mark.parametrize(
    ("streams", "fusion", "says"),
    [
        (("joint", "bone"), (math.nan, 1.0), "stream 'joint' is nan"),
        (("joint", "bone"), (1.0, -math.inf), "stream 'bone' is -inf"),
        (("joint", "bone"), (1.0,), "1 fusion weights for 2 streams"),
        (("joint",), (7.0, 8.0, 9.0), "3 fusion weights for 1 streams"),
        (("joint",), (7.0,), "the only stream, 'joint', is 7; there is nothing to weigh it against"),
    ],
)
def test_fusion_weights_are_looked_at_before_the_work(clips, streams, fusion, says, tmp_path, monkeypatch, capsys):
    with pytest.raises(DataError, match=says):
        train("stgcn", clips, recipe=RECIPE, options=OPTIONS, streams=streams, fusion=fusion, progress=killed_after(1))
    monkeypatch.chdir(tmp_path)
    text = ",".join(map(str, fusion))
    command = ["train", "stgcn", "--data", "nowhere.npz", "--out", "w", "--streams", ",".join(streams)]
    assert main([*command, "--fusion", text]) == 2
    assert says in capsys.readouterr().err


def test_tables_of_the_recipe_can_be_set(tmp_path, capsys):
    npz.write(tmp_path / "waves.npz", waves())
    command = ["train", "stgcn", "--data", str(tmp_path / "waves.npz"), "--frames", "8", "--epochs", "1"]
    tables = ["--set", "preprocess.align=hips", "--set", "options.width=4", "--set", "warmup=0.25"]
    assert main([*command, *tables, "--out", str(tmp_path / "w.safetensors"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["preprocess"]["align"] == "hips"
    assert document["preprocess"]["hips"] == [11, 12]
    assert document["options"]["width"] == 4
    assert document["recipe"]["warmup"] == 0.25
    assert (document["precision"], document["processes"]) == ("fp32", 1)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("preprocess=hips", ["'preprocess=hips'", "write preprocess.KEY=VALUE"]),
        ("preprocess.align", ["'preprocess.align'", "write preprocess.KEY=VALUE"]),
        ("preprocess.aling=hips", ["no setting 'aling'", "centre, align"]),
        ("preprocess.align=hip", ["align is 'hip'", "'none'", "'hips'"]),
        ("preprocess.up=z", ["no setting 'up'", "those of the clips"]),
        ("options.width=wide", ["width is 'wide'", "a whole number"]),
        ("options=4", ["write options.KEY=VALUE"]),
        ("batch.size=4", ["'batch' holds no settings", "options.width=32"]),
        ("batch=4.5", ["batch is '4.5'", "integer"]),
    ],
)
def test_settings_that_there_are_not(setting, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "stgcn", "--data", "nowhere.npz", "--out", "w", "--set", setting]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(part in err for part in says), err


def test_curves_are_written_and_drawn(clips, whole, tmp_path):
    write_curves(tmp_path / "c.json", whole.curves, {"model": "stgcn"})
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["model"] == "stgcn"
    assert [row["epoch"] for row in document["streams"]["joint"]["epochs"]] == [1, 2, 3, 4]
    draw(tmp_path / "c.svg", whole.curves, "stgcn on waves")
    assert "<svg" in (tmp_path / "c.svg").read_text()


def test_half_precision_learns_what_full_precision_learns(clips):
    pytest.importorskip("accelerate")
    recipe = Recipe(epochs=3, batch=6, validation=0.0)
    full = train("stgcn", clips, recipe=recipe, options=OPTIONS).curves["joint"]
    half = train("stgcn", clips, recipe=recipe, options=OPTIONS, device=hardware("cpu", "bf16")).curves["joint"]
    assert [epoch.loss for epoch in half] != [epoch.loss for epoch in full]
    assert half[-1].loss == pytest.approx(full[-1].loss, rel=0.1)


def test_a_training_in_half_precision_is_another_one(clips, tmp_path):
    pytest.importorskip("accelerate")
    arguments = {"recipe": Recipe(epochs=1, validation=0.0), "options": OPTIONS, "checkpoint": tmp_path / "a.partial"}
    record = train("stgcn", clips, **arguments, device=hardware("cpu", "bf16")).record
    assert (record.precision, record.processes) == ("bf16", 1)
    with pytest.raises(DataError, match=r"another training: precision differ.*remove .*a\.partial"):
        train("stgcn", clips, **arguments)
    older = record.model_dump(exclude={"precision", "processes"})
    assert type(record)(**older).precision is None


# One step along the gradient, whose length is that of the gradient: equal weights are equal gradients.
STEP = {"epochs": 1, "optimiser": "sgd", "schedule": "cosine", "warmup": 0.0, "max_lr": 1.0, "weight_decay": 0.0}
SIZES = {"hidden1": 6, "hidden2": 6, "hidden3": 6, "hidden4": 6}
# Clips and batch: shares of 3 + 3 and of 3 + 2 clips, and two steps of 1 + 0.
SHARES = ((6, 6), (5, 5), (2, 1))

LAUNCHED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from test_training import KilledError, killed_after, one_step, refined
from funnybone.models import save_weights
from funnybone.training import hardware

torch.set_num_threads(1)
folder, place = Path({folder!r}), hardware("cpu")
assert place.ranks == 2

def keep(name, trained):
    save_weights(folder / f"{{name}}.rank{{place.rank}}.safetensors", trained.module, trained.record)

for clips, batch in {shares!r}:
    keep(f"{{clips}}", one_step(clips, batch, place))
keep("whole", refined(place))
checkpoint = folder / "a.partial"
try:
    refined(place, checkpoint=checkpoint, progress=killed_after(5))
    raise SystemExit("was not killed")
except KilledError:
    place.wait()
keep("resumed", refined(place, checkpoint=checkpoint))
"""


def one_step(n, batch, place="cpu"):
    """A network without batch norm and dropout: what a clip teaches it does not hang on who is beside it."""
    recipe = Recipe(**STEP, batch=batch, validation=0.0)
    return train("hrnn", waves(n), recipe=recipe, options=SIZES, seed=3, device=place)


def refined(place, **arguments):
    """FR-Head, whose objective has batch norms and prototypes of its own."""
    recipe = Recipe(epochs=2, batch=5, validation=0.0)
    return train("frhead", waves(15), recipe=recipe, options=OPTIONS, seed=3, device=place, **arguments)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A function that reads the network of each of two processes, of a training of this name."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("launched")
    script = folder / "launched.py"
    script.write_text(LAUNCHED.format(tests=str(Path(__file__).parent), folder=str(folder), shares=SHARES))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([sys.executable, *launch, str(script)], check=True, timeout=500)
    return lambda name: [load_weights(folder / f"{name}.rank{rank}.safetensors") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "batch"), SHARES)
def test_the_gradient_of_two_processes_is_that_of_the_whole_batch(launched, n, batch):
    (first, record), (second, _) = launched(f"{n}")
    assert record.processes == 2
    assert same(first, second)
    alone = one_step(n, batch).module
    for key, value in first.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[key], atol=1e-6, rtol=0)
    start = train("hrnn", waves(n), recipe=Recipe(**{**STEP, "max_lr": 0.0}), options=SIZES, seed=3).module
    assert max((a - b).abs().max() for a, b in zip(first.parameters(), start.parameters(), strict=True)) > 0.01


@pytest.mark.slow
def test_two_processes_resume_with_the_prototypes_of_both(launched):
    whole, resumed = launched("whole"), launched("resumed")
    assert same(whole[0][0], whole[1][0])
    assert same(resumed[0][0], resumed[1][0])
    assert same(resumed[0][0], whole[0][0])
    fresh = create("frhead", skeleton=COCO17, num_classes=2, persons=1, frames=12, **OPTIONS)
    constant = [key for key, _ in fresh.named_buffers() if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(whole[0][0].get_buffer(key), fresh.get_buffer(key)) for key in constant)


def test_a_package_that_is_not_installed_is_named(monkeypatch, clips, whole, tmp_path):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(DataError, match=r"accelerate, which is not installed; pip install 'funnybone\[train\]'"):
        hardware("cpu", "bf16")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DataError, match="matplotlib"):
        draw(tmp_path / "c.svg", whole.curves, "title")
