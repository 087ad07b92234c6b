"""SGN in the authors' operation order: clip by clip sampling, channels first, one-hot codes, every batch norm where it
stands."""

import torch


def forward(net, xyz):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.sgn.SGN`."""
    rows = 1 if net.training else net.samples
    logits = [network(net, torch.stack([picked(net, clip, k) for clip in xyz])) for k in range(rows)]
    return torch.stack(logits).mean(0)


def picked(net, clip, k):
    """One pose of each segment of the clip's present poses; two persons alternate."""
    poses = clip.transpose(0, 1).flatten(0, 1)
    present = poses[(poses != 0).flatten(1).any(1)]
    poses = present if len(present) else poses[:1]
    share = torch.rand(net.segments).double() if net.training else (2 * k + 1) / (2 * net.samples)
    places = ((torch.arange(net.segments) + share) * len(poses) / net.segments + 1e-9).long()
    return poses[places]


def network(net, poses):
    """Logits of (B, S, V, C) poses."""
    b, s, v, _ = poses.shape
    x = poses.permute(0, 3, 2, 1).contiguous()
    velocity = torch.cat([torch.zeros_like(x[..., :1]), x[..., 1:] - x[..., :-1]], -1)
    dynamics = embedded(net.joint_embed, x) + embedded(net.dif_embed, velocity)
    joints = torch.eye(v).to(x).view(1, v, v, 1).repeat(b, 1, 1, s)
    frames = torch.eye(s).to(x).view(1, s, 1, s).repeat(b, 1, v, 1)
    x = torch.cat([dynamics, embedded(net.spa_embed, joints)], 1)
    g1 = net.compute_g1.g1.cnn(x).permute(0, 3, 2, 1).contiguous()
    g2 = net.compute_g1.g2.cnn(x).permute(0, 3, 1, 2).contiguous()
    graph = g1.matmul(g2).softmax(-1)
    for layer in (net.gcn1, net.gcn2, net.gcn3):
        neighbours = graph.matmul(x.permute(0, 3, 2, 1).contiguous()).permute(0, 3, 2, 1).contiguous()
        x = torch.relu(layer.bn(layer.w.cnn(neighbours) + layer.w1.cnn(x)))
    x = x + embedded(net.tem_embed, frames)
    x = torch.nn.functional.adaptive_max_pool2d(x, (1, s))
    x = torch.relu(net.cnn.bn1(net.cnn.cnn1(x)))
    x = torch.nn.functional.dropout2d(x, 1 - net.cnn.dropout.kept / 256, net.training)
    x = torch.relu(net.cnn.bn2(net.cnn.cnn2(x)))
    return net.fc(torch.nn.functional.adaptive_max_pool2d(x, (1, 1)).flatten(1))


def embedded(embed, x):
    for layer in embed.cnn:
        if hasattr(layer, "bn"):
            x = layer.bn(x.flatten(1, 2)).view(x.shape)
        else:
            x = layer.cnn(x) if hasattr(layer, "cnn") else layer(x)
    return x
