"""Streams: what a network is shown of a clip, and several networks, each on its own stream, as one."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from funnybone.errors import DataError
from funnybone.models.layers import present_of
from funnybone.models.modes import evaluating
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
    present = present_of(xyz)[..., None, None]
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


def fusion_weights(streams: Sequence[str], weights: Sequence[float] | None = None) -> tuple[float, ...]:
    """Weights of the streams in the sum of their logits, all one where none are given.

    Raises
    ------
    DataError
        For another number of weights than streams, for one that is not a finite number, and for one stream whose weight
        is not one.

    Examples
    --------
    >>> fusion_weights(("joint", "bone")), fusion_weights(("joint", "bone"), (0.6, 0.4))
    ((1.0, 1.0), (0.6, 0.4))
    """
    if weights is None:
        return (1.0,) * len(streams)
    if len(weights) != len(streams):
        raise DataError(f"{len(weights)} fusion weights for {len(streams)} streams", hint="give one for each")
    for stream, weight in zip(streams, weights, strict=True):
        if not isinstance(weight, numbers.Real) or not math.isfinite(weight):
            raise DataError(f"the fusion weight of stream {stream!r} is {weight!r}", hint="give a finite number")
    if len(streams) == 1 and weights[0] != 1:
        raise DataError(
            f"the fusion weight of the only stream, {streams[0]!r}, is {weights[0]:g}",
            hint="there is nothing to weigh it against; leave the weights out, or name more streams",
        )
    return tuple(map(float, weights))


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
    """Networks, each on its own stream; logits are the weighted sum of theirs.

    Published multi-stream results add scores of networks that were trained apart, of one architecture mostly. Here the
    sum is one network: an attack descends through all of its streams at once. ``state_dict()`` has the keys of each
    network behind the name of its stream.

    Parameters
    ----------
    networks : mapping of str to Model
        A network for each stream: ``joint``, ``bone``, ``joint_motion``, ``bone_motion``; for the same classes,
        skeleton, persons and coordinates.
    weights : sequence of float, optional
        Of the streams in the sum; all one by default. CTR-GCN publishes 0.6, 0.6, 0.4, 0.4.

    Raises
    ------
    DataError
        For networks that do not take the same clips or name the same classes, and for weights that do not fit.

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
        self.weights = fusion_weights(self.streams, weights)
        for stream, network in networks.items():
            self._check_alike(stream, network)
            self.add_module(stream, network)
        self._lengths = [_feature_length(network) for network in networks.values()]
        each = networks.values()
        self.symmetric = all(network.symmetric for network in each)  # type: ignore[misc]  # of the class, but for this
        self.exact_gradients = all(network.exact_gradients for network in each)  # type: ignore[misc]
        # Without the empty frames in its middle a clip has another motion there: that from before them to after.
        moving = any(stream.endswith("motion") for stream in networks)
        self.skips_empty = all(network.skips_empty for network in each) and not moving  # type: ignore[misc]

    def _check_alike(self, stream: str, network: Model) -> None:
        words = {"skeleton": "skeleton", "num_classes": "classes", "persons": "persons", "in_channels": "coordinates"}
        for name, word in words.items():
            wanted, found = getattr(self, name), getattr(network, name)
            if wanted != found:
                of = [getattr(value, "name", value) for value in (found, wanted)]
                raise DataError(
                    f"streams {self.streams[0]!r} and {stream!r} do not fit together: {word} {of[1]} and {of[0]}",
                    hint="one clip goes through all networks, and their logits are added: create them alike",
                )

    def network(self, stream: str) -> Model:
        """The network of one stream."""
        return self.get_submodule(stream)  # type: ignore[return-value]

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The features of all streams, side by side; who stands still is there, although there is no motion of him."""
        self.check(xyz, present)
        present = present_of(xyz, present)
        each = [self.network(stream).features(shown(stream, xyz, self.skeleton), present) for stream in self.streams]
        return torch.cat(each, 1)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """The weighted sum of the streams' logits."""
        parts = features.split(self._lengths, 1)
        logits = [self.network(stream).classify(part) for stream, part in zip(self.streams, parts, strict=True)]
        return torch.stack([weight * part for weight, part in zip(self.weights, logits, strict=True)]).sum(0)

    def objective(self, label_smoothing: float) -> Objective:
        """Cross-entropy of the sum. Streams are trained apart; it is for trained ones that are fine-tuned together."""
        own = {type(self.network(stream).objective(label_smoothing)) for stream in self.streams}
        if own != {Objective}:
            names = ", ".join(sorted(kind.__name__ for kind in own))
            raise DataError(
                f"streams {', '.join(self.streams)} cannot be trained as one: their family has its own loss, {names}",
                hint="train each stream by itself",
            )
        return Objective(label_smoothing)


def _feature_length(network: Model) -> int:
    """Length of a network's features, asked with a batch of no clips."""
    with evaluating(network), torch.no_grad():
        size = (0, network.persons, network.frames, len(network.skeleton.joints), network.in_channels)
        return network.features(next(network.parameters()).new_zeros(size)).shape[1]
