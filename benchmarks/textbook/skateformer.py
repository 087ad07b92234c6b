"""SkateFormer in the authors' operation order: channels first, a loop over groups and kinds of partitions."""

import torch
import torch.nn.functional as F


def forward(net, xyz):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.skateformer.SkateFormer`."""
    n, _, t, _, c = xyz.shape
    x = xyz[:, :, :, net.order].permute(0, 4, 2, 1, 3).flatten(3)
    at = torch.arange(t, dtype=x.dtype)
    if t != net.length:
        columns = x.transpose(2, 3).reshape(n, -1, t)
        columns = F.interpolate(columns, size=net.length, mode="linear", align_corners=False)
        x = columns.view(n, c, -1, net.length).transpose(2, 3)
        at = F.interpolate(at[None, None], size=net.length, mode="linear", align_corners=False)[0, 0]
    times = 2 * at / t - 1
    for layer in net.stem:
        x = layer(x)
    width = len(net.joint_person_embedding)
    code = torch.zeros(net.length, width, dtype=x.dtype)
    steps = torch.exp(torch.arange(0, width, 2, dtype=x.dtype) * -(torch.tensor(10000.0).double().log() / width))
    code[:, 0::2], code[:, 1::2] = torch.sin(times[:, None] * steps), torch.cos(times[:, None] * steps)
    x = x + torch.einsum("tc,cv->ctv", code, net.joint_person_embedding)
    for stage in net.stages:
        for block in stage.blocks:
            if block.downsample is not None:
                x = block.downsample.bn(block.downsample.reduction(x))
            x = transform(block.transformer, x)
    return net.head(x.mean((2, 3)))


def transform(block, x):
    """One transformer block."""
    channels = x.shape[1]
    skip = x.permute(0, 2, 3, 1).contiguous()
    f = block.mapping(block.norm_1(skip)).permute(0, 3, 1, 2).contiguous()
    convolved, attended = f.split([channels // 2, 3 * channels // 2], 1)
    over_joints, over_time = convolved.chunk(2, 1)
    groups = zip(over_joints.chunk(len(block.gconv), 1), block.gconv, strict=True)
    y = [torch.cat([torch.einsum("nctu,vu->nctv", part, matrix) for part, matrix in groups], 1), block.tconv(over_time)]
    for kind, part in enumerate(attended.chunk(4, 1)):
        joints = block.distant if kind % 2 else block.neighbours
        windows = partition(part, kind, block.window, joints)
        out = attend(block.attention[kind], windows.flatten(3, 4), block.heads)
        y.append(merge(out.view(*windows.shape[:-1], -1), kind))
    y = skip + block.proj(torch.cat(y, 1).permute(0, 2, 3, 1).contiguous())
    return (y + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm_2(y))))).permute(0, 3, 1, 2).contiguous()


def partition(x, kind, window, joints):
    """(N, windows over time, windows over joints, frames, joints, C) of (N, C, T, V)."""
    n, c, t, v = x.shape
    time = (window, t // window) if kind >= 2 else (t // window, window)
    place = (joints, v // joints) if kind % 2 else (v // joints, joints)
    order = {0: (0, 2, 4, 3, 5, 1), 1: (0, 2, 5, 3, 4, 1), 2: (0, 3, 4, 2, 5, 1), 3: (0, 3, 5, 2, 4, 1)}[kind]
    return x.reshape(n, c, *time, *place).permute(order).contiguous()


def merge(windows, kind):
    """(N, C, T, V) of what `partition` made."""
    order = {0: (0, 5, 1, 3, 2, 4), 1: (0, 5, 1, 3, 4, 2), 2: (0, 5, 3, 1, 2, 4), 3: (0, 5, 3, 1, 4, 2)}[kind]
    return windows.permute(order).contiguous().flatten(4, 5).flatten(2, 3)


def attend(attention, x, heads):
    """Attention inside each window; queries, keys and values are the thirds of the channels."""
    shape = x.shape[:-1]
    query, key, value = x.flatten(0, 2).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scores = (query * heads**-0.5) @ key.transpose(-2, -1) + position_bias(attention, heads)
    return (scores.softmax(-1) @ value).transpose(1, 2).reshape(*shape, -1)


def position_bias(attention, heads):
    """(1, heads, points, points), with the released code's layout."""
    index, table = attention.relative_position_index, attention.relative_position_bias_table
    window = len(index)
    if table.ndim == 2:
        bias = table[index.view(-1)].view(window, window, -1)
        points = window * attention.joints
        bias = bias[:, None, :, None].repeat(1, attention.joints, 1, attention.joints, 1, 1).view(points, points, -1)
    else:
        joints = table.shape[1]
        bias = table[index.view(-1)].view(window, window, joints, joints, -1).permute(0, 2, 1, 3, 4)
        bias = bias.reshape(window * joints, window * joints, -1)
    return bias.permute(2, 0, 1).contiguous()[None]
