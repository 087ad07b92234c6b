"""Actional links of AS-GCN: which joints act together in a clip, inferred from their paths (the authors' AIM).

An encoder gives each ordered pair of joints one of three types: no link, or one of two kinds of links. A decoder must
predict each next pose from messages along the links alone, which is what trains them. Pairs (sender, receiver) are all
off-diagonal ones in row-major order, E = V (V - 1).
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FRAMES = 50  # the length that the authors' encoder has weights for
TYPES = 3
PRIOR = (0.95, 0.025, 0.025)
VARIANCE = 5e-4
TEMPERATURE = 0.5
DECAY = 0.1


def joint_paths(rows: Float[Tensor, "B T V C"]) -> Float[Tensor, "B V 50 C"]:
    """Positions of each joint at 50 evenly spaced times from the first frame to the last, linear in between.

    The authors take every (T / 50)-th frame, or the first 50 of clips up to 60. Here every frame of a clip up to 98
    counts, shorter clips are stretched, and clips of 50 frames stay as they are.

    Examples
    --------
    >>> joint_paths(torch.arange(99.0).view(1, 99, 1, 1))[0, 0, :4, 0]
    tensor([0., 2., 4., 6.])
    """
    paths = F.interpolate(rows.flatten(2).transpose(1, 2), FRAMES, mode="linear", align_corners=True)
    return paths.unflatten(1, rows.shape[2:]).transpose(2, 3)


def gumbel(uniform: Float[Tensor, "B E K"]) -> Float[Tensor, "B E K"]:
    """Gumbel noise of uniform random numbers.

    Examples
    --------
    >>> gumbel(torch.full((1, 1, 1), 0.5))
    tensor([[[0.3665]]])
    """
    return -torch.log(1e-10 - torch.log(uniform + 1e-10))


def one_hot(logits: Float[Tensor, "B E K"], uniform: Float[Tensor, "B E K"] | None = None) -> Float[Tensor, "B E K"]:
    """The most likely type of each pair, or with random numbers a draw, with the gradient of the softmax.

    Examples
    --------
    >>> one_hot(torch.tensor([[[0.0, 2.0, 1.0]]]))
    tensor([[[0., 1., 0.]]])
    """
    noisy = logits if uniform is None else logits + gumbel(uniform)
    soft = torch.softmax(noisy / TEMPERATURE, -1)
    hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())  # in this order, so that the value is one or zero exactly


def actional_matrices(edges: Float[Tensor, "B E K"], joints: int) -> Float[Tensor, "B K-1 V V"]:
    """Weights of (sender, receiver) for each kind of link: the links and the identity, column-normalised, times 0.1.

    Examples
    --------
    >>> actional_matrices(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), 2)
    tensor([[[[0.1000, 0.0500],
              [0.0000, 0.0500]]]])
    """
    linked = on_grid(edges[..., 1:], joints).permute(0, 3, 1, 2)
    linked = linked + torch.eye(joints, dtype=linked.dtype, device=linked.device)
    return DECAY * linked / linked.sum(2, keepdim=True)


def off_diagonal(grid: Float[Tensor, "B V V H"]) -> Float[Tensor, "B V-1 V H"]:
    """All pairs of two joints, in row-major order.

    Without the first entry, a row that is one longer than the matrix's ends with a diagonal entry each time.

    Examples
    --------
    >>> off_diagonal(torch.arange(9).view(1, 3, 3, 1).float()).flatten()
    tensor([1., 2., 3., 5., 6., 7.])
    """
    joints = grid.shape[1]
    return grid.flatten(1, 2)[:, 1:].unflatten(1, (joints - 1, joints + 1))[:, :, :-1]


def on_grid(pairs: Float[Tensor, "B E H"], joints: int) -> Float[Tensor, "B V V H"]:
    """The inverse of `off_diagonal`; zero on the diagonal.

    Examples
    --------
    >>> on_grid(torch.tensor([[[1.0], [2.0]]]), 2).squeeze()
    tensor([[0., 1.],
            [2., 0.]])
    """
    rows = F.pad(pairs.unflatten(1, (joints - 1, joints)), (0, 0, 0, 1)).flatten(1, 2)
    return F.pad(rows, (0, 0, 1, 0)).unflatten(1, (joints, joints))


class LinkEncoder(nn.Module):
    """Types of links from paths: two rounds from joints to pairs and back (Kipf et al., ICML 2018, section 3.1).

    Parameters
    ----------
    channels : int
        Coordinates C of a joint.
    width : int
        Width H of every layer (the authors' 128).
    dropout : float
        Share of activations dropped in training.

    Examples
    --------
    >>> LinkEncoder(channels=3, width=8, dropout=0.5)(torch.zeros(2, 25, 50, 3)).shape
    torch.Size([2, 600, 3])
    """

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.mlp1 = _MLP(FRAMES * channels, width, dropout)
        self.mlp2 = _MLP(2 * width, width, dropout)
        self.mlp3 = _MLP(width, width, dropout)
        self.mlp4 = _MLP(3 * width, width, dropout)
        self.fc_out = nn.Linear(width, TYPES)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.constant_(module.bias, 0.1)

    def forward(self, paths: Float[Tensor, "B V S C"]) -> Float[Tensor, "B E K"]:
        joints, width = paths.shape[1], self.fc_out.in_features
        x = self.mlp1(self.mlp1.fc1(paths.flatten(2)))
        pairs = self.mlp2(_from_ends(x, self.mlp2.fc1.weight, self.mlp2.fc1.bias).flatten(1, 2))
        # Divided by V, as by the authors, although V - 1 pairs arrive.
        x = self.mlp3(self.mlp3.fc1(on_grid(pairs, joints).sum(1) / joints))
        ends, own = self.mlp4.fc1.weight.split((2 * width, width), 1)
        z = _from_ends(x, ends, self.mlp4.fc1.bias).flatten(1, 2) + pairs @ own.T
        return self.fc_out(self.mlp4(z))


class PoseDecoder(nn.Module):
    """Each next pose from the poses before it, by a recurrent network whose joints hear only whom they are linked to.

    Parameters
    ----------
    channels : int
        Coordinates C of a joint.
    width : int
        Width H of every layer (the authors' 128).
    dropout : float
        Share of activations dropped in training.

    Examples
    --------
    >>> edges = torch.ones(2, 600, 3) / 3
    >>> PoseDecoder(channels=3, width=8, dropout=0.5)(torch.zeros(2, 25, 50, 3), edges).shape
    torch.Size([2, 25, 49, 3])
    """

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        # Entry 0, of pairs without a link, is never used; the authors' weights have it.
        self.msg_fc1 = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(TYPES))
        self.msg_fc2 = nn.ModuleList(nn.Linear(width, width) for _ in range(TYPES))
        self.hidden_r, self.input_r = nn.Linear(width, width, bias=False), nn.Linear(channels, width)
        self.hidden_i, self.input_i = nn.Linear(width, width, bias=False), nn.Linear(channels, width)
        self.hidden_n, self.input_n = nn.Linear(width, width, bias=False), nn.Linear(channels, width)
        self.out_fc1 = nn.Linear(width, width)
        self.out_fc2 = nn.Linear(width, width)
        self.out_fc3 = nn.Linear(width, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, paths: Float[Tensor, "B V S C"], edges: Float[Tensor, "B E K"]) -> Float[Tensor, "B V S-1 C"]:
        known = paths[:, :, :-1]
        weights = on_grid(edges[..., 1:], paths.shape[1]).permute(3, 0, 1, 2)[..., None]
        gates = [layer(known) for layer in (self.input_r, self.input_i, self.input_n)]
        hidden, states = torch.zeros_like(gates[0][:, :, 0]), []
        for r, i, n in zip(*(gate.unbind(2) for gate in gates), strict=True):
            hidden = self._step(hidden, weights / paths.shape[-1], r, i, n)
            states.append(hidden)
        y = self.dropout(F.relu(self.out_fc1(torch.stack(states, 2))))
        return known + self.out_fc3(self.dropout(F.relu(self.out_fc2(y))))

    def _step(
        self,
        hidden: Float[Tensor, "B V H"],
        weights: Float[Tensor, "L B V V 1"],
        r: Float[Tensor, "B V H"],
        i: Float[Tensor, "B V H"],
        n: Float[Tensor, "B V H"],
    ) -> Float[Tensor, "B V H"]:
        """The state after one more pose; r, i and n are what that pose adds to the gates."""
        message = self._messages(hidden, weights)
        r, i = torch.sigmoid(r + self.hidden_r(message)), torch.sigmoid(i + self.hidden_i(message))
        n = torch.tanh(n + r * self.hidden_n(message))
        return (1 - i) * n + i * hidden

    def _messages(self, hidden: Float[Tensor, "B V H"], weights: Float[Tensor, "L B V V 1"]) -> Float[Tensor, "B V H"]:
        """The sum over senders of what each says along its links, the mean over kinds of links."""
        first, second = list(self.msg_fc1)[1:], list(self.msg_fc2)[1:]
        to, own = torch.stack([cast(Tensor, layer.weight) for layer in first]).chunk(2, 2)
        bias = torch.stack([cast(Tensor, layer.bias) for layer in first])[:, None, None]
        receiving = hidden @ to.transpose(1, 2)[:, None]
        sending = hidden @ own.transpose(1, 2)[:, None] + bias
        said = self.dropout(torch.tanh(sending[:, :, :, None] + receiving[:, :, None]))
        weight = torch.stack([cast(Tensor, layer.weight) for layer in second]).transpose(1, 2)
        bias = torch.stack([cast(Tensor, layer.bias) for layer in second])[:, None]
        heard = torch.tanh(torch.baddbmm(bias, said.flatten(1, 3), weight)).view(said.shape)
        return (heard * weights).sum((0, 2)) / len(weights)


def link_loss(
    paths: Float[Tensor, "B V S C"],
    predicted: Float[Tensor, "B V S-1 C"],
    logits: Float[Tensor, "B E K"],
) -> Float[Tensor, " B"]:
    """Loss of the inferred links of each person.

    The negative log-likelihood of the next poses under a Gaussian of variance 5e-4, less its constant, plus the
    divergence of the types from a prior that holds most pairs for unlinked; both summed, and divided by the joints.

    References
    ----------
    Li et al., CVPR 2019, equation 5; Kipf et al., "Neural Relational Inference for Interacting Systems", ICML 2018.

    Examples
    --------
    >>> paths, prior = torch.zeros(1, 2, 50, 3), torch.tensor(PRIOR).log().expand(1, 2, 3)
    >>> link_loss(paths, paths[:, :, 1:] + 0.01, prior)
    tensor([14.7000])
    """
    joints = paths.shape[1]
    error = (predicted - paths[:, :, 1:]).square().sum((1, 2, 3)) / (2 * VARIANCE)
    log_share = torch.log_softmax(logits, -1)
    prior = log_share.new_tensor([math.log(share) for share in PRIOR])
    divergence = (log_share.exp() * (log_share - prior)).sum((1, 2))
    return (error + divergence) / joints


class _MLP(nn.Module):
    """Two layers with ELU, then batch norm. The first product is the caller's: of pairs, it is a sum of two ends'."""

    def __init__(self, inside: int, width: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inside, width)
        self.fc2 = nn.Linear(width, width)
        self.bn = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Float[Tensor, "B R H"]) -> Float[Tensor, "B R H"]:
        y = F.elu(self.fc2(self.dropout(F.elu(z))))
        return self.bn(y.flatten(0, 1)).view(y.shape)


def _from_ends(
    x: Float[Tensor, "B V H"], weight: Float[Tensor, "D 2*H"], bias: Float[Tensor, " D"]
) -> Float[Tensor, "B V-1 V D"]:
    """A layer on the pairs (receiver's vector, sender's vector), computed on each joint once."""
    receiver, sender = weight.chunk(2, 1)
    return off_diagonal((x @ sender.T + bias)[:, :, None] + (x @ receiver.T)[:, None])
