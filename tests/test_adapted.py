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
from retraining_for_tests import Remembered, saved, waves


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


@pytest.mark.parametrize(("name", "settings"), [("pgd-at", {"steps": 1, "rank": 1}), ("gaussian", {"rank": 0})])
def test_a_defense_that_leaves_the_weights_alone_passes_the_exam(name, settings, victim, clips):
    check_defense(create_defense(name, epochs=3, **settings), victim, clips[:6], resumes=True)


def test_it_is_the_base_with_something_beside_it(victim, clips):
    hardened = create_defense("gaussian", epochs=1, rank=1).fit(victim, clips)
    assert isinstance(hardened, Adapted)
    assert hardened.base is victim
    assert hardened.ways_in()["base"] is victim
    assert not torch.allclose(hardened.logits(clips.xyz), victim.logits(clips.xyz), atol=1e-5)
    assert hardened.parameters < 2 * victim.parameters
    moved = hardened.to("cpu")
    assert torch.equal(moved.logits(clips.xyz), hardened.logits(clips.xyz))
    assert moved.fingerprint == hardened.fingerprint != victim.fingerprint


def test_what_a_filter_lets_through_is_what_the_network_is_trained_on(victim, clips, tmp_path):
    filtered = create_defense("lowpass", keep=0.2).fit(victim, clips)
    seen = Remembered()
    arguments = {"recipe": Recipe(epochs=1, batch=12, validation=0.0), "options": {"width": 4}, "method": seen}
    train("stgcn", clips, **arguments, start=victim.module.state_dict(), front=filtered.filter)
    for name, settings in (("gaussian", {}), ("gaussian", {"rank": 1})):
        hardened = create_defense(name, epochs=1, **settings).fit(filtered, clips)
        assert hardened.filter == filtered.filter
        assert hardened.base.defense == name
        assert hardened.name == f"{victim.name}+{name}+lowpass"
        save_victim(tmp_path / "both.safetensors", hardened)
        assert fb.create_victim(tmp_path / "both.safetensors").fingerprint == hardened.fingerprint


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
    train("stgcn", clips, **arguments, preprocess=preprocess, start=start, front=filtered.filter)
    assert torch.allclose(answers["found"], answers["meant"], atol=1e-5)


@pytest.mark.parametrize(
    ("corrections", "says"),
    [
        ({"nothing.by": torch.ones(2)}, "nothing.by, which the network does not have"),
        ({"fc.bias.by": torch.ones(1)}, "a correction has shapes"),
        ({"fc.bias.by": torch.tensor([torch.nan, 1.0])}, "fc.bias.by has a number that is not finite"),
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
