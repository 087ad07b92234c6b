"""The synthetic data set: bodies that could be, motions that differ by degrees, and a task that is not trivial."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funnybone.clips import Clips
from funnybone.data.procedural.actions import ACTIONS
from funnybone.data.procedural.body import DOFS, LIMITS
from funnybone.data.procedural.stage import play
from funnybone.data.synthetic import CLASSES, SPLITS, synthetic
from funnybone.errors import DataError
from funnybone.skeletons import NTU25

PAIRED = ("shake hands", "push")


@pytest.fixture(scope="module")
def clips() -> Clips:
    return synthetic()


def of(clips: Clips, name: str) -> Clips:
    return clips.select(f"class:{name}")


def at(xyz: Tensor, joint: str) -> Tensor:
    return xyz[..., NTU25.index(joint), :]


def facing(xyz: Tensor) -> Tensor:
    """Where the hips point in the plane of the floor: left cross up."""
    left = at(xyz, "HipL") - at(xyz, "HipR")
    ahead = torch.stack([-left[..., 2], torch.zeros_like(left[..., 0]), left[..., 0]], -1)
    return ahead / torch.linalg.vector_norm(ahead, dim=-1, keepdim=True)


def test_it_says_that_no_person_was_recorded(clips):
    assert clips.synthetic
    assert "synthetic" in repr(clips)
    assert clips.name == "synthetic"


def test_size_and_layout(clips):
    assert clips.xyz.shape == (42 * 14 * 2, 2, 60, 25, 3)
    assert clips.xyz.dtype == torch.float32
    assert set(clips.fps.tolist()) == {30.0}
    assert torch.bincount(clips.labels).tolist() == [84] * 14
    assert len(CLASSES) == 14
    assert "s07-sit_down-r1" in clips.ids


def test_a_clip_depends_on_nothing_but_itself():
    many, few = synthetic(subjects=6, repetitions=3, seed=5), synthetic(subjects=2, repetitions=1, seed=5)
    rows = [many.ids.index(name) for name in few.ids]
    assert torch.equal(many.xyz[rows], few.xyz)
    assert few.fingerprints() == synthetic(subjects=2, repetitions=1, seed=5).fingerprints()


def test_seed_and_repetition_change_every_clip():
    one = synthetic(subjects=2, repetitions=2, seed=1)
    other = synthetic(subjects=2, repetitions=2, seed=2)
    assert not set(one.fingerprints()) & set(other.fingerprints())
    assert len(set(one.fingerprints())) == len(one)


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    synthetic(subjects=1, repetitions=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("wrong", [{"subjects": 0}, {"repetitions": -1}])
def test_nothing_to_return_is_an_error(wrong):
    with pytest.raises(DataError, match="give at least 1"):
        synthetic(**wrong)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(-(2**62), 2**62))
def test_any_seed_gives_bodies_in_a_room(seed):
    clips = synthetic(subjects=1, repetitions=1, seed=seed)
    assert torch.isfinite(clips.xyz).all()
    assert clips.xyz.abs().max() < 15
    assert clips.xyz[..., 1].min() > -0.1


def test_second_person_is_there_only_where_two_act(clips):
    two = torch.tensor([clips.classes[label] in PAIRED for label in clips.labels])
    assert clips.valid[:, 0].all()
    assert torch.equal(clips.valid[:, 1].all(1), two)
    assert torch.equal(clips.valid[:, 1].any(1), two)
    assert clips.xyz[~two, 1].abs().max() == 0


def test_bones_are_rigid(clips):
    lengths = NTU25.bone_lengths(clips.xyz)
    change = (lengths - lengths[:, :, :1]).abs() * clips.valid[..., None]
    assert change.max() < 1e-5


def test_left_and_right_limbs_are_as_long_as_each_other(clips):
    lengths = NTU25.bone_lengths(clips.xyz[:, 0, 0])
    bones = {NTU25.joints[child]: row for row, (child, _) in enumerate(NTU25.bones)}
    for name in ("Elbow", "Wrist", "Knee", "Ankle"):
        assert torch.allclose(lengths[:, bones[f"{name}L"]], lengths[:, bones[f"{name}R"]], atol=1e-5)


def test_subjects_differ_in_proportions_and_keep_theirs(clips):
    lengths = NTU25.bone_lengths(clips.xyz[:, 0, 0]).unflatten(0, (42, 28))
    assert (lengths - lengths[:, :1]).abs().max() < 1e-5
    ratio = lengths[:, 0] / lengths[:, 0].sum(-1, keepdim=True)
    assert (ratio.std(0) / ratio.mean(0)).median() > 0.015
    height = at(clips.xyz[:, 0], "Head")[..., 1].amax(1).unflatten(0, (42, 28)).median(1).values
    assert height.std() > 0.05


def test_joint_limits_are_kept():
    who, action = np.divmod(np.arange(140), 14)
    *_, angles = play(who, action, np.zeros(140, int), seed=3, frames=60, fps=30.0)
    low, high = np.array([LIMITS[name] for name in DOFS]).T
    assert (angles >= low).all()
    assert (angles <= high).all()
    assert angles.reshape(-1, len(DOFS)).std(0).min() > np.deg2rad(0.5), "a joint that nothing moves"


def test_knees_bend_backwards_and_no_further_than_flesh_allows(clips):
    xyz = clips.xyz[clips.valid.all(2)]
    for side in "LR":
        thigh = at(xyz, f"Hip{side}") - at(xyz, f"Knee{side}")
        shank = at(xyz, f"Ankle{side}") - at(xyz, f"Knee{side}")
        foot = at(xyz, f"Foot{side}") - at(xyz, f"Ankle{side}")
        shank = shank / torch.linalg.vector_norm(shank, dim=-1, keepdim=True)
        ahead = foot - (foot * shank).sum(-1, keepdim=True) * shank
        thigh = thigh / torch.linalg.vector_norm(thigh, dim=-1, keepdim=True)
        bent = -(thigh * ahead).sum(-1) / torch.linalg.vector_norm(ahead, dim=-1)  # sine of the flexion
        assert bent.min() > np.sin(LIMITS["left knee flex"][0]) - 1e-3
        assert (thigh * shank).sum(-1).max() < np.cos(np.pi - LIMITS["left knee flex"][1]) + 1e-3


def test_feet_stand_on_the_floor(clips):
    lowest = clips.xyz[..., 1].masked_fill(~clips.valid[..., None], np.inf).amin(-1)
    assert lowest.min() > -0.05  # a hand that reaches for the floor may graze it
    feet = [joint for joint, name in enumerate(NTU25.joints) if name.startswith(("Ankle", "Foot"))]
    assert clips.xyz[clips.valid][:, feet, 1].min() > 0
    airborne = [action.name for action in ACTIONS if action.flight]
    grounded = torch.tensor([clips.classes[label] not in airborne for label in clips.labels])
    assert lowest[grounded & clips.valid[:, 0, 0], 0].max() < 0.09


def test_a_jump_leaves_the_floor_and_falls_like_a_body(clips):
    feet = [joint for joint, name in enumerate(NTU25.joints) if name.startswith(("Ankle", "Foot"))]
    height = of(clips, "jump").xyz[:, 0, :, feet, 1].amin(-1)
    assert (height.amax(1) > 0.1).float().mean() > 0.9
    # Nobody hangs in the air: rise and fall of h metres take 2 sqrt(2 h / g) seconds, and no more than that by far.
    up = (height > 0.03).sum(1) / 30
    assert (up <= 2 * (2 * height.amax(1) / 9.81).sqrt() + 0.1).all()


def test_who_walks_does_not_skate(clips):
    for name in ("walk", "jog"):
        xyz = of(clips, name).xyz[:, 0]
        feet = torch.stack([at(xyz, "FootL"), at(xyz, "FootR")], 2)
        speed = torch.linalg.vector_norm(feet.diff(dim=1)[..., [0, 2]], dim=-1) * 30
        low = feet[:, 1:, :, 1].argmin(2, keepdim=True)
        slip = speed.gather(2, low).squeeze(2)
        pelvis = at(xyz, "SpineBase").diff(dim=1)[..., [0, 2]] * 30
        assert slip.median() < 0.3 * torch.linalg.vector_norm(pelvis, dim=-1).median()
        ahead = (at(xyz, "SpineBase").diff(dim=1) * facing(xyz)[:, 1:]).sum((1, 2))
        assert (ahead > 0.3).all(), f"{name} goes where the hips point"


def test_walking_and_jogging_overlap_in_tempo(clips):
    def steps(name):
        """Crossings of the feet a second: about twice the cycles."""
        xyz = of(clips, name).xyz[:, 0]
        apart = ((at(xyz, "AnkleL") - at(xyz, "AnkleR")) * facing(xyz)).sum(-1)
        return (apart[:, 1:].sign() != apart[:, :-1].sign()).sum(1) / 2.0

    walk, jog = steps("walk"), steps("jog")
    assert walk.median() < jog.median()
    assert walk.quantile(0.9) >= jog.quantile(0.1)


def test_two_persons_face_each_other_within_reach(clips):
    for name in PAIRED:
        xyz = of(clips, name).xyz
        first, second = xyz[:, 0], xyz[:, 1]
        opposed = (facing(first) * facing(second)).sum(-1)[:, 0]
        assert opposed.median() < -0.85
        toward = at(second, "SpineBase") - at(first, "SpineBase")
        assert ((toward * facing(first)).sum(-1)[:, 0] > 0).all(), "the partner stands in front"
    shaken = of(clips, "shake hands").xyz
    hands = torch.linalg.vector_norm(at(shaken[:, 0], "HandR") - at(shaken[:, 1], "HandR"), dim=-1)
    assert (hands.amin(1) < 0.1).float().mean() > 0.95


def test_the_pushed_one_staggers_back(clips):
    spine = at(of(clips, "push").xyz, "SpineBase")
    apart = torch.linalg.vector_norm(spine[:, 0] - spine[:, 1], dim=-1)
    assert (apart[:, -1] - apart.amin(1)).median() > 0.2


def test_split_is_by_subject(clips):
    test, train = clips.select(SPLITS["test"]), clips.select(SPLITS["train"])
    assert not set(test.groups["subject"]) & set(train.groups["subject"])
    assert len(test) + len(train) == len(clips)
    assert 0.25 < len(test) / len(clips) < 0.35
    assert 800 <= len(train) <= 900
    assert len(set(test.labels.tolist())) == 14


def flattened(clips: Clips, *, aligned: bool) -> Tensor:
    """Coordinates from the first frame's root, turned so that the first frame's hips lie on x if aligned."""
    xyz = (clips.xyz - clips.xyz[:, :1, :1, :1]) * clips.valid[..., None, None]
    if aligned:
        ahead = facing(clips.xyz[:, 0, 0])[:, None, None, None]
        left = torch.stack([ahead[..., 2], ahead[..., 1], -ahead[..., 0]], -1)
        xyz = torch.stack([(xyz * left).sum(-1), xyz[..., 1], (xyz * ahead).sum(-1)], -1)
    return xyz.flatten(1)


def linear_accuracy(train: Clips, test: Clips, *, aligned: bool) -> float:
    """Accuracy on unseen subjects of the better of two L2-regularised multinomial logistic regressions."""
    x, unseen = flattened(train, aligned=aligned), flattened(test, aligned=aligned)
    mean, spread = x.mean(0), x.std(0) + 1e-2
    # The optimum lies in the span of the training clips: as many numbers as there are clips do.
    x = (x - mean) / spread
    scale, vectors = torch.linalg.eigh(x @ x.T)
    kept = scale > 1e-6 * scale[-1]
    basis = x.T @ (vectors[:, kept] / scale[kept].sqrt())
    x, unseen = x @ basis, (unseen - mean) / spread @ basis
    best = 0.0
    for decay in (1e-2, 1e-1):
        weight = torch.zeros(x.shape[1], 14, requires_grad=True)
        bias = torch.zeros(14, requires_grad=True)
        optimiser = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

        def loss(decay=decay, weight=weight, bias=bias, optimiser=optimiser):
            optimiser.zero_grad()
            value = torch.nn.functional.cross_entropy(x @ weight + bias, train.labels) + decay * weight.square().sum()
            value.backward()
            return value

        optimiser.step(loss)
        right = (unseen @ weight + bias).argmax(1) == test.labels
        best = max(best, right.float().mean().item())
    return best


@pytest.mark.parametrize("aligned", [False, True], ids=["raw", "view aligned"])
def test_a_linear_classifier_is_not_enough(clips, aligned):
    train, test = clips.select(SPLITS["train"]), clips.select(SPLITS["test"])
    accuracy = linear_accuracy(train, test, aligned=aligned)
    assert 0.4 < accuracy < 0.85
