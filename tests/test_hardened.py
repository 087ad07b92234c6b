"""What is put around a victim leaves it alone, says what it is, and goes through a file unchanged."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import funnybone as fb
from funnybone.errors import DataError
from funnybone.models import load_weights
from funnybone.models.weights import AccuracyRecord
from funnybone.testing import check_defense, linear_victim
from funnybone.victims import CallableVictim, forms, save_victim
from funnybone.victims.adapted import Adapted
from funnybone.victims.filtered import Filter, Filtered
from funnybone.victims.hardened import Fitted
from funnybone.victims.smoothed import Noise, Smoothed
from hardened_for_tests import small_base, some_clips

SMALL = [
    ("lowpass", {"mode": "gaussian"}),
    ("smoothing", {"sigma": 0.05}),
    ("smoothing", {"sigma": 0.05, "space": "joint_angles", "draws": 2}),
]


@pytest.fixture
def clips():
    return some_clips()


@pytest.fixture
def base(clips):
    return small_base(clips)


def hardened(base, clips, name="smoothing", **settings):
    return fb.create_defense(name, **settings).fit(base, clips)


@pytest.fixture
def file(base, clips, tmp_path):
    """A victim with a tensor and settings of its own around it, in a file."""
    path = tmp_path / "hardened.safetensors"
    save_victim(path, hardened(base, clips, sigma=0.05, space="joint_angles"))
    return path


def changed(path, change):
    """Write a file again with another record or other tensors, and without the hash that would betray it."""
    with safe_open(path, "pt") as opened:
        record = json.loads(opened.metadata()["funnybone"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  not a dict
    record["sha256"] = None
    change(record, tensors)
    save_file(tensors, path, {"funnybone": json.dumps(record)})
    return path


@pytest.mark.parametrize(("name", "settings"), SMALL)
def test_these_defenses_pass_the_exam(name, settings, base, clips):
    check_defense(fb.create_defense(name, **settings), base, clips)


def test_what_the_base_says_of_itself_holds(base, clips):
    victim = hardened(base, clips, "lowpass")
    for key in ("skeleton", "classes", "access", "frames", "persons", "up", "unit", "parameters", "stochastic"):
        assert getattr(victim, key) == getattr(base, key), key
    assert (victim.name, victim.defense) == ("small+lowpass", "lowpass")
    assert victim.ways_in()["base"] is base


def test_a_form_is_put_around_another_base_as_it_is(base, clips):
    for victim in (hardened(base, clips, "lowpass"), hardened(base, clips, sigma=0.05, space="joint_angles")):
        inner = hardened(base, clips, "lowpass", keep=0.1)
        other = victim.around(inner)
        assert (type(other), other.settings, other.base) == (type(victim), victim.settings, inner)
        assert all(torch.equal(value, other.tensors()[key]) for key, value in victim.tensors().items())
        assert (other.defense, victim.around(base).defense) == (f"lowpass+{victim.defense}", victim.defense)


def test_ways_into_many_layers_add_up(base, clips):
    victim, counts = base, []
    for _ in range(4):
        victim = hardened(victim, clips, "lowpass", keep=0.5)
        counts.append(len(victim.ways_in()))
    assert counts == [1, 3, 5, 7]
    assert list(victim.ways_in())[:3] == ["base", "filtered base", "filtered filtered base"]
    assert list(victim.ways_in())[-2:] == ["filtered innermost base", "innermost base"]
    assert victim.ways_in()["filtered innermost base"].base is base


def test_where_a_form_does_not_fit_a_way_is_offered_without_it(clips):
    shut = CallableVictim(torch.flatten, skeleton=clips.skeleton, classes=clips.classes, access="scores")

    class Open(fb.TorchVictim):
        def ways_in(self):
            return {"scores": shut}

    base = Open(linear_victim(clips).module, skeleton=clips.skeleton, classes=clips.classes)
    ways = Adapted(base, {}, defense="trades").ways_in()
    assert list(ways) == ["base", "base, scores"]
    assert ways["base, scores"] is shut


def test_a_defense_around_a_defense_goes_through_one_file(base, clips, tmp_path):
    victim = hardened(hardened(base, clips, "lowpass", keep=0.5), clips, sigma=0.05, space="joint_angles")
    victim = hardened(victim, clips, sigma=0.1, space="joint_angles")  # of which both have a tensor of one name
    save_victim(tmp_path / "both.safetensors", victim)
    loaded = fb.create_victim(tmp_path / "both.safetensors")
    assert loaded.fingerprint == victim.fingerprint
    assert loaded.name == "both"
    assert [loaded.defense, loaded.base.defense, loaded.base.base.defense] == ["smoothing", "smoothing", "lowpass"]
    assert loaded.base.base.base.fingerprint == base.fingerprint
    assert [loaded.noise.sigma, loaded.base.noise.sigma] == [0.1, 0.05]
    # The base is whole again: what is made of it, and it itself, can be saved once more.
    again = save_victim(tmp_path / "base.safetensors", loaded.base.base.base)
    assert (again.defense, again.accuracy) == (None, None)


def test_a_file_says_on_what_a_defense_was_fitted(base, clips, tmp_path):
    inner = fb.create_defense("lowpass").fit(base, clips)
    inner.fitted = Fitted.of(clips[:3], clips[3:], split="!subject:s0", seed=7)
    save_victim(tmp_path / "two.safetensors", fb.create_defense("smoothing").fit(inner, clips))
    outer = fb.create_victim(str(tmp_path / "two.safetensors"))
    assert outer.fitted is None
    assert outer.base.fitted == inner.fitted
    assert inner.fitted != Fitted.of(clips[:3], None, split="!subject:s0", seed=7)
    assert inner.fitted.sha256 != Fitted.of(clips, None, split="!subject:s0", seed=7).sha256


def test_a_file_holds_no_more_layers_than_it_can_be_read_with(base, clips, tmp_path):
    victim, path = base, tmp_path / "deep.safetensors"
    for _ in range(8):
        victim = hardened(victim, clips, "lowpass")
    save_victim(path, victim)
    assert fb.create_victim(path).fingerprint == victim.fingerprint
    with pytest.raises(DataError, match="9 defenses around each other"):
        save_victim(tmp_path / "never.safetensors", hardened(victim, clips, "lowpass"))
    assert [file.name for file in tmp_path.iterdir()] == ["deep.safetensors"]


def test_what_a_retrained_network_was_hardened_by_is_kept(clips, tmp_path):
    base = small_base(clips, defense={"name": "trades", "settings": {"beta": 6.0}, "seconds": 3})
    record = save_victim(tmp_path / "plain.safetensors", base)
    assert fb.create_victim(tmp_path / "plain.safetensors").defense == "trades"
    assert record.accuracy == base.record.accuracy
    save_victim(tmp_path / "both.safetensors", hardened(base, clips, "lowpass"))
    loaded = fb.create_victim(tmp_path / "both.safetensors")
    assert (loaded.defense, loaded.base.defense) == ("lowpass", "trades")
    assert loaded.base.record.defense == base.record.defense
    assert loaded.fingerprint == hardened(base, clips, "lowpass").fingerprint


def test_the_accuracy_of_the_base_is_not_said_to_be_that_of_the_hardened(base, clips, tmp_path):
    victim, chance = hardened(base, clips, "lowpass"), torch.get_rng_state()
    assert save_victim(tmp_path / "a.safetensors", victim).accuracy is None
    assert torch.equal(chance, torch.get_rng_state())
    measured = AccuracyRecord(value=0.25, ci95=(0.1, 0.5), n=8, split="subject:s0")
    save_victim(tmp_path / "b.safetensors", victim, accuracy=measured)
    assert load_weights(tmp_path / "b.safetensors")[1].accuracy == measured


def test_the_fingerprint_is_of_all_that_decides_the_answers(clips):
    base, other = linear_victim(clips), linear_victim(clips, distance=0.1)
    prints = [
        base.fingerprint,
        Filtered(base, Filter(), defense="lowpass").fingerprint,
        Filtered(base, Filter(keep=0.5), defense="lowpass").fingerprint,
        Filtered(other, Filter(), defense="lowpass").fingerprint,
        hardened(base, clips, sigma=0.05).fingerprint,
        hardened(base, clips, sigma=0.05, space="joint_angles").fingerprint,
        hardened(base, clips[[0]], sigma=0.05, space="joint_angles").fingerprint,  # another rest pose
    ]
    assert len(set(prints)) == len(prints)
    assert Filtered(base, Filter(), defense="lowpass", name="x").fingerprint == prints[1]


def test_a_victim_that_answers_labels_can_be_hardened(clips):
    base = linear_victim(clips, distance=0.2)
    shut = CallableVictim(lambda xyz: base.labels(xyz), skeleton=clips.skeleton, classes=clips.classes)
    filtered = Filtered(shut, Filter(keep=0.3), defense="lowpass")
    assert filtered.access == "labels"
    assert torch.equal(filtered.labels(clips.xyz), base.labels(Filter(keep=0.3)(clips.xyz)))
    smoothed = Smoothed(shut, Noise(sigma=0.02, draws=5), defense="smoothing")
    assert torch.equal(smoothed.labels(clips.xyz), clips.labels)  # ten standard deviations from the border
    assert torch.equal(smoothed.certify(clips, n=64).prediction, clips.labels)
    check_defense(fb.create_defense("lowpass"), shut, clips)


def unpickled(base):
    return CallableVictim(lambda xyz: base.labels(xyz), skeleton=base.skeleton, classes=base.classes, name="f")


def without_record(base):
    victim = copy.copy(base)
    victim.record = None
    return victim


def with_another_record(base):
    victim = copy.copy(base)
    victim.record = base.record.model_copy(update={"preprocess": {"centre": "none"}})
    return victim


def of_another_size(base):
    victim = copy.copy(base)
    victim.record = base.record.model_copy(update={"options": {**base.record.options, "hidden4": 8}})
    return victim


def who_says_more_than_the_record(base):
    victim = copy.copy(base)
    victim.defense = "trades"
    return victim


@pytest.mark.parametrize(
    ("changed_base", "says"),
    [
        (unpickled, "CallableVictim 'f' is no network of this library"),
        (without_record, "the network of 'small' has no record"),
        (with_another_record, "the record of 'small' is another network's"),
        (of_another_size, "has shape"),
        (who_says_more_than_the_record, "'small' is hardened by trades, its record says None"),
    ],
)
def test_what_no_file_can_hold_is_refused(base, clips, tmp_path, changed_base, says):
    for victim in (changed_base(base), hardened(changed_base(base), clips, "lowpass")):
        with pytest.raises(DataError, match=says):
            save_victim(tmp_path / "never.safetensors", victim)
    assert not list(tmp_path.iterdir())


def at(*path, value):
    def change(record, tensors):
        *way, last = path
        for key in way:
            record = record[key]
        record[last] = value

    return change


def tensor(key, value):
    def change(record, tensors):
        tensors.pop(f"defense.{key}", None)
        if value is not None:
            tensors[f"defense.{key}"] = value

    return change


def inner_tensor(record, tensors):
    record["defense"]["base"] = {"name": "x", "form": "filtered"}
    tensors["defense.base.rest"] = torch.ones(16, 3)


def nested(layers):
    def change(record, tensors):
        for _ in range(layers):
            record["defense"] = {"name": "x", "form": "filtered", "base": record["defense"]}

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (at("defense", "form", value="smothered"), "did you mean 'smoothed'"),
        (at("defense", "form", value=3), "field defense.form"),
        (at("defense", "name", value=None), "field defense.name"),
        (at("defense", value={"form": "smoothed"}), "field defense.name: Field required"),
        (at("defense", "form", value=None), "what hardened it has no tensor 'rest'"),
        (at("defense", "form_settings", value=[1]), "field defense.form_settings"),
        (at("defense", "form_settings", "sigma", value="loud"), "sigma is 'loud'"),
        (at("defense", "form_settings", "sigma", value=-1.0), "sigma is -1"),
        (at("defense", "form_settings", "draws", value=0.5), "draws is 0.5"),
        (at("defense", "form_settings", "draws", value=True), "draws is True"),
        (at("defense", "form_settings", "draws", value=10**12), "draws is 1000000000000"),
        (at("defense", "form_settings", "space", value="feelings"), "space is 'feelings'"),
        (at("defense", "form_settings", "space", value="positions"), "no rest pose"),
        (at("defense", "form_settings", "volume", value=1), "no setting 'volume'"),
        (at("defense", "base", value={"name": "x", "base": {"name": "y"}}), "trained network's defense has a base"),
        (inner_tensor, "filtered has no tensor 'rest'"),
        (nested(8), "9 defenses around each other"),
        (nested(90), "91 defenses around each other"),
        (nested(500), "recursion limit"),
        (tensor("rest", None), "the rest pose is None"),
        (tensor("rest", torch.ones(3, 3)), r"the rest pose is torch.float32 \(3, 3\)"),
        (tensor("rest", torch.full((16, 3), torch.nan)), "length is not 1"),
        (tensor("rest", torch.zeros(16, 3)), "length is not 1"),
        (tensor("rest", torch.ones(16, 3, dtype=torch.int64)), "the rest pose is torch.int64"),
        (tensor("extra", torch.ones(2)), "no tensor 'extra'"),
    ],
)
def test_a_damaged_file_says_in_one_line_what_is_wrong(file, change, says):
    changed(file, change)
    with pytest.raises(DataError, match=says) as caught:
        fb.create_victim(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_a_changed_tensor_of_a_defense_is_noticed(file):
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  not a dict
    tensors["defense.rest"] += 1
    save_file(tensors, file, metadata)
    with pytest.raises(DataError, match="do not match field 'sha256'"):
        fb.create_victim(file)


def test_forms_are_found_by_name():
    assert {"filtered", "smoothed"} <= set(forms.names())
    assert forms["filtered"] is Filtered
