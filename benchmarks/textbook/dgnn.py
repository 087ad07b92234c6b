"""DGNN in the community code's operation order: channels first, every batch norm where it stands."""

import torch


def forward(net, xyz):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.dgnn.DGNN`."""
    bones = torch.zeros_like(xyz)
    for index, (start, end) in enumerate(net.bone_ends.T.tolist()):
        bones[..., index, :] = xyz[..., end, :] - xyz[..., start, :]
    nodes, edges = _normalised(net.data_bn_v, xyz), _normalised(net.data_bn_e, bones)
    for index in range(10):
        nodes, edges = _block(getattr(net, f"l{index + 1}"), nodes, edges)
    n, m = xyz.shape[:2]
    parts = [x.view(n, m, x.shape[1], -1).mean(3).mean(1) for x in (nodes, edges)]
    return net.fc(torch.cat(parts, 1))


def _normalised(norm, x):
    n, m, t, v, c = x.shape
    x = norm(x.permute(0, 1, 3, 4, 2).reshape(n, m * v * c, t))
    return x.view(n * m, v, c, t).permute(0, 2, 3, 1).contiguous()


def _block(block, nodes, edges):
    dgn, source, target = block.dgn, block.dgn.source_M, block.dgn.target_M
    leaving, entering = (torch.einsum("ncte,ve->nctv", edges, matrix) for matrix in (source, target))
    starting, ending = (torch.einsum("nctv,ve->ncte", nodes, matrix) for matrix in (source, target))
    out = []
    for parts, linear, norm in (
        ((nodes, leaving, entering), dgn.H_v, dgn.bn_v),
        ((edges, starting, ending), dgn.H_e, dgn.bn_e),
    ):
        x = linear(torch.cat(parts, 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        out.append(_over_time(block.tcn, torch.relu(norm(x))))
    if isinstance(block.residual, torch.nn.ModuleDict):
        out = [x + _over_time(block.residual, old) for x, old in zip(out, (nodes, edges), strict=True)]
    elif block.residual is not None:
        out = [x + old for x, old in zip(out, (nodes, edges), strict=True)]
    return [torch.relu(x) for x in out]


def _over_time(layer, x):
    return layer["tempconv"]["bn"](layer["tempconv"]["conv"](x))
