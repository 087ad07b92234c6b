"""Attacks that see labels only: what they keep, what they may ask, and where their search must end."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch

import funnybone as fb
from funnybone.attacks import attacks
from funnybone.attacks.basar import BASAR, FAR, published_tangent, tangent
from funnybone.attacks.decision import DecisionAttack
from funnybone.attacks.space_attack import BorderAttack, SpaceAttack
from funnybone.attacks.spaces import Positions, manifold_of
from funnybone.attacks.starts import starting
from funnybone.clips import Clips
from funnybone.metrics.natural import learn_natural_motion
from funnybone.skeletons import Skeleton
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import L2, Mask
from parts_for_tests import easy, problem_of

FEW = {
    "basar": {"steps": 8},
    "hopskipjump": {"steps": 3, "probes": 30},
    "boundary": {"queries": 120, "spherical": 0.05, "ahead": 0.05},
    "rays": {"queries": 120},
}
NAMES = sorted(name for name in attacks.names() if issubclass(attacks[name], DecisionAttack))
NATURAL = [(name, "natural" if "natural" in attacks[name].presets else None) for name in NAMES]
each = pytest.mark.parametrize("name", NAMES)


class Counting(torch.nn.Module):
    """A victim that counts what it is asked."""

    def __init__(self, module):
        super().__init__()
        self.module, self.asked = module, 0

    def forward(self, xyz):
        self.asked += len(xyz)
        return self.module(xyz)


@each
def test_the_queries_are_those_that_the_victim_saw_and_the_curve_falls(name):
    clips = random_clips(4)
    module = Counting(linear_victim(clips).module)
    victim = fb.CallableVictim(
        lambda xyz: module(xyz).argmax(1), skeleton=clips.skeleton, classes=clips.classes, access="labels"
    )
    outcome = fb.create_attack(name, **FEW[name])(victim, clips)
    # The verdict asks about each clip before and after.
    assert module.asked == int(outcome.queries.sum()) + 2 * len(clips)
    assert outcome.success.all()
    assert not outcome.gradients.any()
    for row, queries in zip(outcome.provenance["curve"]["position_m"], outcome.queries.tolist(), strict=True):
        found = [value for value in row if value is not None]
        assert found[-1] < found[0]
        assert all(later <= earlier * 1.2 for earlier, later in pairwise(found))
        assert queries > 1


@each
def test_choosing_among_starts_is_queries_like_any_other(name):
    clips = random_clips(6)
    module = Counting(linear_victim(clips).module)
    victim = fb.CallableVictim(
        lambda xyz: module(xyz).argmax(1), skeleton=clips.skeleton, classes=clips.classes, access="labels"
    )
    attack = dataclasses.replace(fb.create_attack(name, **FEW[name]), queries=100)
    outcome = dataclasses.replace(attack, starts=3)(victim, clips)
    assert module.asked == int(outcome.queries.sum()) + 2 * len(clips)
    assert outcome.success.all()
    assert 3 * 11 < outcome.queries.min() <= outcome.queries.max() <= 100


class Plane(torch.nn.Module):
    """Class 1 on one side of a plane, by the positions of all joints."""

    def __init__(self, normal):
        super().__init__()
        self.normal = normal

    def forward(self, xyz):
        side = (xyz * self.normal).flatten(1).sum(1)
        return torch.stack([-side, side], 1)


def test_more_starts_never_begin_farther_away():
    clips = random_clips(16, frames=4)
    generator = torch.Generator().manual_seed(0)
    module = Plane(torch.randn(clips.xyz.shape[1:], generator=generator))
    clips = dataclasses.replace(clips, labels=module(clips.xyz).argmax(1))
    victim = fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes)

    def ask(xyz, owner):
        return victim.labels(xyz) != clips.labels[owner]

    def distance(xyz, owner):
        return (xyz - clips.xyz[owner]).flatten(1).norm(dim=1)

    def meets(starts):
        """How far from the clean clip the straight way from the start crosses the plane."""
        problem = problem_of(victim, clips, starts=clips)  # with the same chance each time
        start, found = starting(problem, Positions(problem), ask=ask, distance=distance, tries=20, starts=starts)
        clean, begins = ((xyz * module.normal).flatten(1).sum(1) for xyz in (clips.xyz, start))
        far = distance(start, torch.arange(len(clips)))
        return (far * clean / (clean - begins))[found], far[found]

    ways = [meets(starts) for starts in (1, 2, 4, 8)]
    assert len(ways[0][0]) >= 12  # a clip far from the plane may find no motion beyond it
    for (fewer, far), (more, _) in pairwise(ways):
        assert (more <= fewer + 2**-10 * far.max()).all()  # which is how exactly ways are compared
    assert (ways[-1][0] < 0.85 * ways[0][0]).float().mean() >= 0.2


@each
@pytest.mark.parametrize("budget", [1, 7, 30])
@pytest.mark.parametrize("starts", [1, 3])
def test_a_budget_is_never_exceeded_by_one(name, budget, starts):
    clips = random_clips(4, persons=2, absent=True)
    attack = dataclasses.replace(fb.create_attack(name, **FEW[name]), starts=starts)
    outcome = attack(linear_victim(clips), clips, budget=budget, threat=L2(50.0))
    assert outcome.queries.max() <= budget
    assert outcome.queries.min() >= min(budget - 1, 2)  # one may be kept back for the end


@pytest.mark.parametrize(("name", "preset"), NATURAL)
def test_what_was_nearest_of_anything_is_kept_too(name, preset, tmp_path):
    victim, clips = easy()
    attack = dataclasses.replace(
        fb.create_attack(name, preset=preset, queries=60), **FEW["basar"] if name == "basar" else {}
    )
    outcome = attack(victim, clips, batch_size=3)
    nearest = outcome.others["nearest"]
    assert (victim.labels(nearest) != clips.labels)[outcome.success].all()
    assert torch.equal(nearest[~clips.valid], clips.xyz[~clips.valid])
    far = (nearest - clips.xyz).norm(dim=-1)[clips.valid].reshape(len(clips), -1).mean(1)
    curve = torch.tensor([row[-1] for row in outcome.provenance["curve"]["position_m"]])
    assert torch.allclose(far, curve, atol=1e-5)
    assert (far <= outcome.distances["position_m"] + 1e-5).all() or name != "basar"
    outcome.save(tmp_path / "it")
    assert torch.equal(fb.Outcome.load(tmp_path / "it").others["nearest"], nearest)


@each
def test_another_generator_gives_another_result(name):
    victim, clips = easy()
    first, other = (
        fb.create_attack(name, queries=40)(victim, clips, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 4)
    )
    assert not torch.equal(first.adversarial.xyz, other.adversarial.xyz)


@pytest.mark.parametrize(("name", "preset"), NATURAL)
def test_natural_motion_keeps_bones_and_padding_and_is_each_clips_own(name, preset):
    clips = random_clips(4, persons=2, absent=True)
    attack, victim = fb.create_attack(name, preset=preset, queries=45), linear_victim(clips)
    if name == "basar":  # which makes natural motion in the end
        attack = dataclasses.replace(attack, steps=4)
    together, alone = (
        attack(victim, some, starts=clips, batch_size=size) for some, size in ((clips, 64), (clips[[3, 0]], 1))
    )
    natural = torch.tensor(together.provenance["natural"])
    assert natural.any()
    assert (together.distances["bone_length_change"][natural] < 1e-5).all()
    assert together.success.all()
    assert torch.equal(together.adversarial.xyz[~clips.valid], clips.xyz[~clips.valid])
    assert torch.equal(together.success[[3, 0]], alone.success)
    assert torch.allclose(together.adversarial.xyz[[3, 0]], alone.adversarial.xyz, atol=1e-5)
    assert torch.equal(together.queries[[3, 0]], alone.queries)


@each
def test_a_mask_is_kept_and_what_is_left_is_searched(name):
    clips = random_clips(4, frames=4)
    victim = linear_victim(clips)
    few = dataclasses.replace(fb.create_attack(name, **FEW[name]), queries=60)
    outcome = few(victim, clips, threat=Mask(joints=tuple(range(8))))
    assert outcome.success.any()
    assert torch.equal(outcome.adversarial.xyz[..., 8:, :], clips.xyz[..., 8:, :])


@each
def test_without_a_motion_of_another_class_noise_is_a_start(name):
    clips = random_clips(4, frames=4)[[0, 2]]  # of one class
    attack = dataclasses.replace(fb.create_attack(name, **FEW[name]), queries=40)
    assert attack(linear_victim(clips), clips).success.all()
    targeted = attack(linear_victim(clips), clips, goal=fb.goals.Specified(1))
    assert not targeted.success.any()  # there is nothing of the class to start from
    assert torch.equal(targeted.adversarial.xyz, clips.xyz)


@pytest.mark.parametrize("name", ["hopskipjump", "boundary"])
def test_noise_is_as_large_as_bodies_are_in_any_unit(name):
    clips = random_clips(4, frames=4)[[0, 2]]
    pixels = dataclasses.replace(clips, xyz=1000 * clips.xyz, unit="pixel")
    module = linear_victim(clips).module
    victim = fb.TorchVictim(
        module, skeleton=clips.skeleton, classes=clips.classes, preprocess=lambda xyz: xyz / 1000, unit="pixel"
    )
    few = dataclasses.replace(fb.create_attack(name, **FEW[name]), queries=40)
    assert few(linear_victim(clips), clips).success.all()
    assert few(victim, pixels).success.all()


def test_starts_must_fit():
    clips = random_clips(2)
    attack, victim = fb.create_attack("hopskipjump", **FEW["hopskipjump"]), linear_victim(clips)
    for starts, why in (
        (random_clips(2, frames=5), "as many persons and frames"),
        (dataclasses.replace(clips, up="z"), "z up, the clips in metre, y up"),
        (clips[torch.zeros(2, dtype=torch.bool)], "there are none"),
    ):
        with pytest.raises(fb.DataError, match=why):
            attack(victim, clips, starts=starts)


@each
@pytest.mark.parametrize("frames", [1, 2])
def test_clips_too_short_for_accelerations(name, frames):
    clips = random_clips(4, frames=frames)
    attack = dataclasses.replace(fb.create_attack(name, **FEW[name]), queries=40)
    assert attack(linear_victim(clips), clips).success.all()


@each
def test_draws_are_queries(name):
    clips = random_clips(2)
    attack = dataclasses.replace(fb.create_attack(name, **FEW[name]), queries=70)
    outcome = attack(linear_victim(clips), clips, draws=7)
    assert 14 <= outcome.queries.min() <= outcome.queries.max() <= 70
    assert (outcome.queries % 7 == 0).all()
    with pytest.raises(fb.DataError, match="one question costs 7"):
        dataclasses.replace(attack, queries=6)(linear_victim(clips), clips, draws=7)


def test_what_the_test_does_not_hold_is_not_said_to_be_natural():
    clips = random_clips(6, frames=12)
    natural = learn_natural_motion(clips)
    never = dataclasses.replace(natural, thresholds=torch.zeros_like(natural.thresholds))
    attack = fb.create_attack("hopskipjump", preset="natural", queries=60)
    for known in (natural, never):
        outcome = attack(linear_victim(clips), clips, natural=known)
        said = torch.tensor(outcome.provenance["natural"])
        assert torch.equal(said & outcome.success, (outcome.distances["on_manifold"] == 1) & said & outcome.success)
        assert outcome.distances["bone_length_change"].max() < 1e-5  # by its making, if nothing else
    assert not said.any()
    assert all(value is None for row in outcome.provenance["curve"]["natural_position_m"] for value in row)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("basar", {"spread": math.inf}),
        ("basar", {"joint_weights": (math.nan,)}),
        ("basar", {"weight": math.inf}),
        ("basar", {"weight": 10.0, "heaviest": 1.0}),
        ("basar", {"frequencies": 2.5}),
        ("basar", {"caps": (0.1, 0.2)}),
        ("basar", {"queries": 10**30}),
        *((name, {"queries": 0}) for name in NAMES),
        *((name, {"tries": 0}) for name in NAMES),
        *((name, {"starts": 0}) for name in NAMES),
        *((name, {"starts": 3, "tries": 2}) for name in NAMES),
        *((name, {"space": "dreams"}) for name in NAMES if issubclass(attacks[name], SpaceAttack)),
        *((name, {"frequencies": 0}) for name in NAMES if issubclass(attacks[name], BorderAttack)),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(name, settings):
    with pytest.raises(fb.DataError, match=f"attack {name}"):
        fb.create_attack(name, **settings)


@pytest.mark.parametrize("settings", [{"joint_weights": (1.0, 2.0)}, {"preset": "published"}], ids=str)
def test_settings_that_do_not_fit_the_clips_are_refused_before_a_question(settings):
    clips = random_clips(2, frames=6)
    module = Counting(linear_victim(clips).module)
    victim = fb.TorchVictim(module, skeleton=clips.skeleton, classes=clips.classes)
    with pytest.raises(fb.DataError, match=r"attack basar: .* joints"):
        fb.create_attack("basar", **settings).run(problem_of(victim, clips), lambda *_: None)
    assert module.asked == 0


def test_moves_of_exploration_are_orthogonal_to_the_way_and_as_long_as_said():
    way, noise = torch.randn(3, 2, 6, 5, 3), torch.randn(3, 4, 2, 6, 5, 3)
    spread = torch.tensor([0.1, 0.2, 0.4])
    move = tangent(noise, way, spread)
    size, left = (torch.linalg.vector_norm(part, dim=(-4, -3, -2)) for part in (move, way))
    assert ((move * way[:, None]).sum((2, 3, 4)).abs() < 1e-5).all()
    assert (size <= spread[:, None, None] * left[:, None] * (1 + 1e-6)).all()
    assert (size > 0.8 * spread[:, None, None] * left[:, None]).all()
    assert not tangent(noise, torch.zeros_like(way), spread).any()


def test_the_published_tangent_is_neither_orthogonal_nor_as_long():
    generator = torch.Generator().manual_seed(0)
    way = torch.randn(4, 1, 60, 25, 3, generator=generator)
    noise = torch.randn(4, 5, 1, 60, 60, 3, generator=generator)
    move = published_tangent(noise, way, torch.full((4,), 0.1))
    size, left = (torch.linalg.vector_norm(part, dim=(-4, -3, -2)) for part in (move, way))
    assert (size / (0.1 * left[:, None])).mean() == pytest.approx(math.sqrt(25 / 60), abs=0.02)
    cosine = (move * way[:, None]).sum((2, 3, 4)) / (size * left[:, None])
    assert cosine.abs().mean() > 0.005


def test_the_last_projection_weighs_accelerations_more_until_motion_is_natural(monkeypatch):
    clips = random_clips(6, frames=30)
    natural = learn_natural_motion(clips)
    never, always = (
        dataclasses.replace(natural, thresholds=torch.full_like(natural.thresholds, far)) for far in (0.0, math.inf)
    )
    walks, begin = [], BASAR.walk
    monkeypatch.setattr(BASAR, "walk", lambda *given: walks.append(begin(*given)) or walks[-1])

    def weights(known, preset=None, **settings):
        attack = fb.create_attack("basar", preset=preset, steps=6, period=2, **settings)
        attack(linear_victim(clips), clips, natural=known)
        return walks[-1].weight.unique().tolist()

    assert weights(never, weight=10.0, heaviest=500.0) == [500.0]
    assert weights(always, weight=10.0)[0] == 10.0  # of others all projections missed the goal
    assert weights(None, weight=10.0) == [10.0]
    assert weights(never, weight=0.0) == [0.0]
    assert weights(never, preset="published") == [1.0]


POINTER = Skeleton("pointer", ("shoulder", "hand"), (-1, 0))


def pointing(angles, frames=6):
    """Arms of 1 m that point at angles from upright, a little restless so that something can be learned of them."""
    angle = torch.tensor(angles)[:, None] + 0.02 * torch.sin(torch.arange(frames))[None]
    tip = torch.stack([angle.sin(), angle.cos(), torch.zeros_like(angle)], -1)
    xyz = torch.stack([torch.zeros_like(tip), tip], 2)[:, None]
    n = len(angles)
    return Clips(
        xyz,
        torch.ones(n, 1, frames, dtype=torch.bool),
        torch.tensor([int(a > 0.6) for a in angles]),
        ("up", "aside"),
        POINTER,
        torch.full((n,), 30.0),
        tuple(map(str, range(n))),
    )


class Aside(torch.nn.Module):
    """Class 1 where the arm is more than a quarter of a metre to the side: the hand and some of the shoulder, mean."""

    weights = torch.tensor([math.sqrt(2) - 1, 1.0])

    def forward(self, xyz):
        aside = (xyz[..., 0] * self.weights).sum(-1).mean((1, 2)) - 0.25
        return torch.stack([-aside, aside], 1)


# The nearest point of the border, of all positions, is along its normal. To move shoulder and hand by their weights is
# to move the root and to turn the arm, but for a centimetre by which the arm grows: so that point is on the manifold as
# good as exactly, and nothing on the manifold is nearer. The weights are those for which it is the nearest as well
# where root and turns are measured apart, as attacks do that search angles. With others these end elsewhere: of hand
# minus shoulder the nearest in angles is to turn alone, in positions to push the shoulder back too.
#
# All have their defaults, but for queries. RayS is not here: it turns all angles by as much, in its own norm.
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hopskipjump", {"preset": "natural", "queries": 3000}),
        ("boundary", {"preset": "natural", "queries": 3000}),
        ("basar", {}),
    ],
)
def test_the_nearest_point_of_a_known_manifold_is_found(name, settings):
    starts = pointing([0.0, 1.4, 0.1, 1.3])
    clips, victim = starts[[0]], fb.TorchVictim(Aside(), skeleton=POINTER, classes=starts.classes)
    problem = problem_of(victim, clips, starts=starts)
    weights = victim.module.weights
    way = -float(victim.logits(clips.xyz)[0, 1]) / weights.square().sum()  # of the root and of the hand, by weights
    nearest = clips.xyz.clone()
    nearest[..., 0] += way * weights
    manifold = manifold_of(problem)
    natural = manifold.positions(manifold.limited(manifold.paths(nearest)))
    assert (natural - nearest).abs().max() < 0.011

    def far(xyz):
        return float(attack.distance(problem, xyz, torch.tensor([0])))

    attack = fb.create_attack(name, **settings)
    outcome = attack(victim, clips, starts=starts)
    assert outcome.success.all()
    assert outcome.provenance["natural"] == [True]
    assert outcome.distances["bone_length_change"].max() < 1e-5
    assert far(outcome.adversarial.xyz) == pytest.approx(far(nearest), rel=0.05)
    # That is no matter of the start: the border on the way from there is much farther.
    first = dataclasses.replace(attack, queries=20)(victim, clips, starts=starts)
    assert far(first.adversarial.xyz) > 1.5 * far(nearest)


def two_classes(clips):
    """Clips of two classes, by turns, and a linear victim that counts what it is asked."""
    clips = dataclasses.replace(clips, labels=torch.arange(len(clips)) % 2, classes=("one", "other"))
    module = Counting(linear_victim(clips).module)
    victim = fb.CallableVictim(
        lambda xyz: module(xyz).argmax(1), skeleton=clips.skeleton, classes=clips.classes, access="labels"
    )
    return clips, victim, module


@pytest.mark.parametrize("queries", [60, 120])
def test_basar_projects_before_its_queries_end(queries, synthetic):
    clips, victim, module = two_classes(synthetic[::56])
    outcome = fb.create_attack("basar", queries=queries)(victim, clips)
    assert module.asked == int(outcome.queries.sum()) + 2 * len(clips)
    assert outcome.queries.max() <= queries
    assert (outcome.queries > queries - len(FAR) - 7).all()  # the walk goes on for as long as it can
    natural = torch.tensor(outcome.provenance["natural"])
    assert natural.sum() >= 5  # a projection may miss the goal
    assert torch.equal(outcome.distances["bone_length_change"] < 1e-4, natural)
    assert outcome.success.all()
    # Whoever sets the limit, and however many answers a question takes.
    for limited in (
        fb.create_attack("basar")(victim, clips, budget=queries),
        fb.create_attack("basar", queries=2 * queries + 1)(victim, clips, draws=2),
    ):
        assert torch.equal(limited.adversarial.xyz, outcome.adversarial.xyz)


def test_queries_that_basar_does_not_need_change_nothing(synthetic):
    clips, victim, _ = two_classes(synthetic[::84])
    attack = fb.create_attack("basar", steps=6, period=3)
    ample = attack(victim, clips)
    just = dataclasses.replace(attack, queries=int(ample.queries.max()) + len(FAR))(victim, clips)
    assert torch.equal(just.adversarial.xyz, ample.adversarial.xyz)
    assert torch.equal(just.queries, ample.queries)


@pytest.mark.parametrize("project", [True, False])
def test_basar_projects_a_clip_that_it_gives_up(project, synthetic, monkeypatch):
    """Whoever stretches bones is seen through, so exploration finds nothing; the start's own natural motion does."""
    monkeypatch.setattr("funnybone.attacks.basar.ROUNDS", 3)
    clips = synthetic[::168]
    clips = dataclasses.replace(clips, labels=torch.arange(len(clips)) % 2, classes=("one", "other"))
    clean, start = clips[:1], clips[1:2]
    lengths, begun = clips.skeleton.bone_lengths(clean.xyz), []

    def answer(xyz):
        far = (xyz - clean.xyz).abs().flatten(1).amax(1) > 1e-3
        begun.extend(xyz[far][:1].clone() if not begun else ())
        stretched = (clips.skeleton.bone_lengths(xyz) / lengths - 1).abs()[:, clean.valid[0]].flatten(1).amax(1)
        start = (xyz == begun[0]).flatten(1).all(1) if begun else far
        return (start | (far & (stretched < 1e-3))).long()

    victim = fb.CallableVictim(answer, skeleton=clips.skeleton, classes=clips.classes, access="labels")
    outcome = fb.create_attack("basar", project=project)(victim, clean, starts=start)
    assert outcome.success.all()
    assert bool(outcome.distances["bone_length_change"] < 1e-4) is project
    assert outcome.provenance["natural"] == [project]
