"""ST-GCN in the authors' operation order: channels first, every batch norm where it stands."""

import torch


def forward(net, xyz):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.stgcn.STGCN`."""
    n, m, t, v, c = xyz.shape
    x = net.data_bn(xyz.permute(0, 1, 3, 4, 2).reshape(n * m, v * c, t))
    x = x.view(n * m, v, c, t).permute(0, 2, 3, 1).contiguous()
    for block, importance in zip(net.st_gcn_networks, net.edge_importance, strict=True):
        y = block.gcn.conv(x)
        y = y.view(len(x), len(net.A), -1, *x.shape[2:])
        y = torch.einsum("nkctv,kvw->nctw", y, net.A * importance).contiguous()
        x = torch.relu(block.tcn(y) + (0 if block.residual is None else block.residual(x)))
    return net.fcn(x.mean((2, 3)).view(n, m, -1, 1, 1).mean(1)).flatten(1)
