"""Corrections beside frozen weights: nothing at first, all that is trained, and the weights stay as they were."""

import pytest
import torch

import funnybone as fb
from funnybone.defenses import create_defense
from funnybone.errors import DataError
from funnybone.models import Recipe, create, models
from funnybone.models.corrections import correct, corrected, corrections_of
from funnybone.skeletons import COCO17
from funnybone.testing import check_defense, linear_victim, random_clips
from funnybone.training import train
from funnybone.victims import save_victim
from funnybone.victims.adapted import Adapted
from narrow_models import NARROW
from retraining_for_tests import saved, waves


@pytest.fixture(scope="module")
def clips():
    return waves(12, persons=2, absent=True)


@pytest.fixture(scope="module")
def victim(clips, tmp_path_factory):
    trained = train("stgcn", clips, recipe=Recipe(epochs=2, batch=6, max_lr=0.01), options={"width": 4}, seed=3)
    return saved(trained, tmp_path_factory.mktemp("victims"))


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("rank", [0, 2])
def test_a_corrected_network_answers_as_before_until_it_is_trained(name, rank):
    clips = random_clips(4, persons=2, absent=True, frames=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = create(name, skeleton=COCO17, num_classes=3, persons=2, frames=16, **NARROW[name]).eval()
    plain = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        training = create(name, skeleton=COCO17, num_classes=3, persons=2, frames=16, **NARROW[name])
        training.load_state_dict(plain)
        correct(training, rank)
    assert torch.allclose(training(clips.xyz), network(clips.xyz), atol=1e-5)
    free = [parameter for parameter in training.parameters() if parameter.requires_grad]
    assert sum(map(torch.numel, free)) == sum(map(torch.numel, corrections_of(training).values()))
    training(clips.xyz).square().sum().backward()
    with torch.no_grad():
        for parameter in free:
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad.sign()
    found = corrections_of(training)
    assert any(bool(value.any()) for key, value in found.items() if not key.endswith(".down"))
    assert {key.rpartition(".")[2] for key in found} == ({"by", "down", "up"} if rank else {"by"})
    again = corrected(network, found)
    assert not torch.allclose(again(clips.xyz), network(clips.xyz), atol=1e-4)
    assert torch.allclose(again(clips.xyz), training(clips.xyz), atol=1e-4)
    assert all(torch.equal(value, plain[key]) for key, value in network.state_dict().items())


SMALL = {
    "pgd-at": {"steps": 1},
    "trades": {"steps": 1},
    "mart": {"steps": 1},
    "smart-at": {"steps": 1},
    "free-at": {"replays": 2},
    "gaussian": {},
    "mmat": {"on": 0.0, "off": 0.5, "steps": 1, "radius": 0.5, "farthest": 9.0},
}


@pytest.mark.parametrize(("name", "rank"), [("pgd-at", 1), ("gaussian", 0)])
def test_a_defense_that_leaves_the_weights_alone_passes_the_exam(name, rank, victim, clips):
    check_defense(create_defense(name, epochs=3, rank=rank, **SMALL[name]), victim, clips[:6], resumes=True)


@pytest.mark.parametrize("rank", [None, 1])
def test_so_does_one_that_trains_through_a_filter(rank, victim, clips):
    filtered = create_defense("lowpass", keep=0.2).fit(victim, clips)
    check_defense(create_defense("gaussian", epochs=3, rank=rank), filtered, clips[:6], resumes=True)


@pytest.mark.parametrize("name", SMALL)
def test_what_answers_is_the_network_that_was_trained(name, victim, clips, monkeypatch):
    """And the base's weights, and the statistics of its norms, are as they were."""
    kept = []

    def remembered(*arguments, **options):
        kept.append(train(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr("funnybone.defenses.retraining.train", remembered)
    before = victim.fingerprint
    hardened = create_defense(name, epochs=1, rank=1, **SMALL[name]).fit(victim, clips)
    assert victim.fingerprint == hardened.base.fingerprint == before
    (trained,) = kept
    meant = trained.module(victim.preprocess(clips.xyz))
    assert torch.allclose(hardened.logits(clips.xyz), meant, atol=1e-4)
    assert not torch.allclose(meant, victim.logits(clips.xyz), atol=1e-5)
    assert isinstance(hardened, Adapted)
    assert victim.parameters < hardened.parameters < 2 * victim.parameters
    assert list(hardened.ways_in()) == ["base"]
    assert hardened.fingerprint != before


@pytest.mark.parametrize("rank", [None, 1])
def test_a_network_behind_a_filter_is_trained_through_it(rank, victim, clips, tmp_path):
    filtered = create_defense("lowpass", keep=0.1).fit(victim, clips)
    defense = create_defense("gaussian", epochs=1, rank=rank)
    hardened, alone = defense.fit(filtered, clips), defense.fit(victim, clips)
    assert hardened.filter == filtered.filter
    assert (hardened.defense, hardened.base.defense) == ("gaussian+lowpass", "gaussian")
    assert hardened.name == f"{victim.name}+gaussian+lowpass"
    assert not torch.allclose(hardened.base.logits(clips.xyz), alone.logits(clips.xyz), atol=1e-5)
    save_victim(tmp_path / "both.safetensors", hardened)
    assert fb.create_victim(tmp_path / "both.safetensors").fingerprint == hardened.fingerprint


def test_a_checkpoint_of_a_training_without_the_filter_is_refused(victim, clips, tmp_path):
    def stop(done, total, text):
        if 2 * done >= total:
            raise KeyboardInterrupt

    filtered = create_defense("lowpass", keep=0.1).fit(victim, clips)
    defense = create_defense("gaussian", epochs=4, rank=1)
    with pytest.raises(KeyboardInterrupt):
        defense.fit(victim, clips, progress=stop, checkpoint=tmp_path / "partial")
    with pytest.raises(DataError, match="a checkpoint of another training: defense differ"):
        defense.fit(filtered, clips, checkpoint=tmp_path / "partial")


def test_a_method_asks_through_what_is_in_front(victim, clips):
    filtered = create_defense("lowpass", keep=0.2).fit(victim, clips)
    answers = {}

    class Asks(type(create_defense("gaussian"))):
        def prepare(self, network):
            network.eval()

        def loss(self, batch):
            order = [clips.ids.index(name) for name in batch.clips.ids]
            answers["found"] = batch.answer(clips.xyz[order]).detach()
            answers["meant"] = filtered.logits(clips.xyz[order])
            return batch.loss(batch.clips.xyz)

    arguments = {"recipe": Recipe(epochs=1, batch=12, validation=0.0), "options": {"width": 4}, "method": Asks()}
    preprocess = victim.record.build_preprocess()
    start = victim.module.state_dict()
    train("stgcn", clips, **arguments, preprocess=preprocess, start=start, fronts=[filtered.filter])
    assert torch.allclose(answers["found"], answers["meant"], atol=1e-5)


@pytest.mark.parametrize(
    ("corrections", "says"),
    [
        ({"nothing.by": torch.ones(2)}, "nothing.by, which the network does not have"),
        ({"fc.bias.by": torch.ones(1)}, "a correction has shapes"),
        (
            {"fc.bias.by": torch.tensor([torch.nan, 1.0])},
            "with its correction, fc.bias has a number that is not finite",
        ),
        ({"fc.weight.up": torch.full((2, 1), 3e38), "fc.weight.down": torch.full((1, 16), 9.0)}, "is not finite"),
        ({"fc.bias.by": torch.full((2,), 1e300, dtype=torch.float64)}, "a correction is of torch.float64"),
        ({"fc.bias.by": torch.ones(2, dtype=torch.int64)}, "a correction is of torch.int64"),
        ({"fc.bias.by": torch.ones(2), "fc.bias.up": torch.ones(2)}, "a correction has shapes"),
        ({"fc.weight.up": torch.ones(2, 1)}, "a correction has shapes"),
        ({"fc.weight.up": torch.ones(2, 1), "fc.weight.down": torch.ones(2, 3)}, "a correction has shapes"),
        ({"fc.weight.up": torch.ones(()), "fc.weight.down": torch.ones(())}, "a correction has shapes"),
        ({"fc.bias.up": torch.ones(2, 1), "fc.bias.down": torch.ones(1, 1)}, "a correction has shapes"),
    ],
)
def test_corrections_of_another_network_are_refused(corrections, says, victim):
    names = dict(victim.module.named_parameters())
    last = next(name for name in names if name.startswith("f") and name.endswith("weight")).rpartition(".")[0]
    own = {key.replace("fc", last): value for key, value in corrections.items()}
    with pytest.raises(DataError, match=says.replace("fc", last)):
        Adapted(victim, own, defense="pgd-at")


def test_what_cannot_be_corrected_is_refused():
    clips = random_clips(4)
    with pytest.raises(DataError, match="rank is -1"):
        create_defense("pgd-at", rank=-1)
    with pytest.raises(DataError, match="rank is 1"):
        create_defense("pgd-at", rank=1, from_scratch=True)
    with pytest.raises(DataError, match="is no network"):
        Adapted(create_defense("lowpass").fit(linear_victim(clips), clips), {}, defense="pgd-at")
