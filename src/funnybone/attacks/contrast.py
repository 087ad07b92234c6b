"""What clips are like, learned without labels: an encoder that knows a motion again, and centres of its embeddings."""

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from funnybone.attacks.dim import DIM, Change
from funnybone.chance import Chance
from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.models import Model, Preprocess, create
from funnybone.models.registry import option_names

DIMENSIONS = 128  # of an embedding
TEMPERATURE = 0.07  # of InfoNCE, as published
WEIGHT_DECAY = 1e-4  # as published
BATCH = 16
QUEUE = 4096  # keys that are remembered, at most
# What is left of the key encoder after a step. Where it follows faster, new keys differ from those in the queue, and no
# more is learned than that; with 0.999, as for large sets, a short training ends before it moves.
KEY_MOMENTUM = 0.99
# How two views of a clip differ: a part of its time, turned and sheared, and of half of them some joints led astray.
VIEWS = DIM(crop=0.5, rotation=0.5, shear=0.2, corruption=0.05)
ROUNDS = 100  # of k-means, at most

# Told after each epoch: epochs done, the mean loss of the last one.
Told = Callable[[int, float], None]


class Encoder(nn.Module):
    """A network's features, brought to mean zero and size one over the clips, and a linear map to length one.

    Without that norm the features of a fresh network all point one way, and a short training makes them constant. The
    network's own norms are set once, to the statistics of the clips, and stay: what an encoder says of a clip while it
    is learned does then depend on the clips beside it by the last norm alone.
    """

    def __init__(self, network: Model, preprocess: Preprocess, xyz: Float[Tensor, "N M T V C"]) -> None:
        super().__init__()
        self.network, self.preprocess = network, preprocess
        batches = math.ceil(len(xyz) / BATCH)
        norms = [part for part in network.modules() if isinstance(part, _BatchNorm)]
        for norm in norms:
            norm.momentum = None  # the average over all clips, not one that forgets
        with torch.no_grad():
            for mode in (True, False):
                network.train(mode)
                features = torch.cat([network.features(preprocess(part)) for part in xyz.tensor_split(batches)])
        self.norm = nn.BatchNorm1d(features.shape[1], affine=False)
        self.norm.running_mean, self.norm.running_var = features.mean(0), features.var(0, correction=0)
        self.head = nn.Linear(features.shape[1], DIMENSIONS)
        self.to(xyz.device).train(False)

    def train(self, mode: bool = True) -> "Encoder":
        super().train(False)
        self.norm.train(mode)
        return self

    def forward(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N D"]:
        return F.normalize(self.head(self.norm(self.network.features(self.preprocess(xyz)))))


@dataclass(frozen=True, eq=False)
class Contrast:
    """An encoder, and the centres of the clips that it was learned from.

    Attributes
    ----------
    encoder : Encoder
        In evaluation mode, frozen.
    centres : Float[Tensor, "K D"]
        Of k-means, among embeddings of length one.
    clips : int
        How many these were.
    loss : float
        Of the last epoch.
    """

    encoder: Encoder
    centres: Float[Tensor, "K D"]
    clips: int
    loss: float

    def embedded(self, xyz: Float[Tensor, "N M T V C"]) -> Float[Tensor, "N D"]:
        """Return what clips are like, differentiably: vectors of length one."""
        return self.encoder(xyz)

    def unlike(self, embedded: Float[Tensor, "N D"], dropped: int) -> Float[Tensor, "N L D"]:
        """Return for each embedding the centres without so many that are nearest to it."""
        return self.centres[torch.cdist(embedded, self.centres).argsort(1)[:, dropped:]]


def learn_contrast(
    clips: Clips,
    *,
    backbone: str,
    width: int,
    epochs: int,
    optimiser: str,
    learning_rate: float,
    clusters: int,
    seed: int,
    told: Told = lambda epoch, loss: None,
) -> Contrast:
    """Learn from clips without their labels what is the same motion and what is another.

    Momentum contrast: of each clip two views are drawn; the encoder is to tell which key is that of the other view, by
    InfoNCE, among those of other clips in a queue. Keys are made by a slow copy of the encoder, whose last norm runs on
    averages, so that nothing about a batch gives its keys away. A clip's own earlier key is no negative.

    Parameters
    ----------
    clips : Clips
        At least two. Their labels are not looked at.
    backbone : str
        A family of `funnybone.models`.
    width : int
        Its width, where it has one.
    epochs : int
        Passes over the clips.
    optimiser : {"adamw", "sgd"}
        SGD has momentum 0.9.
    learning_rate : float
        The first one; it falls to zero as a cosine does.
    clusters : int
        Centres; where there are fewer clips, as many as clips.
    seed : int
        Decides first weights, views and order. The global random state is left as it was.
    told : callable, optional
        Called after each epoch.

    References
    ----------
    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020: query, key and queue.
    Lu et al., ICCV 2023 (see `funnybone.attacks.nobox`): the temperature, the kinds of views, SGD and k-means. How
    strong the views are, the queue's length, momenta, the schedule and the norms are a reconstruction, AdamW is ours.
    """
    if len(clips) < 2:
        raise DataError(f"{clips.name}: {len(clips)} clips to learn an encoder from", hint="give starts=, at least 2")
    # Out of reach, for whoever changes what is below, too.
    clips = dataclasses.replace(clips, labels=torch.zeros_like(clips.labels), classes=("unknown",))
    device = clips.xyz.device
    generator = torch.Generator().manual_seed(seed)
    _, persons, frames, _, axes = clips.xyz.shape
    sizes = {"num_classes": 1, "persons": persons, "frames": frames, "in_channels": axes}
    options = {"width": width} if "width" in option_names(backbone) else {}
    with torch.enable_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = create(backbone, skeleton=clips.skeleton, **sizes, **options).to(device)
        encoder = Encoder(network, Preprocess.of(clips.skeleton, up=clips.up), clips.xyz)
        loss = _trained(encoder, _optimiser(optimiser, encoder, learning_rate), clips, epochs, generator, told)
    encoder.eval().requires_grad_(False)
    embedded = torch.cat([encoder(part) for part in clips.xyz.split(BATCH)])
    centres = k_means(embedded.cpu(), min(clusters, len(clips)), generator)
    return Contrast(encoder, centres.to(device), len(clips), loss)


def _trained(
    encoder: Encoder,
    optimiser: torch.optim.Optimizer,
    clips: Clips,
    epochs: int,
    generator: torch.Generator,
    told: Told,
) -> float:
    """Train an encoder; return the mean loss of the last epoch."""
    keys = copy.deepcopy(encoder).eval().requires_grad_(False)
    encoder.train()
    batches = math.ceil(len(clips) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    chance = Chance.of(clips, generator)
    remembered = min(QUEUE, len(clips))  # of few clips no more than one key each
    queue, owners = clips.xyz.new_zeros(0, DIMENSIONS), clips.labels.new_zeros(0)
    mean = 0.0
    for epoch in range(1, epochs + 1):
        views = [Change.drawn(VIEWS, clips, chance) for _ in range(2)]
        mean = 0.0
        # Parts of nearly one size: a last batch of one clip has no negatives.
        for rows in torch.randperm(len(clips), generator=generator).tensor_split(batches):
            rows = rows.to(clips.xyz.device)
            changes = (Change(view.times[rows], view.maps[rows]) for view in views)
            seen, other = (change.of(clips.xyz[rows], clips.valid[rows]) for change in changes)
            query, key = encoder(seen), keys(other)
            # The keys of this batch are negatives of its other clips.
            queue, owners = (torch.cat(pair)[:remembered] for pair in ((key, queue), (rows, owners)))
            loss = info_nce(query, key, queue, rows[:, None] == owners)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            _follow(keys, encoder)
            mean += float(loss.detach()) * len(rows) / len(clips)
        told(epoch, mean)
    return mean


def _optimiser(name: str, encoder: Encoder, learning_rate: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(encoder.parameters(), lr=learning_rate, momentum=0.9, weight_decay=WEIGHT_DECAY)
    return torch.optim.AdamW(encoder.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)


def info_nce(
    query: Float[Tensor, "B D"], key: Float[Tensor, "B D"], queue: Float[Tensor, "Q D"], own: Bool[Tensor, "B Q"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of telling each query's key from those of a queue that are not its ``own`` clip's.

    Examples
    --------
    >>> one = torch.eye(2)
    >>> info_nce(one, one, one, torch.eye(2, dtype=torch.bool)) < 1e-6
    tensor(True)
    """
    right = (query * key).sum(1, keepdim=True)
    wrong = (query @ queue.T).masked_fill(own, -torch.inf)
    return (torch.cat([right, wrong], 1) / TEMPERATURE).logsumexp(1).mean() - (right / TEMPERATURE).mean()


def k_means(points: Float[Tensor, "N D"], clusters: int, generator: torch.Generator) -> Float[Tensor, "K D"]:
    """Return centres of points: Lloyd's algorithm from the starts of k-means++ (Arthur and Vassilvitskii, 2007).

    A centre that no point is nearest to stays where it is.

    Examples
    --------
    >>> points = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> k_means(points, 2, torch.Generator().manual_seed(0)).sort(0).values.flatten()
    tensor([ 0.5000, 10.5000])
    """
    chosen = torch.randint(len(points), (1,), generator=generator)
    away = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for _ in range(clusters - 1):
        away = torch.minimum(away, (points - points[chosen[-1]]).double().square().sum(1))
        # Of points that all lie on a centre, each is as good.
        share = torch.where(away.sum() > 0, away, 1)
        chosen = torch.cat([chosen, torch.multinomial(share, 1, generator=generator)])
    centres = points[chosen]
    for _ in range(ROUNDS):
        owner = torch.cdist(points, centres).argmin(1)
        count = torch.bincount(owner, minlength=clusters)[:, None]
        mean = torch.zeros_like(centres).index_add(0, owner, points) / count.clamp(min=1)
        moved = torch.where(count > 0, mean, centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _follow(keys: Encoder, encoder: Encoder) -> None:
    """Let the key encoder, with the averages of its norms, go a little of the way to the encoder."""
    with torch.no_grad():
        for slow, fast in zip(keys.state_dict().values(), encoder.state_dict().values(), strict=True):
            if slow.is_floating_point():
                slow.lerp_(fast, 1 - KEY_MOMENTUM)
