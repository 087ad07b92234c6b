"""HRNN: hierarchical bidirectional recurrent network, HBRNN-L (Du, Wang, Wang, CVPR 2015)."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from funnybone.errors import DataError
from funnybone.models.layers import present_first, share_absent
from funnybone.models.registry import Model, register_model
from funnybone.skeletons import NTU25, Skeleton

LIMBS = ("left_arm", "right_arm", "left_leg", "right_leg")
PARTS = (*LIMBS, "trunk")
HALVES = ("upper", "lower")
_LEG_WORDS = ("hip", "leg", "thigh", "femur", "knee", "ankle", "foot", "toe")
_FACE_WORDS = ("eye", "ear", "mouth", "brow", "jaw", "cheek")


@register_model("hrnn")
class HRNN(Model):
    """Five body parts, joined step by step into one body, each step a bidirectional recurrent layer.

    Tanh layers read the two arms, the two legs and the trunk; then each limb together with the trunk; then both arms
    and both legs; an LSTM reads the whole body. No authors' code exists: the layers follow the paper, their sizes are
    the options ``hidden1`` to ``hidden4`` (of one direction), because the paper's depend on the data set.

    Two things are ours. The paper adds up the scores of all frames before the softmax; here they are averaged, which
    names the same class but does not make longer clips more certain. The paper knows one person; here the network
    runs over each person alone and the features of those present are averaged. A person's sequence is the frames in
    which he or she is present, put one after another, so empty frames make no difference. Frames, T >= 1, may differ
    from call to call. Weights and activations keep their precision under autocast.

    Parameters
    ----------
    skeleton : Skeleton
        The V joints; `parts_of` finds the five parts.
    num_classes : int
        Length of the logits.
    persons : int
        Person slots M.
    frames : int
        Frames T that the network is meant for; kept for whoever prepares clips for it.
    in_channels : int
        Coordinates C of a joint.
    hidden1, hidden2, hidden3 : int
        Width of the tanh layers of parts, of limbs with the trunk, and of body halves.
    hidden4 : int
        Width of the LSTM.

    References
    ----------
    Du, Wang, Wang, "Hierarchical Recurrent Neural Network for Skeleton Based Action Recognition", CVPR 2015, section 3.

    Examples
    --------
    >>> net = HRNN(num_classes=14, persons=2, hidden4=8).eval()
    >>> xyz = torch.zeros(2, 2, 30, 25, 3)
    >>> net(xyz).shape, net.features(xyz).shape
    (torch.Size([2, 14]), torch.Size([2, 16]))
    """

    symmetric = True
    skips_empty = True

    def __init__(
        self,
        skeleton: Skeleton = NTU25,
        num_classes: int = 60,
        persons: int = 2,
        frames: int = 64,
        in_channels: int = 3,
        hidden1: int = 30,
        hidden2: int = 30,
        hidden3: int = 60,
        hidden4: int = 60,
    ) -> None:
        super().__init__(skeleton, num_classes, persons, frames, in_channels)
        joints = parts_of(skeleton)
        order = torch.tensor([joint for part in PARTS for joint in joints[part]])
        columns = order[:, None] * in_channels + torch.arange(in_channels)
        self.register_buffer("place", columns.flatten().argsort(), persistent=False)
        self.parts = nn.ModuleDict({part: _rnn(len(joints[part]) * in_channels, hidden1) for part in PARTS})
        self.limbs = nn.ModuleDict({limb: _rnn(4 * hidden1, hidden2) for limb in LIMBS})
        self.halves = nn.ModuleDict({half: _rnn(4 * hidden2, hidden3) for half in HALVES})
        self.body = nn.LSTM(4 * hidden3, hidden4, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden4, num_classes)

    def features(
        self, xyz: Float[Tensor, "N M T V C"], present: Bool[Tensor, "N M T"] | None = None
    ) -> Float[Tensor, "N F"]:
        """The mean over present persons, and over the frames in which each is present, of the LSTM's output.

        Examples
        --------
        >>> HRNN().eval().features(torch.zeros(1, 2, 7, 25, 3)).shape
        torch.Size([1, 120])
        """
        self.check(xyz, present)
        with torch.autocast(xyz.device.type, enabled=False):  # rounding would grow from frame to frame
            rows, there, places = share_absent(xyz, present)
            x, counts = _present_first(rows.to(self.fc.weight.dtype), there)
            steps = torch.arange(x.shape[1], device=x.device)[:, None]
            mask = (steps < counts).to(x.dtype)[..., None]
            y = self._over_body(x, mask)
            person = ((y * mask).sum(0) / counts.clamp(min=1)[:, None])[places].view(*xyz.shape[:2], y.shape[-1])
            ever = (counts > 0)[places].view(xyz.shape[:2])
            return person.sum(1) / ever.sum(1, keepdim=True).clamp(min=1)

    def classify(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """Logits of a feature vector; of a mean over frames, the mean of the frames' scores."""
        return self.fc(features)

    def _over_body(self, x: Float[Tensor, "R T V C"], mask: Float[Tensor, "T R 1"]) -> Float[Tensor, "T R F"]:
        parts, limbs, halves = (
            [cast(nn.RNNBase, rnn) for rnn in group.values()] for group in (self.parts, self.limbs, self.halves)
        )
        # The parts' inputs differ in length: one product with a block for each, its columns in the order of the joints.
        blocks = torch.block_diag(*(_both(part, "weight_ih") for part in parts))
        z = F.linear(x.flatten(2).transpose(0, 1), blocks.index_select(1, cast(Tensor, self.place)))
        y = _layer(z.unflatten(2, (len(parts), -1)).permute(2, 0, 1, 3), parts, mask)
        y = _layer(_product(torch.cat((y[:4], y[4:].expand(4, -1, -1, -1)), 3), limbs), limbs, mask)
        y = _layer(_product(torch.cat((y[::2], y[1::2]), 3), halves), halves, mask)
        return _layer(_product(torch.cat((y[:1], y[1:]), 3), [self.body]), [self.body], mask)[0]


