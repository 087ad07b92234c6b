"""AS-GCN: actional-structural graph convolutional network (Li et al., CVPR 2019)."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.actional_links import (
    TYPES,
    LinkEncoder,
    PoseDecoder,
    actional_matrices,
    joint_paths,
    link_loss,
    one_hot,
)
from funnybone.models.graphs import graph_of, spatial_partition
from funnybone.models.layers import Dropout, batch_norm, over_time, pointwise, scale_and_shift, share_absent
from funnybone.models.objective import Objective
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

KINDS = TYPES - 1  # of actional links
ACTIONAL_SHARE = 0.5
FUTURE = 10  # frames that the prediction head gives
# Output width of each block as a multiple of the first's, and its stride over time.
BLOCKS = ((1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))
# Temporal kernel, stride and padding of the prediction head's; the last makes one frame of five, so T is limited.
HEAD = ((9, 1, 4), (9, 2, 4), (9, 2, 4), (9, 2, 4), (3, 2, 1), (5, 1, 0))
HEAD_FRAMES = range(257, 321)


@register_model("asgcn")
class ASGCN(Model):
    """Nine blocks of graph convolution over bones and over links that are inferred from each person's motion.

    The layers, their names and the partition are those of the authors' released code. It keeps two networks, the
    recogniser and the inference of links; here ``encoder`` and ``decoder`` are the second's, and the weights are the
    union of both. Frames, T >= 1, may differ from call to call; the inference always sees 50 (see
    `actional_links.joint_paths`). The mean over persons includes absent ones, and does not depend on the order.

    In evaluation mode each pair has its most likely type of link, with the gradient of the softmax, so that a clip has
    one answer and an attack a gradient through the links; the authors draw noise there too. In training mode types are
    drawn, and the random numbers come from PyTorch's global state, as dropout's do. The authors run the second block
    twice in training and drop one result, so its batch norms move twice; here it runs once.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints; the graph is built from its bones and its ``centre``.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that the network is meant for; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    width : int
        Width of the first three blocks (the authors' 64); the others are twice and four times as wide, the prediction
        head and the inference of links twice.
    dropout : float
        Share of activations dropped in training in every block and in the inference of links.
    max_hop : int
        Reach of one graph convolution along bones.
    graph : str
        ``"skeleton"``, or a graph of published attack code: see `graphs.graph_of`.

    References
    ----------
    Li, Chen, Chen, Zhang, Wang, Tian, "Actional-Structural Graph Convolutional Networks for Skeleton-Based Action
    Recognition", CVPR 2019, sections 4.1 (links), 4.2 (convolution), 4.3 (prediction head); widths and the truncated
    partition (see `graphs.spatial_partition`) are those of the released code.

    Examples
    --------
    >>> net = ASGCN(num_classes=14, persons=2, width=8).eval()
    >>> xyz = torch.zeros(2, 2, 30, 25, 3)
    >>> net(xyz).shape, net.features(xyz).shape, net.links(xyz).shape
    (torch.Size([2, 14]), torch.Size([2, 32]), torch.Size([2, 2, 2, 25, 25]))
    """

    symmetric = True
    exact_gradients = False  # through the choice of links, which jumps, flows that of the probabilities

    def __init__(
        self,
        skeleton: Skeleton = NTU25,
        num_classes: int = 60,
        persons: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        width: int = 64,
        dropout: float = 0.5,
        max_hop: int = 4,
        graph: str = "skeleton",
    ) -> None:
        super().__init__(skeleton, num_classes, persons, frames, in_channels)
        partition = spatial_partition(graph_of(skeleton, graph), max_hop)
        kernels = len(partition) + KINDS
        self.register_buffer("A", partition)
        self.data_bn = nn.BatchNorm1d(len(skeleton.joints) * in_channels)
        channels = in_channels
        for index, (wide, stride) in enumerate(BLOCKS):
            block = _Block(channels, wide * width, (9, stride, 4), kernels, index > 0, dropout)
            self.add_module(f"class_layer_{index}", block)
            channels = wide * width
        self.fcn = nn.Conv2d(channels, num_classes, 1)
        for index, window in enumerate(HEAD):
            block = _Block(channels, 2 * width, window, kernels, window[2] > 0, dropout)
            self.add_module(f"recon_layer_{index}", block)
            channels = 2 * width
        self.recon_layer_6 = _Future(channels + in_channels, FUTURE * in_channels, kernels, dropout)
        self.edge_importance = nn.ParameterList(nn.Parameter(torch.ones_like(partition)) for _ in BLOCKS)
        # The authors keep nine of these too, and use seven.
        self.edge_importance_recon = nn.ParameterList(nn.Parameter(torch.ones_like(partition)) for _ in BLOCKS)
        self.apply(_initialise)
        self.encoder = LinkEncoder(in_channels, 2 * width, dropout)
        self.decoder = PoseDecoder(in_channels, 2 * width, dropout)

    @classmethod
    def from_authors(cls, state: dict[str, Tensor]) -> tuple[dict[str, int], dict[str, Tensor]] | None:
        recogniser = {"A", "class_layer_0.gcn.conv.weight", "recon_layer_0.gcn.conv.weight", "fcn.weight"}
        links = {"encoder.mlp1.fc1.weight", "decoder.msg_fc1.0.weight"}
        has = [keys <= state.keys() for keys in (recogniser, links)]
        if not any(has):
            return None
        if not all(has):
            there, missing = ("recogniser", "inference of links") if has[0] else ("inference of links", "recogniser")
            raise DataError(
                f"the {there} of AS-GCN without the {missing}, which its code writes into a file of its own, "
                f"epochN_model{2 if has[0] else 1}.pt",
                hint="give both files, epochN_model1.pt and epochN_model2.pt of the same epoch",
            )
        bones, joints, _ = state["A"].shape
        outside, inside = state["class_layer_0.gcn.conv.weight"].shape[:2]
        return {
            "num_classes": len(state["fcn.weight"]),
            "joints": joints,
            "in_channels": inside,
            "width": outside // (bones + KINDS),
            "max_hop": (bones - 1) // 2,
        }, state

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The mean over frames, joints and persons of the last block's output, along the links inferred from the clip.

        Examples
        --------
        >>> ASGCN(width=4).eval().features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 16])
        """
        self.check(xyz, present)
        rows, _, places = share_absent(xyz, present)
        return self.pooled(self.activations(rows, self.links_of(rows)), places)

    def features_given_links(
        self, xyz: Float[Tensor, "N M T V C"], actional: Float[Tensor, "N M 2 V V"]
    ) -> Float[Tensor, "N F"]:
        """The same along given links.

        Examples
        --------
        >>> net, xyz = ASGCN(width=4).eval(), torch.zeros(1, 2, 7, 25, 3)
        >>> torch.allclose(net.features_given_links(xyz, net.links(xyz)), net.features(xyz))
        True
        """
        self.check(xyz)
        joints = len(self.skeleton.joints)
        if actional.shape != (*xyz.shape[:2], KINDS, joints, joints):
            raise DataError(
                f"actional matrices have shape {tuple(actional.shape)}",
                hint=f"give (N, M, {KINDS}, V, V), here {(*xyz.shape[:2], KINDS, joints, joints)}",
            )
        rows = xyz.flatten(0, 1)
        return self.pooled(self.activations(rows, actional.flatten(0, 1)), torch.arange(len(rows), device=xyz.device))

    def links(
        self, xyz: Float[Tensor, "N M T V C"], uniform: Float[Tensor, "N M E K"] | None = None
    ) -> Float[Tensor, "N M 2 V V"]:
        """Actional matrices of each person: weights of (sender, receiver) for both kinds of links.

        Parameters
        ----------
        xyz : Tensor
            Clips.
        uniform : Tensor, optional
            Uniform random numbers of the E = V (V - 1) pairs and K = 3 types, to draw with. Without them, types are
            drawn in training mode only.

        Examples
        --------
        >>> ASGCN(width=4).eval().links(torch.zeros(1, 2, 7, 25, 3)).sum(3)[0, 0, 0, :3].detach()
        tensor([0.1000, 0.1000, 0.1000])
        """
        self.check(xyz)
        if uniform is not None:
            return self.links_of(xyz.flatten(0, 1), uniform.flatten(0, 1)).unflatten(0, xyz.shape[:2])
        rows, _, places = share_absent(xyz)
        return self.links_of(rows)[places].unflatten(0, xyz.shape[:2])

    def links_of(
        self, rows: Float[Tensor, "B T V C"], uniform: Float[Tensor, "B E K"] | None = None
    ) -> Float[Tensor, "B 2 V V"]:
        """The same for each person by itself, in full precision: which type is likeliest is not for rounding to say."""
        with torch.autocast(rows.device.type, enabled=False):
            logits = self.encoder(joint_paths(rows.to(self.fcn.weight.dtype)))
            return actional_matrices(one_hot(logits, self._drawn(logits, uniform)), rows.shape[2])

    def activations(self, rows: Float[Tensor, "B T V C"], links: Float[Tensor, "B 2 V V"]) -> Float[Tensor, "B S V D"]:
        """Output of the last block for each person, S = T / 4 frames, rounded up."""
        x = self._normalise(rows)
        for index, importance in enumerate(self.edge_importance):
            x = self._block(f"class_layer_{index}")(x, cast(Tensor, self.A) * importance, links)
        return x

    def pooled(self, last: Float[Tensor, "R S V D"], places: Int[Tensor, " B"]) -> Float[Tensor, "N D"]:
        """The mean over frames, joints and persons; ``places`` are those of `layers.share_absent`."""
        return last.mean((1, 2))[places].view(-1, self.persons, last.shape[-1]).mean(1)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector."""
        return F.linear(features, self.fcn.weight.flatten(1), self.fcn.bias)

    def predict(
        self, last: Float[Tensor, "B S V D"], links: Float[Tensor, "B 2 V V"], pose: Float[Tensor, "B V C"]
    ) -> Float[Tensor, "B 10 V C"]:
        """The ten poses after a clip, from the last block's output and the last pose of each person.

        As in the authors' code, what is added to coordinate c in frame f is coordinate (10 c + f) mod C of the last
        pose, not c: it is repeated in another order than the output is read in.

        Raises
        ------
        DataError
            For clips whose length is not 257 to 320 frames: the head's strides must end in five.

        Examples
        --------
        >>> net = ASGCN(width=4, persons=1).eval()
        >>> net.predict(torch.zeros(1, 73, 25, 16), torch.zeros(1, 2, 25, 25), torch.zeros(1, 25, 3)).shape
        torch.Size([1, 10, 25, 3])
        """
        frames = last.shape[1]
        if 4 * frames not in HEAD_FRAMES:
            raise DataError(
                f"the prediction head was given clips of {4 * frames - 3} to {4 * frames} frames",
                hint="it takes 257 to 320; recognition takes any number",
            )
        adjacencies = [cast(Tensor, self.A) * importance for importance in self.edge_importance_recon]
        for index in range(len(HEAD)):
            last = self._block(f"recon_layer_{index}")(last, adjacencies[index], links)
        moved = self.recon_layer_6(torch.cat([last, pose[:, None]], -1), adjacencies[len(HEAD)], links)[:, 0]
        moved = moved + pose.repeat(1, 1, FUTURE)
        return moved.unflatten(-1, (self.in_channels, FUTURE)).permute(0, 3, 1, 2)

    def objective(self, label_smoothing: float) -> Objective:
        """Links first, then recognition along them: see `LinksThenLabels`."""
        return LinksThenLabels(label_smoothing)

    def link_loss(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, ""]:
        """The mean over persons of `actional_links.link_loss`, absent ones included, as in the authors' code."""
        self.check(xyz, present)
        rows, _, places = share_absent(xyz, present)
        # In full precision: the variance belongs to errors of 2 cm, to which bfloat16 rounds.
        with torch.autocast(rows.device.type, enabled=False):
            paths = joint_paths(rows.to(self.fcn.weight.dtype))
            logits = self.encoder(paths)
            predicted = self.decoder(paths, one_hot(logits, self._drawn(logits)))
            return link_loss(paths, predicted, logits)[places].mean()

    def _drawn(
        self, logits: Float[Tensor, "B E K"], uniform: Float[Tensor, "B E K"] | None = None
    ) -> Float[Tensor, "B E K"] | None:
        """The random numbers of types: the caller's, in training mode new ones, otherwise none."""
        return torch.rand_like(logits) if uniform is None and self.training else uniform

    def _block(self, name: str) -> "_Block":
        return cast(_Block, self.get_submodule(name))

    def _normalise(self, rows: Float[Tensor, "B T V C"]) -> Float[Tensor, "B T V C"]:
        """Batch norm with statistics of each joint and coordinate, joint-major, shared by the persons."""
        return self.data_bn(rows.flatten(2).flatten(0, 1)).view(rows.shape)


class LinksThenLabels(Objective):
    """In the first tenth of the steps the loss of the inferred links alone; then that of recognition, links frozen.

    Where the clips have 267 to 330 frames, the recogniser sees all but the last ten, and 0.01 times the mean squared
    error of the first person's predicted next ten poses is added, as in the authors' code. The prediction head's
    strides do not fit other lengths: there, recognition of the whole clip is the loss, and the head stays untrained.
    In the second part no gradient reaches the inference of links, whose noise, dropout and batch norms go on as the
    authors' do.

    Examples
    --------
    >>> net = ASGCN(num_classes=2, persons=1, width=4)
    >>> LinksThenLabels()(net, torch.zeros(2, 1, 8, 25, 3), torch.tensor([0, 1]), 0.5).shape
    torch.Size([])
    """

    alone = judged_from = 0.1
    weight = 0.01

    def forward(
        self,
        model: nn.Module,
        xyz: Float[Tensor, "N M T V C"],
        labels: Int[Tensor, " N"],
        progress: float,
        present: Bool[Tensor, "N M T"] | None = None,
    ) -> Float[Tensor, ""]:
        net = cast(ASGCN, model)
        if progress < self.alone:
            return net.link_loss(xyz, present)
        net.check(xyz, present)
        predicts = xyz.shape[2] - FUTURE in HEAD_FRAMES
        seen = slice(-FUTURE if predicts else None)
        there = None if present is None else present[:, :, seen]
        rows, _, places = share_absent(xyz[:, :, seen], there)
        with torch.no_grad():
            links = net.links_of(rows)
        last = net.activations(rows, links)
        loss = self.classification(net.classify(net.pooled(last, places)), labels)
        if not predicts:
            return loss
        first = places[:: net.persons]
        future = net.predict(last[first], links[first], rows[first, -1])
        return loss + self.weight * F.mse_loss(future, xyz[:, 0, -FUTURE:])


class _Block(nn.Module):
    """Graph convolution over bones and links, then convolution over time, plus a residual; the channel last."""

    def __init__(
        self, inside: int, outside: int, window: tuple[int, int, int], kernels: int, residual: bool, dropout: float
    ) -> None:
        super().__init__()
        length, stride, padding = window
        self.gcn = nn.Module()
        self.gcn.conv = nn.Conv2d(inside, outside * kernels, 1)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, (length, 1), (stride, 1), (padding, 0)),
            nn.BatchNorm2d(outside),
            Dropout(dropout),
        )
        self.residual: nn.Module | None = None
        if residual and inside == outside and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            self.residual = nn.Sequential(nn.Conv2d(inside, outside, 1, (stride, 1)), nn.BatchNorm2d(outside))

    def forward(
        self, x: Float[Tensor, "B T V C"], adjacency: Float[Tensor, "K V V"], links: Float[Tensor, "B 2 V V"]
    ) -> Float[Tensor, "B S V D"]:
        conv, norm = cast(nn.Conv2d, self.gcn.conv), cast(nn.BatchNorm2d, self.tcn[0])
        kernels = len(adjacency) + KINDS
        weight = conv.weight.flatten(1).unflatten(0, (kernels, -1)).transpose(1, 2)
        y = _over_joints(x, adjacency, links, weight, cast(Tensor, conv.bias).view(kernels, -1), norm)
        y = over_time(F.relu(y), cast(nn.Conv2d, self.tcn[2]), cast(nn.BatchNorm2d, self.tcn[3]))
        y = self.tcn[4](y)
        if self.residual is not None:
            y = y + self._shortcut(x)
        return F.relu(y)

    def _shortcut(self, x: Float[Tensor, "B T V C"]) -> Float[Tensor, "B S V D"]:
        if not isinstance(self.residual, nn.Sequential):
            return x
        return pointwise(x, cast(nn.Conv2d, self.residual[0]), cast(nn.BatchNorm2d, self.residual[1]))


