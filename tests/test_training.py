"""Training depends on the seed, the recipe and the data alone, however often it was killed on the way."""

import math

import pytest
import torch

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.models import Preprocess, Recipe, create, load_weights, names, recipe_for, save_weights
from funnybone.models.weights import read_tensors, write_tensors
from funnybone.skeletons import COCO17
from funnybone.training import evaluate, train
from funnybone.training.augment import varied
from funnybone.training.checkpoint import CheckpointRecord

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


def test_evaluate_leaves_the_mode_and_counts(clips):
    module = create("stgcn", skeleton=COCO17, num_classes=2, persons=1, **OPTIONS).train()
    with torch.no_grad():
        module.fcn.weight.zero_()
        module.fcn.bias.copy_(torch.tensor([1.0, 0.0]))
    assert evaluate(module, clips).value == 0.5
    assert module.training


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_random_turns_keep_the_vertical_and_the_shape(up):
    xyz, axis = torch.randn(50, 1, 3, 17, 3), "xyz".index(up)
    generator = torch.Generator().manual_seed(0)
    turned = varied(xyz, Recipe(scale=0.0), up, generator)
    torch.testing.assert_close(turned[..., axis], xyz[..., axis])
    torch.testing.assert_close(COCO17.bone_lengths(turned), COCO17.bone_lengths(xyz))
    assert (turned - xyz).abs().amax((1, 2, 3, 4)).min() > 0.001
    assert torch.equal(varied(xyz, Recipe(scale=0.0, rotation=0.0), up, generator), xyz)
    ratio = (varied(xyz, Recipe(rotation=0.0), up, generator) / xyz).flatten(1)
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
    ],
)
def test_a_recipe_that_cannot_be_cooked(settings):
    with pytest.raises(DataError, match=f"recipe: {next(iter(settings))} is"):
        Recipe(**settings)


def test_one_clip_is_too_few(clips):
    with pytest.raises(DataError, match="1 clips to train on"):
        train("stgcn", clips[0])
    with pytest.raises(DataError, match="no model is named"):
        train("lstm", clips)


def test_every_model_has_a_recipe():
    assert all(isinstance(recipe_for(name), Recipe) for name in names())
