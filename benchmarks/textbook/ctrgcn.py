"""CTR-GCN in the authors' order: channels first, loops over subsets and branches, every batch norm where it stands."""

import torch


def forward(net, xyz):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.ctrgcn.CTRGCN`."""
    n, m, t, v, c = xyz.shape
    x = net.data_bn(xyz.permute(0, 1, 3, 4, 2).reshape(n, m * v * c, t))
    x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
    for index in range(1, 11):
        block = getattr(net, f"l{index}")
        y = over_joints(block.gcn1, x)
        y = torch.cat([branch(y) for branch in block.tcn1.branches], 1)
        x = torch.relu(y + (0 if block.residual is None else block.residual(x)))
    return net.fc(x.view(n, m, x.shape[1], -1).mean(3).mean(1))


def over_joints(gcn, x):
    """The sum over subsets of refined graph convolutions, its norm, and what is added to it."""
    total = 0
    for subset, shared in zip(gcn.convs, gcn.PA, strict=True):
        target, source = subset.conv1(x).mean(2), subset.conv2(x).mean(2)
        matrices = subset.conv4(torch.tanh(target[:, :, :, None] - source[:, :, None])) * gcn.alpha + shared
        total = total + torch.einsum("ncuv,nctv->nctu", matrices, subset.conv3(x))
    return torch.relu(gcn.bn(total) + (x if gcn.down is None else gcn.down(x)))
