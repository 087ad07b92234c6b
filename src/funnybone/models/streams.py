"""Streams: what a network is shown of a clip, and several networks, each on its own stream, as one."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models.objective import Objective
from funnybone.models.registry import Model
from funnybone.skeletons import Skeleton


def bone(xyz: Float[Tensor, "N M T V C"], skeleton: Skeleton) -> Float[Tensor, "N M T V C"]:
    """Each joint minus its parent; the root's is zero.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> bone(torch.ones(1, 1, 4, 25, 3), NTU25).abs().max()
    tensor(0.)
    """
    parents = [joint if parent < 0 else parent for joint, parent in enumerate(skeleton.parents)]
    return xyz - xyz[..., parents, :]


def motion(xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N M T V C"]:
    """Each frame's difference to the next; zero in the last frame, and where a person is absent in either.

    Examples
    --------
    >>> xyz = torch.tensor([1.0, 2.0, 4.0, 0.0]).view(1, 1, 4, 1, 1).expand(1, 1, 4, 25, 3)
    >>> motion(xyz)[0, 0, :, 0, 0]
    tensor([1., 2., 0., 0.])
    """
    present = (xyz != 0).flatten(3).any(3)[..., None, None]
    steps = torch.where(present[:, :, 1:] & present[:, :, :-1], xyz[:, :, 1:] - xyz[:, :, :-1], 0)
    return torch.cat([steps, torch.zeros_like(xyz[:, :, :1])], 2)


_STREAMS: dict[str, Callable[[Tensor, Skeleton], Tensor]] = {
    "joint": lambda xyz, skeleton: xyz,
    "bone": bone,
    "joint_motion": lambda xyz, skeleton: motion(xyz),
    # Of the bones of a present pose, not of bones alone: these are all zero where a person stands in one point.
    "bone_motion": lambda xyz, skeleton: bone(motion(xyz), skeleton),
}
STREAMS = tuple(_STREAMS)


def check_streams(streams: Sequence[str]) -> None:
    """Raise `DataError` for a stream that is not known, one that is named twice, or none."""
    for stream in streams:
        if stream not in _STREAMS:
            raise DataError(f"no stream is named {stream!r}", hint=f"streams are {', '.join(STREAMS)}")
    if not streams or len(set(streams)) < len(streams):
        raise DataError(f"streams are {', '.join(streams) or 'none'}", hint="name each once")


def shown(stream: str, xyz: Float[Tensor, "N M T V C"], skeleton: Skeleton) -> Float[Tensor, "N M T V C"]:
    """What a network of this stream is shown of preprocessed positions; differentiable.

    Examples
    --------
    >>> from funnybone.skeletons import NTU25
    >>> shown("bone_motion", torch.rand(1, 1, 4, 25, 3), NTU25).shape
    torch.Size([1, 1, 4, 25, 3])
    """
    check_streams([stream])
    return _STREAMS[stream](xyz, skeleton)


class Fused(Model):
    """Networks of one architecture, each on its own stream; logits are the weighted sum of theirs.

    Published multi-stream results add scores of networks that were trained apart. Here the sum is one network: an
    attack descends through all of its streams at once. ``state_dict()`` has the keys of each network behind the name
    of its stream.

    Parameters
    ----------
    networks : mapping of str to Model
        A network for each stream: ``joint``, ``bone``, ``joint_motion``, ``bone_motion``.
    weights : sequence of float, optional
        Of the streams in the sum; all one by default. CTR-GCN publishes 0.6, 0.6, 0.4, 0.4.

    References
    ----------
    Shi, Zhang, Cheng, Lu, "Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based Action Recognition",
    CVPR 2019, section 3.4.

    Examples
    --------
    >>> from funnybone.models import create
    >>> net = Fused({name: create("stgcn", num_classes=5, width=4) for name in ("joint", "bone")}).eval()
    >>> net(torch.zeros(2, 2, 8, 25, 3)).shape, sorted(net.state_dict())[0]
    (torch.Size([2, 5]), 'bone.A')
    """

    def __init__(self, networks: Mapping[str, Model], weights: Sequence[float] | None = None) -> None:
        check_streams(tuple(networks))
        first = next(iter(networks.values()))
        super().__init__(first.skeleton, first.num_classes, first.persons, first.frames, first.in_channels)
        self.streams = tuple(networks)
        self.weights = tuple(map(float, weights)) if weights is not None else (1.0,) * len(networks)
        if len(self.weights) != len(self.streams):
            raise DataError(
                f"{len(self.weights)} fusion weights for {len(self.streams)} streams", hint="give one for each"
            )
        for stream, network in networks.items():
            self.add_module(stream, network)
        self.symmetric = first.symmetric  # type: ignore[misc]  # of the class, but for a network of networks
        self.exact_gradients = first.exact_gradients  # type: ignore[misc]
        self.skips_empty = first.skips_empty and not any(stream.endswith("motion") for stream in networks)  # type: ignore[misc]

    def network(self, stream: str) -> Model:
        """The network of one stream."""
        return self.get_submodule(stream)  # type: ignore[return-value]

    def features(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N F"]:
        """The features of all streams, side by side."""
        self.check(xyz)
        return torch.cat(
            [self.network(stream).features(shown(stream, xyz, self.skeleton)) for stream in self.streams], 1
        )

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """The weighted sum of the streams' logits."""
        parts = features.chunk(len(self.streams), 1)
        logits = [self.network(stream).classify(part) for stream, part in zip(self.streams, parts, strict=True)]
        return torch.stack([weight * part for weight, part in zip(self.weights, logits, strict=True)]).sum(0)

    def objective(self, label_smoothing: float) -> Objective:
        """Streams are trained apart; together they only answer."""
        raise DataError("a network of several streams is not trained as one", hint="train each stream by itself")
