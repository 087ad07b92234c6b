"""What a network costs is what its products cost, counted by hand."""

import pytest
import torch

from funnybone.models import cost, create
from funnybone.skeletons import COCO17


@pytest.mark.parametrize("persons", [1, 2])
def test_the_products_of_a_recurrent_network(persons):
    h1, h2, h3, h4, frames, classes = 3, 4, 5, 6, 11, 7
    sizes = {"hidden1": h1, "hidden2": h2, "hidden3": h3, "hidden4": h4}
    network = create("hrnn", skeleton=COCO17, num_classes=classes, persons=persons, **sizes)
    # What enters the layers of five parts (as one product), four limbs, two halves and the body, in both directions.
    enters = 17 * 3 * 10 * h1 + 4 * 4 * h1 * 2 * h2 + 2 * 4 * h2 * 2 * h3 + 4 * h3 * 8 * h4
    # What each state brings to the next; the LSTM has four gates.
    recurs = 10 * h1**2 + 8 * h2**2 + 4 * h3**2 + 2 * h4 * 4 * h4
    products = persons * (frames * enters + (frames - 1) * recurs) + 2 * h4 * classes
    assert cost(network, frames)["gflops"] == pytest.approx(2 * products / 1e9, rel=1e-12)


def test_counting_leaves_the_modes_of_all_parts():
    network = create("stgcn", skeleton=COCO17, num_classes=2, persons=1, width=4).train()
    network.data_bn.eval()
    modes = [part.training for part in network.modules()]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    cost(network)
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
