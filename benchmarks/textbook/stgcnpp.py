"""ST-GCN++ in the authors' operation order: channels first, branch by branch, every batch norm where it stands."""

import torch


def forward(net, xyz):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.stgcnpp.STGCNpp`."""
    n, m, t, v, c = xyz.shape
    x = net.backbone.data_bn(xyz.permute(0, 1, 3, 4, 2).reshape(n * m, v * c, t))
    x = x.view(n * m, v, c, t).permute(0, 2, 3, 1).contiguous()
    for block in net.backbone.gcn:
        x = torch.relu(over_time(block.tcn, over_joints(block.gcn, x)) + shortcut(block.residual, x))
    return net.cls_head.fc_cls(x.mean((2, 3)).view(n, m, -1).mean(1))


def over_joints(gcn, x):
    y = gcn.conv(x).view(len(x), len(gcn.A), -1, *x.shape[2:])
    y = torch.einsum("nkctv,kvw->nctw", y, gcn.A).contiguous()
    return torch.relu(gcn.bn(y) + (x if gcn.down is None else gcn.down(x)))


def over_time(tcn, x):
    outs = []
    for branch in tcn.branches[:4]:
        outs.append(branch[3].conv(branch[:3](x)))
    outs += [tcn.branches[4](x), tcn.branches[5](x)]
    return tcn.bn(tcn.transform(torch.cat(outs, 1)))


def shortcut(residual, x):
    if residual is None:
        return 0
    return x if isinstance(residual, torch.nn.Identity) else residual.bn(residual.conv(x))
