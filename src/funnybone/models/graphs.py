"""Graphs of skeletons, and their adjacency matrices: pure functions from a graph to a stack of matrices.

Built in float64 and rounded to float32, which is what the authors' networks hold: building them in float64 throughout
shifts a float64 network's logits by about 1e-8.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from funnybone.errors import DataError
from funnybone.skeletons import HDM05_25, NTU25, Skeleton

_PYSKL_NTU = (1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, -1, 7, 7, 11, 11)


class Graph(NamedTuple):
    """What a graph convolution knows of a skeleton: directed (child, parent) edges, and the joint to measure from."""

    joints: int
    edges: tuple[tuple[int, int], ...]
    centre: int


def graph_of(skeleton: Skeleton, variant: str = "skeleton") -> Graph:
    """Return the graph of a skeleton, or one that published code used in its place.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints.
    variant : str
        ``"skeleton"``: its bones. The others exist to compare with published figures, and to load weights that were
        trained with them where the adjacency is not stored:

        - ``"pyskl"``: NTU25 with hand tips hanging on the hands, not on the thumbs.
        - ``"centre13"``: HDM05_25 measured from joint 13 in place of 12, as in BASAR's ST-GCN.
        - ``"shifted"``: HDM05_25 with each joint number one too small (two edges wrap to joint 24) and edges from
          parent to child, as in RobustBenchHAR's 2s-AGCN.
        - ``"ntu25"``: NTU's bones on any 25 joints, as RobustBenchHAR's CTR-GCN and FR-Head use on HDM05.

    Raises
    ------
    DataError
        For an unknown variant, or one that is not of this skeleton.

    Examples
    --------
    >>> graph_of(HDM05_25, "shifted").edges[:2]
    ((9, 24), (24, 0))
    """
    count = len(skeleton.joints)
    own = Graph(count, skeleton.bones, skeleton.centre)
    if variant == "skeleton":
        return own
    fits = {
        "pyskl": skeleton.same_layout(NTU25),
        "centre13": skeleton.same_layout(HDM05_25),
        "shifted": skeleton.same_layout(HDM05_25),
        "ntu25": count == len(NTU25.joints),
    }
    if variant not in fits:
        raise DataError(f"graph is {variant!r}", hint=f"it is 'skeleton', or one of {', '.join(fits)}")
    if not fits[variant]:
        raise DataError(f"graph {variant!r} is not one of {skeleton.name}", hint="use 'skeleton'")
    shifted = tuple(((parent - 1) % count, (child - 1) % count) for child, parent in own.edges)
    return {
        "pyskl": Graph(count, tuple((child, parent) for child, parent in enumerate(_PYSKL_NTU) if parent >= 0), 20),
        "centre13": own._replace(centre=13),
        "shifted": own._replace(edges=shifted),
        "ntu25": Graph(count, NTU25.bones, NTU25.centre),
    }[variant]


def adjacency(graph: Graph) -> Float[Tensor, "V V"]:
    """The symmetric 0-1 matrix of neighbours, without self-loops, float64.

    Examples
    --------
    >>> int(adjacency(graph_of(NTU25)).sum())
    48
    """
    linked = torch.zeros(graph.joints, graph.joints, dtype=torch.float64)
    for child, parent in graph.edges:
        linked[child, parent] = linked[parent, child] = 1
    return linked


def directed_partition(graph: Graph) -> Float[Tensor, "3 V V"]:
    """The partition of 2s-AGCN and CTR-GCN: identity, inward (child to parent) and outward (parent to child).

    Entry [target, source] is one where there is an edge; each matrix is then column-normalised by itself.

    Examples
    --------
    >>> directed_partition(graph_of(NTU25)).count_nonzero((1, 2))
    tensor([25, 24, 24])
    """
    inward = torch.zeros(graph.joints, graph.joints, dtype=torch.float64)
    for child, parent in graph.edges:
        inward[parent, child] = 1
    parts = (torch.eye(graph.joints, dtype=torch.float64), inward, inward.T)
    return torch.stack([columns_normalised(part) for part in parts]).float()


def hop_distances(graph: Graph, max_hop: int) -> Int[Tensor, "V V"]:
    """Bones on the path between each two joints; ``max_hop + 1`` stands for every distance beyond ``max_hop``.

    Examples
    --------
    >>> hop_distances(graph_of(NTU25), 2)[NTU25.index("HandL"), [7, 6, 5, 4]]
    tensor([0, 1, 2, 3])
    """
    count = graph.joints
    linked = (adjacency(graph) + torch.eye(count, dtype=torch.float64)).clamp(max=1).long()
    distances = torch.full((count, count), max_hop + 1)
    reached = torch.eye(count, dtype=torch.int64)
    for hop in range(max_hop + 1):
        distances[(reached > 0) & (distances > hop)] = hop
        reached = (reached @ linked).clamp(max=1)
    return distances


def columns_normalised(adjacency: Float[Tensor, "V V"]) -> Float[Tensor, "V V"]:
    """Divide each column by its sum, ``A D^-1``; a column of zeros stays."""
    total = adjacency.sum(0)
    return adjacency / torch.where(total > 0, total, 1)


def spatial_partition(graph: Graph, max_hop: int = 1) -> Float[Tensor, "K V V"]:
    """The ``spatial`` partition of ST-GCN: 1 + 2 ``max_hop`` matrices, to be contracted over their first joint axis.

    The column-normalised graph of all pairs within ``max_hop`` hops is split by hop, and each hop h > 0 by whether
    the first joint is as far from the skeleton's centre as the second or farther (first matrix) or nearer (second).

    As in the authors' code, distances beyond ``max_hop`` are all infinite, and two infinite distances are equal. With
    ``max_hop=1`` only the centre's neighbours have a distance to the centre at all, so almost every bone lands, in both
    directions, in the first matrix. The paper's text (section 3.3) means true distances; every published ST-GCN was
    trained with these.

    Examples
    --------
    >>> (spatial_partition(graph_of(NTU25)) > 0).sum((1, 2))
    tensor([25, 40,  8])
    """
    distances = hop_distances(graph, max_hop)
    normalised = columns_normalised((distances <= max_hop).double())
    to_centre = distances[:, graph.centre]
    nearer = to_centre[:, None] < to_centre[None, :]
    parts = [normalised * (distances == 0)]
    for hop in range(1, max_hop + 1):
        at_hop = normalised * (distances == hop)
        parts += [at_hop * ~nearer, at_hop * nearer]
    return torch.stack(parts).float()
