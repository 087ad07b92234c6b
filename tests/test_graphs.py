"""Graphs are those of the skeletons, or on request those that published code used in their place."""

import pytest
import torch

from funnybone.errors import DataError
from funnybone.models import create
from funnybone.models.graphs import adjacency, directed_partition, graph_of, spatial_partition
from funnybone.skeletons import ALL, COCO17, HDM05_25, NTU25


@pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)
def test_the_directed_partition_moves_each_joint_to_its_parent_and_back(skeleton):
    own, inward, outward = directed_partition(graph_of(skeleton))
    x = torch.eye(len(skeleton.joints))
    assert torch.equal(own, x)
    for child, parent in skeleton.bones:
        # Row is the target: the parent receives what its child sends, all of it, for a child has one parent.
        assert inward[parent, child] == 1
        assert outward[child, parent] == pytest.approx(1 / skeleton.parents.count(parent))
    assert int((inward > 0).sum()) == int((outward > 0).sum()) == len(skeleton.bones)


def test_adjacency_is_symmetric_without_loops():
    for skeleton in ALL:
        matrix = adjacency(graph_of(skeleton))
        assert torch.equal(matrix, matrix.T)
        assert int(matrix.sum()) == 2 * len(skeleton.bones)
        assert not matrix.diagonal().any()


def test_published_graphs():
    pyskl = set(graph_of(NTU25, "pyskl").edges)
    assert pyskl ^ set(NTU25.bones) == {(21, 22), (23, 24), (21, 7), (23, 11)}
    assert graph_of(HDM05_25, "centre13").centre == 13
    assert graph_of(HDM05_25).centre == 12
    shifted = graph_of(HDM05_25, "shifted").edges
    assert shifted[0] == (9, 24)  # bone 0-10: one too small each, and from parent to child
    assert sum(24 in edge for edge in shifted) == 2 + sum(24 in (c - 1, p - 1) for c, p in HDM05_25.bones)
    assert graph_of(HDM05_25, "ntu25").edges == NTU25.bones


def test_a_published_graph_changes_the_network_and_no_other_skeleton_has_it():
    plain, other = (create("stgcn", skeleton=HDM05_25, width=4, graph=graph) for graph in ("skeleton", "centre13"))
    assert not torch.equal(plain.A, other.A)
    assert torch.equal(other.A, spatial_partition(graph_of(HDM05_25, "centre13")))
    with pytest.raises(DataError, match="'shifted' is not one of COCO17"):
        graph_of(COCO17, "shifted")
    with pytest.raises(DataError, match="graph is 'wrong'"):
        create("stgcn", graph="wrong")
