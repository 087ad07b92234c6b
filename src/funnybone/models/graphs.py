"""Adjacency matrices of skeleton graphs: pure functions from a skeleton to a stack of matrices.

Built in float64 and rounded to float32, which is what the authors' networks hold: building them in float64 throughout
shifts a float64 network's logits by about 1e-8.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from funnybone.skeletons import Skeleton


def hop_distances(skeleton: Skeleton, max_hop: int) -> Int[Tensor, "V V"]:
    """Bones on the path between each two joints; ``max_hop + 1`` stands for every distance beyond ``max_hop``.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> hop_distances(NTU25, 2)[NTU25.index("HandL"), [7, 6, 5, 4]]
    tensor([0, 1, 2, 3])
    """
    count = len(skeleton.joints)
    linked = torch.eye(count, dtype=torch.int64)
    for child, parent in skeleton.bones:
        linked[child, parent] = linked[parent, child] = 1
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


def spatial_partition(skeleton: Skeleton, max_hop: int = 1) -> Float[Tensor, "K V V"]:
    """The ``spatial`` partition of ST-GCN: 1 + 2 ``max_hop`` matrices, to be contracted over their first joint axis.

    The column-normalised graph of all pairs within ``max_hop`` hops is split by hop, and each hop h > 0 by whether
    the first joint is as far from the skeleton's centre as the second or farther (first matrix) or nearer (second).

    As in the authors' code, distances beyond ``max_hop`` are all infinite, and two infinite distances are equal. With
    ``max_hop=1`` only the centre's neighbours have a distance to the centre at all, so almost every bone lands, in both
    directions, in the first matrix. The paper's text (section 3.3) means true distances; every published ST-GCN was
    trained with these.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> (spatial_partition(NTU25) > 0).sum((1, 2))
    tensor([25, 40,  8])
    """
    distances = hop_distances(skeleton, max_hop)
    normalised = columns_normalised((distances <= max_hop).double())
    to_centre = distances[:, skeleton.centre]
    nearer = to_centre[:, None] < to_centre[None, :]
    parts = [normalised * (distances == 0)]
    for hop in range(1, max_hop + 1):
        at_hop = normalised * (distances == hop)
        parts += [at_hop * ~nearer, at_hop * nearer]
    return torch.stack(parts).float()