def parts_of(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    """The joints of `PARTS`, from the tree and the left-right pairs.

    A limb is all that hangs on the trunk by a joint with a mirror image, three joints or more in a row (two, where
    there are no others). Arms hang nearer to the end of the trunk that holds the head. Where hips hang on shoulders, as
    in sets of image joints, the leg is the branch of the shoulder that is as long as a limb. The trunk is the rest:
    head, eyes and ears belong to it. Names of joints are asked only where the tree does not tell.

    Raises
    ------
    DataError
        When the skeleton has no two pairs of limbs, or nothing tells arms from legs.

    Examples
    --------
    >>> parts_of(NTU25)["left_arm"], parts_of(NTU25)["trunk"]
    ((4, 5, 6, 7, 21, 22), (0, 1, 2, 3, 20))
    """
    body = _Body(skeleton)
    arms, legs = body.arms_and_legs()
    limbs = dict(zip(LIMBS, (*arms, *legs), strict=True))
    trunk = set(range(len(skeleton.joints))).difference(*limbs.values())
    sides = sum(len(limb) for limb in limbs.values())
    if sides + len(trunk) != len(skeleton.joints):
        raise body.error("limbs share joints", "each joint belongs to one pair, left joint first")
    return {name: tuple(sorted(joints)) for name, joints in {**limbs, "trunk": trunk}.items()}


class _Body:
    """A skeleton's tree hung up at a joint of the trunk."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton
        self.sided = {joint for pair in skeleton.pairs for joint in pair}
        middle = [j for j in (skeleton.centre, *skeleton.topological_order) if j not in self.sided]
        if not middle:
            raise self.error("every joint has a mirror image, so there is no trunk", "add a joint of the spine or head")
        near: list[list[int]] = [[] for _ in skeleton.joints]
        for child, parent in skeleton.bones:
            near[child].append(parent)
            near[parent].append(child)
        self.near, self.parent = near, {middle[0]: -1}
        order = [middle[0]]
        for joint in order:  # grows while it is walked: breadth first
            for other in near[joint]:
                if other != self.parent[joint]:
                    self.parent[other] = joint
                    order.append(other)
        self.order = order

    def error(self, what: str, hint: str) -> DataError:
        return DataError(f"HRNN: skeleton {self.skeleton.name!r}: {what}", hint=hint)

    def arms_and_legs(self) -> tuple[list[set[int]], list[set[int]]]:
        """Joints of the (left, right) arms and legs."""
        hint = "HRNN needs two arms and two legs: list their joints in the skeleton's pairs"
        if not self.skeleton.pairs:
            raise self.error("no joint has a mirror image", hint)
        found = 0
        for reach in (3, 2):
            tops = [
                pair
                for pair in self.skeleton.pairs
                if all(
                    self.parent[joint] not in self.sided and self.depth(self.below(joint)) >= reach for joint in pair
                )
                and not self.named(pair, _FACE_WORDS)
            ]
            if len(tops) == 2:
                return self.told_apart(tops)
            if len(tops) == 1 and (split := self.split(tops[0])) is not None:
                return split
            found = found or len(tops)
        raise self.error(f"{found} pair{'s' * (found != 1)} of limbs hang on the trunk, not 2", hint)

    def split(self, top: tuple[int, int]) -> tuple[list[set[int]], list[set[int]]] | None:
        """The arm and the leg of each side, where legs hang on the arms' first joint."""
        whole = [self.below(joint) for joint in top]
        legs = [
            pair
            for pair in self.skeleton.pairs
            if all(self.parent[joint] == shoulder for joint, shoulder in zip(pair, top, strict=True))
            and all(self.depth(self.below(joint)) >= 3 for joint in pair)
            and all(self.depth(side - self.below(joint)) >= 3 for joint, side in zip(pair, whole, strict=True))
        ]
        if len(legs) > 1:
            legs = [pair for pair in legs if self.named(pair, _LEG_WORDS)]
        if len(legs) != 1:
            return None
        lower = [self.below(joint) for joint in legs[0]]
        return [side - leg for side, leg in zip(whole, lower, strict=True)], lower

    def told_apart(self, tops: list[tuple[int, int]]) -> tuple[list[set[int]], list[set[int]]]:
        """Arms first: most of the trunk, neck and head included, is nearer to where they hang."""
        limbs = [[self.below(joint) for joint in pair] for pair in tops]
        far = [self.distances(self.parent[pair[0]]) for pair in tops]
        trunk = set(range(len(self.skeleton.joints))).difference(*limbs[0], *limbs[1])
        lead = sum((far[1][joint] > far[0][joint]) - (far[1][joint] < far[0][joint]) for joint in trunk)
        if lead == 0:
            legs = [any(self.named((joint,), _LEG_WORDS) for joint in limb[0]) for limb in limbs]
            lead = legs[1] - legs[0]
        if lead == 0:
            raise self.error(
                "nothing tells arms from legs", "a head or neck beyond the arms does, or names such as LeftKnee"
            )
        return (limbs[0], limbs[1]) if lead > 0 else (limbs[1], limbs[0])

    def named(self, joints: Sequence[int], words: Sequence[str]) -> bool:
        spelled = [
            self.skeleton.joints[joint].lower().replace("forearm", "") for joint in joints
        ]  # there is an ear in it
        return all(any(word in joint for word in words) for joint in spelled)

    def below(self, top: int) -> set[int]:
        joints = {top}
        for joint in self.order:  # parents come first
            if self.parent[joint] in joints:
                joints.add(joint)
        return joints

    def depth(self, joints: set[int]) -> int:
        """Joints in a row, from the first down."""
        deep = {-1: 0}
        for joint in self.order:
            if joint in joints:
                deep[joint] = deep.get(self.parent[joint], 0) + 1
        return max(deep.values())

    def distances(self, start: int) -> dict[int, int]:
        far, order = {start: 0}, [start]
        for joint in order:
            for other in self.near[joint]:
                if other not in far:
                    far[other] = far[joint] + 1
                    order.append(other)
        return far


def _rnn(inside: int, hidden: int) -> nn.RNN:
    return nn.RNN(inside, hidden, batch_first=True, bidirectional=True)


def _both(rnn: nn.RNNBase, name: str) -> Tensor:
    """A parameter of both directions, one after the other."""
    return torch.cat((getattr(rnn, f"{name}_l0"), getattr(rnn, f"{name}_l0_reverse")))


def _present_first(
    rows: Float[Tensor, "R T V C"], present: Bool[Tensor, "R T"]
) -> tuple[Float[Tensor, "R T V C"], Int[Tensor, " R"]]:
    """Each person's present frames in order, then the empty ones; and how many are present."""
    order = present_first(present)
    return torch.take_along_dim(rows, order[:, :, None, None], 1), present.sum(1)


def _product(x: Float[Tensor, "S T R F"], rnns: Sequence[nn.RNNBase]) -> Float[Tensor, "S T R D"]:
    """What the frames bring to each stream's layer, both directions."""
    weight = torch.stack([_both(rnn, "weight_ih") for rnn in rnns])
    return torch.bmm(x.flatten(1, 2), weight.transpose(1, 2)).view(*x.shape[:3], weight.shape[1])


def _layer(
    z: Float[Tensor, "S T R D"], rnns: Sequence[nn.RNNBase], mask: Float[Tensor, "T R 1"]
) -> Float[Tensor, "S T R E"]:
    """The recurrence of several layers of one size, and of both directions, as one.

    Where the mask is zero, all that enters the recurrence is: a state of zero stays zero there, so the backward
    direction starts at the last present frame.
    """
    bias = torch.stack([_both(rnn, "bias_ih") + _both(rnn, "bias_hh") for rnn in rnns])
    weight = torch.cat([_both(rnn, "weight_hh").unflatten(0, (2, -1)) for rnn in rnns])
    ahead, back = ((z + bias[:, None, None]) * mask).chunk(2, 3)
    x = torch.stack((ahead, back.flip(1)), 1).flatten(0, 1).transpose(0, 1)
    y = _recurrence(x, weight.transpose(1, 2).contiguous(), isinstance(rnns[0], nn.LSTM))
    ahead, back = y.transpose(0, 1).unflatten(0, (len(rnns), 2)).unbind(1)
    return torch.cat((ahead, back.flip(1)), 3)


def _recurrence(x: Float[Tensor, "T G R D"], weight: Float[Tensor, "G H D"], gated: bool) -> Float[Tensor, "T G R H"]:
    """The states of G independent recurrences.

    PyTorch's own modules take one stream at a time; their fused kernels cannot be differentiated twice, nor, on
    graphics cards, at all in evaluation mode.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _lstm(x, weight) if gated else _tanh(x, weight)
    return (_LSTM if gated else _Tanh).apply(x, weight)


def _tanh(x: Tensor, weight: Tensor) -> Tensor:
    """The recurrence as a formula."""
    first, *others = x.unbind(0)
    states = [torch.tanh(first)]
    for now in others:
        states.append(torch.tanh(torch.baddbmm(now, states[-1], weight)))
    return torch.stack(states)


def _lstm(x: Tensor, weight: Tensor) -> Tensor:
    """The recurrence as a formula."""
    states: list[Tensor] = []
    cell = x.new_zeros(())
    for now in x.unbind(0):
        into, keep, new, out = (torch.baddbmm(now, states[-1], weight) if states else now).chunk(4, 2)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(into) * torch.tanh(new)
        states.append(torch.sigmoid(out) * torch.tanh(cell))
    return torch.stack(states)


def _again(formula: Callable[[Tensor, Tensor], Tensor], inputs: Sequence[Tensor], gradient: Tensor) -> list[Any]:
    """Gradients that can be differentiated again."""
    wanted = [each for each in inputs if each.requires_grad]
    found = iter(torch.autograd.grad(formula(*inputs), wanted, gradient, create_graph=True))
    return [next(found) if each.requires_grad else None for each in inputs]


class _Tanh(torch.autograd.Function):
    """`_tanh` and its gradient in two operations a step, without a graph of all the steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        states = x.clone(memory_format=torch.contiguous_format)
        steps = states.unbind(0)
        steps[0].tanh_()
        for before, now in pairwise(steps):
            now.baddbmm_(before, weight).tanh_()
        ctx.save_for_backward(x, weight, states)
        return states

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, states = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled():
                return tuple(_again(_tanh, (x, weight), gradient))
            slopes, back = (1 - states.square()).flip(0).unbind(0), weight.transpose(1, 2).contiguous()
            to_x = gradient.clone(memory_format=torch.contiguous_format)
            steps = to_x.unbind(0)[::-1]
            steps[0].mul_(slopes[0])
            for (after, now), slope in zip(pairwise(steps), slopes[1:], strict=True):
                now.baddbmm_(after, back).mul_(slope)
            return to_x, _to_weight(states, to_x) if ctx.needs_input_grad[1] else None


class _LSTM(torch.autograd.Function):
    """`_lstm` and its gradient in few operations a step, without a graph of all the steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        gates = x.clone(memory_format=torch.contiguous_format)
        both = gates[..., : 2 * weight.shape[1]]  # input and forget gate
        states, cells = gates.new_empty(2, *x.shape[:3], weight.shape[1])
        before: tuple[Tensor, Tensor] | None = None
        parts = (gates, both, *gates.chunk(4, 3), states, cells)
        for now, gate, into, keep, new, out, state, cell in zip(*(part.unbind(0) for part in parts), strict=True):
            if before is not None:
                now.baddbmm_(before[0], weight)
            gate.sigmoid_()
            out.sigmoid_()
            torch.mul(into, new.tanh_(), out=cell)
            if before is not None:
                cell.addcmul_(keep, before[1])
            torch.tanh(cell, out=state).mul_(out)
            before = state, cell
        ctx.save_for_backward(x, weight, states, gates, cells)
        return states

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, states, gates, cells = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled():
                return tuple(_again(_lstm, (x, weight), gradient))
            into, keep, new, out = gates.chunk(4, 3)
            ends, before = torch.tanh(cells), F.pad(cells[:-1], (0, 0, 0, 0, 0, 0, 1, 0))
            # What the input of each gate moves: the cell; that of the last gate moves the state.
            slopes = (new * into * (1 - into), before * keep * (1 - keep), into * (1 - new.square()))
            to_x = torch.stack((*slopes, ends * out * (1 - out)), 3)
            passed, keeps = (out * (1 - ends.square())).unbind(0), keep.unbind(0)
            to_states = gradient.clone(memory_format=torch.contiguous_format).unbind(0)
            to_cells, to_out = to_x[:, :, :, :3].unbind(0), to_x[:, :, :, 3].unbind(0)
            flat, back = to_x.flatten(3), weight.transpose(1, 2).contiguous()
            rows, cell = flat.unbind(0), torch.zeros_like(cells[0])
            for step in range(len(rows) - 1, -1, -1):
                state = to_states[step]
                if step < len(rows) - 1:
                    state.baddbmm_(rows[step + 1], back)
                cell.addcmul_(state, passed[step])
                to_cells[step].mul_(cell[:, :, None])
                to_out[step].mul_(state)
                cell.mul_(keeps[step])
            return flat, _to_weight(states, flat) if ctx.needs_input_grad[1] else None


def _to_weight(states: Tensor, to_x: Tensor) -> Tensor:
    """Gradient of the weight that takes each state to the next step."""
    before, after = (part.transpose(0, 1).flatten(1, 2) for part in (states[:-1], to_x[1:]))
    return torch.bmm(before.transpose(1, 2), after)