class _Future(nn.Module):
    """The head's last block: graph convolution and a product over channels, both kept as transposed convolutions."""

    def __init__(self, inside: int, outside: int, kernels: int, dropout: float) -> None:
        super().__init__()
        self.gcn_recon = nn.Module()
        self.gcn_recon.deconv = nn.ConvTranspose2d(inside, outside * kernels, 1)
        self.tcn_recon = nn.Sequential(
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.ConvTranspose2d(outside, outside, 1),
            nn.BatchNorm2d(outside),
            Dropout(dropout),
        )

    def forward(
        self, x: Float[Tensor, "B T V C"], adjacency: Float[Tensor, "K V V"], links: Float[Tensor, "B 2 V V"]
    ) -> Float[Tensor, "B T V D"]:
        spread, norm = cast(nn.ConvTranspose2d, self.gcn_recon.deconv), cast(nn.BatchNorm2d, self.tcn_recon[0])
        kernels = len(adjacency) + KINDS
        weight = spread.weight.flatten(1).unflatten(1, (kernels, -1)).transpose(0, 1)
        y = F.relu(_over_joints(x, adjacency, links, weight, cast(Tensor, spread.bias).view(kernels, -1), norm))
        mix, norm = cast(nn.ConvTranspose2d, self.tcn_recon[2]), cast(nn.BatchNorm2d, self.tcn_recon[3])
        scale, shift = scale_and_shift(norm)
        y = y @ (mix.weight.flatten(1) * scale) + (cast(Tensor, mix.bias) * scale + shift)
        return self.tcn_recon[4](batch_norm(y, norm))


