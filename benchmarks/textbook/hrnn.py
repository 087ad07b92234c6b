"""HRNN as one writes it down: one `nn.RNN` call for each part, scores for each frame. No frame may be empty."""

import torch

from funnybone.models.hrnn import parts_of


def forward(net, xyz):
    """Logits of (N, M, T, V, C) clips, with the weights of `net`, a `funnybone.models.hrnn.HRNN`."""
    n, m = xyz.shape[:2]
    x = xyz.flatten(0, 1)
    joints = parts_of(net.skeleton)
    part = {name: rnn(x[:, :, list(joints[name])].flatten(2))[0] for name, rnn in net.parts.items()}
    limb = {name: rnn(torch.cat((part[name], part["trunk"]), 2))[0] for name, rnn in net.limbs.items()}
    upper = net.halves["upper"](torch.cat((limb["left_arm"], limb["right_arm"]), 2))[0]
    lower = net.halves["lower"](torch.cat((limb["left_leg"], limb["right_leg"]), 2))[0]
    scores = net.fc(net.body(torch.cat((upper, lower), 2))[0])
    return scores.mean(1).view(n, m, -1).mean(1)
