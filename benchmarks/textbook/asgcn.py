"""AS-GCN in the authors' operation order: channels first, every batch norm where it stands, pairs of joints in full."""

import torch
import torch.nn.functional as F


def forward(net, xyz, uniform=None):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.asgcn.ASGCN`.

    With (N M, E, K) uniform random numbers, types of links are drawn.
    """
    n, m, t, v, c = xyz.shape
    links = actional(net, xyz.reshape(n * m, t, v, c), uniform)
    x = net.data_bn(xyz.permute(0, 1, 3, 4, 2).reshape(n * m, v * c, t))
    x = x.view(n * m, v, c, t).permute(0, 2, 3, 1).contiguous()
    for index, importance in enumerate(net.edge_importance):
        block = getattr(net, f"class_layer_{index}")
        y = over_joints(block.gcn.conv(x), net.A * importance, links)
        x = torch.relu(block.tcn(y) + (0 if block.residual is None else block.residual(x)))
    return net.fcn(x.mean((2, 3)).view(n, m, -1, 1, 1).mean(1)).flatten(1)


def predict(net, last, links, pose):
    """The next ten poses (B, C, 10, V) after (B, C, T, V) activations and (B, C, V) poses."""
    x = last
    for index in range(6):
        block = getattr(net, f"recon_layer_{index}")
        y = over_joints(block.gcn.conv(x), net.A * net.edge_importance_recon[index], links)
        x = torch.relu(block.tcn(y) + (0 if block.residual is None else block.residual(x)))
    block, x = net.recon_layer_6, torch.cat([x, pose[:, :, None]], 1)
    y = block.tcn_recon(over_joints(block.gcn_recon.deconv(x), net.A * net.edge_importance_recon[6], links))
    return (pose.repeat(1, 10, 1) + y[:, :, 0]).view(len(x), -1, 10, x.shape[-1])


def over_joints(y, adjacency, links):
    """Kernels of (B, K C, T, V) over bones, plus half of those over links."""
    y = y.view(len(y), len(adjacency) + 2, -1, *y.shape[2:])
    bones = torch.einsum("nkctv,kvw->nctw", y[:, :-2], adjacency)
    return (bones + 0.5 * torch.einsum("nkctv,nkvw->nctw", y[:, -2:], links)).contiguous()


def actional(net, rows, uniform=None):
    """Actional matrices (B, 2, V, V) of (B, T, V, C) clips."""
    logits, v = encode(net.encoder, sampled(rows)), rows.shape[2]
    noise = 0 if uniform is None else -torch.log(1e-10 - torch.log(uniform + 1e-10))
    soft = torch.softmax((logits + noise) / 0.5, 2)
    hard = torch.zeros_like(soft).scatter_(2, soft.argmax(2, keepdim=True), 1.0)
    edges = (hard - soft).detach() + soft
    senders, receivers = torch.tensor(off_diagonal_pairs(v)).unbind(1)
    matrices = []
    for person in edges:
        kinds = []
        for kind in (1, 2):
            linked = torch.eye(v, dtype=rows.dtype).index_put((senders, receivers), person[:, kind].to(rows.dtype))
            kinds.append(linked @ torch.diag(1 / linked.sum(0) + 1e-10) * 0.1)
        matrices.append(torch.stack(kinds))
    return torch.stack(matrices)


def sampled(rows):
    """Paths (B, V, 50, C): each of 50 times between its two frames."""
    last, paths = rows.shape[1] - 1, []
    for step in range(50):
        low, rest = divmod(step * last, 49)
        paths.append(rows[:, low] + rest / 49 * (rows[:, min(low + 1, last)] - rows[:, low]))
    return torch.stack(paths, 2)


def encode(net, paths):
    """Logits (B, E, 3) of the types of all pairs."""
    send, receive = ends(paths)
    x = mlp(net.mlp1, paths.flatten(2))
    pairs = mlp(net.mlp2, torch.cat([receive @ x, send @ x], 2))
    x = mlp(net.mlp3, receive.T @ pairs / paths.shape[1])
    return net.fc_out(mlp(net.mlp4, torch.cat([receive @ x, send @ x, pairs], 2)))


def decode(net, paths, edges):
    """The next pose after each, (B, V, S - 1, C)."""
    send, receive = ends(paths)
    hidden = paths.new_zeros(*paths.shape[:2], net.out_fc1.in_features)
    poses = []
    for step in range(paths.shape[2] - 1):
        pose = paths[:, :, step]
        pair = torch.cat([receive @ hidden, send @ hidden], 2)
        heard = 0
        for kind in (1, 2):
            said = torch.tanh(net.msg_fc2[kind](net.dropout(torch.tanh(net.msg_fc1[kind](pair)))))
            heard = heard + said * edges[:, :, kind : kind + 1] / 2
        heard = receive.T @ heard / paths.shape[3]
        r = torch.sigmoid(net.input_r(pose) + net.hidden_r(heard))
        i = torch.sigmoid(net.input_i(pose) + net.hidden_i(heard))
        n = torch.tanh(net.input_n(pose) + r * net.hidden_n(heard))
        hidden = (1 - i) * n + i * hidden
        y = net.dropout(torch.relu(net.out_fc1(hidden)))
        poses.append(pose + net.out_fc3(net.dropout(torch.relu(net.out_fc2(y)))))
    return torch.stack(poses, 2)


def mlp(net, x):
    """Two layers and batch norm over all pairs or joints."""
    y = F.elu(net.fc2(net.dropout(F.elu(net.fc1(x)))))
    return net.bn(y.view(-1, y.shape[-1])).view(y.shape)


def off_diagonal_pairs(joints):
    """All (sender, receiver)."""
    return [(sender, receiver) for sender in range(joints) for receiver in range(joints) if sender != receiver]


def ends(paths):
    """One-hot matrices of senders and receivers (E, V)."""
    pairs = torch.tensor(off_diagonal_pairs(paths.shape[1]))
    return (F.one_hot(part, paths.shape[1]).to(paths.dtype) for part in pairs.unbind(1))