def _over_joints(
    x: Float[Tensor, "B T V C"],
    adjacency: Float[Tensor, "K V V"],
    links: Float[Tensor, "B 2 V V"],
    weight: Float[Tensor, "K+2 C D"],
    bias: Float[Tensor, "K+2 D"],
    norm: nn.BatchNorm2d,
) -> Float[Tensor, "B T V D"]:
    """``sum_k A_k' (x W_k + b_k)`` over bones plus half of the same over links, then batch norm.

    Over joints first, then over channels. Bones are the same for all and links are each person's own, so they are two
    products over joints: in one, the matrices of bones would be copied for each person, and have a gradient.
    """
    bones, joints = len(adjacency), x.shape[2]
    links = ACTIONAL_SHARE * links
    scale, shift = scale_and_shift(norm)
    weight, bias = weight * scale, bias * scale
    poses = x.flatten(0, 1)
    # Rows (joint, kernel): what comes out is already the left factor of the product over channels.
    spread = adjacency.permute(2, 0, 1).reshape(joints * bones, joints)
    along_bones = torch.bmm(spread.expand(len(poses), -1, -1), poses)
    spread = links.permute(0, 3, 1, 2).reshape(-1, 1, joints * KINDS, joints)
    along_links = torch.bmm(spread.expand(-1, x.shape[1], -1, -1).flatten(0, 1), poses)
    y = torch.addmm(
        along_bones.view(-1, bones * x.shape[-1]) @ weight[:bones].flatten(0, 1),
        along_links.view(-1, KINDS * x.shape[-1]),
        weight[bones:].flatten(0, 1),
    )
    # The biases are spread over joints as their inputs are.
    offset = adjacency.sum(1).T @ bias[:bones] + shift + links.sum(2).transpose(1, 2) @ bias[bones:]
    return batch_norm(y.view(*x.shape[:3], weight.shape[-1]) + offset[:, None], norm)


def _initialise(module: nn.Module) -> None:
    """The authors' start: narrow convolutions without biases, batch norms that differ a little."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        nn.init.zeros_(cast(Tensor, module.bias))
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
