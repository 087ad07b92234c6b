"""2s-AGCN, one stream, in the authors' operation order: channels first, one subset after the other."""

import torch


def forward(net, xyz):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.agcn.AGCN`."""
    n, m, t, v, c = xyz.shape
    x = net.data_bn(xyz.permute(0, 1, 3, 4, 2).reshape(n, m * v * c, t))
    x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
    for index in range(1, 11):
        x = block(getattr(net, f"l{index}"), x, net.A)
    return net.fc(x.flatten(2).mean(2).view(n, m, -1).mean(1))


def block(layer, x, fixed):
    """One block: the adaptive graph convolution, the convolution over time, the residual."""
    y = layer.tcn1.bn(layer.tcn1.conv(over_joints(layer.gcn1, x, fixed)))
    residual = layer.residual
    if residual is not None:
        y = y + (x if isinstance(residual, torch.nn.Identity) else residual.bn(residual.conv(x)))
    return torch.relu(y)


def over_joints(gcn, x, fixed):
    """The graph convolution of (B, C, T, V): fixed, learned and data-dependent graphs, added."""
    b, c, t, v = x.shape
    graphs, total = fixed + gcn.PA, 0
    for subset, graph in enumerate(graphs):
        theta = gcn.conv_a[subset](x).permute(0, 3, 1, 2).contiguous().view(b, v, -1)
        phi = gcn.conv_b[subset](x).view(b, -1, v)
        affinity = torch.softmax(torch.matmul(theta, phi) / theta.shape[-1], -2)
        mixed = torch.matmul(x.reshape(b, c * t, v), affinity + graph)
        total = total + gcn.conv_d[subset](mixed.view(b, c, t, v))
    return torch.relu(gcn.bn(total) + (x if gcn.down is None else gcn.down(x)))
