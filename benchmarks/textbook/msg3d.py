"""MS-G3D in the authors' operation order: channels first, windows unfolded, branch after branch."""

import torch
import torch.nn.functional as F


def forward(net, xyz):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.msg3d.MSG3D`."""
    n, m, t, v, c = xyz.shape
    x = net.data_bn(xyz.permute(0, 1, 3, 4, 2).reshape(n, m * v * c, t))
    x = x.view(n * m, v, c, t).permute(0, 2, 3, 1).contiguous()
    stages = (
        (net.sgcn1, net.gcn3d1, net.tcn1, 1),
        (net.sgcn2, net.gcn3d2, net.tcn2, 2),
        (net.sgcn3, net.gcn3d3, net.tcn3, 2),
    )
    for factorised, windows, last, stride in stages:
        y = torch.relu(scales(factorised[0], x))
        y = torch.relu(temporal(factorised[1], y, stride))
        y = temporal(factorised[2], y, 1)
        for window in windows.gcn3d:
            y = y + spacetime(window, x, stride)
        x = torch.relu(temporal(last, torch.relu(y), 1))
    return net.fc(x.reshape(n, m, x.shape[1], -1).mean(3).mean(1))


def scales(part, x):
    """Every scale's adjacency, stacked over the channels, then one 1x1 convolution."""
    n, c, t, v = x.shape
    stacked = torch.einsum("vu,nctu->nctv", part.hops + part.A_res, x)
    stacked = stacked.view(n, c, t, -1, v).permute(0, 3, 1, 2, 4).contiguous().view(n, -1, t, v)
    for layer in part.mlp.layers:
        stacked = layer(stacked)
    return stacked


def spacetime(part, x, stride):
    """The same on windows of frames, of which a convolution then makes one frame each."""
    n, c, _, v = x.shape
    size = part.out_conv.kernel_size[1]
    cells = F.unfold(x, (size, 1), padding=(size // 2, 0), stride=(stride, 1))
    cells = cells.view(n, c, size, -1, v).permute(0, 1, 3, 2, 4).contiguous().view(n, c, -1, size * v)
    y = torch.relu(scales(part.gcn3d[1], cells))
    return part.out_bn(part.out_conv(y.view(n, y.shape[1], -1, size, v)).squeeze(3))


def temporal(part, x, stride):
    """Six branches side by side, plus a residual."""
    branches = []
    for branch in part.branches[:4]:
        entry, norm, _, over_time = branch
        branches.append(over_time.bn(over_time.conv(torch.relu(norm(entry(x))))))
    entry, norm, _, _, after = part.branches[4]
    branches.append(after(F.max_pool2d(torch.relu(norm(entry(x))), (3, 1), (stride, 1), (1, 0))))
    branches.append(part.branches[5](x))
    residual = x if part.residual is None else part.residual.bn(part.residual.conv(x))
    return torch.cat(branches, 1) + residual
