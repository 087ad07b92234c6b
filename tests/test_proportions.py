"""Bodies that were changed for good: what the test for natural motion sees of them, and what it must not."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import funnybone as fb
from funnybone.metrics.natural import FIGURES, learn_natural_motion
from funnybone.metrics.proportions import UNRECORDED, median_lengths, proportions_of
from funnybone.motion.kinematics import scale_bones
from funnybone.skeletons import COCO17, NTU25, Skeleton
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import Unbounded

ASYMMETRY, PROPORTIONS = FIGURES.index("asymmetry"), FIGURES.index("proportions")
LEFT = {left for left, _ in NTU25.pairs}
NEAR = {"atol": 1e-3, "rtol": 1e-3}
NOT_PAIRED = Skeleton("no sides", ("root", "a", "b"), (-1, 0, 1))


@pytest.fixture(scope="module")
def train():
    return fb.load_data("synthetic", split="train")[::24]


@pytest.fixture(scope="module")
def natural(train):
    return learn_natural_motion(train)


def longer(clips, chosen, scale):
    """Clips whose bones to the chosen joints are so many times as long throughout."""
    bones = torch.tensor([scale if child in chosen else 1.0 for child, _ in clips.skeleton.bones])
    bones = bones.expand(*clips.xyz.shape[:2], -1).contiguous()
    there = clips.valid[..., None, None]
    return clips.with_xyz(torch.where(there, scale_bones(clips.xyz, bones, clips.skeleton), clips.xyz))


def test_a_left_side_that_is_longer_throughout_is_seen(train, natural):
    changed = longer(train, LEFT, 1.5)
    figures = natural.figures(changed)
    assert not natural.holds(changed).any()
    assert (figures[:, ASYMMETRY] > natural.thresholds[ASYMMETRY]).all()
    assert figures[:, FIGURES.index("bone_change")].max() < 1e-3  # nothing changes over time


def test_an_arm_that_is_a_fifth_longer_is_seen(train, natural):
    arm = {NTU25.index(joint) for joint in ("ElbowL", "WristL", "HandL", "HandTipL", "ThumbL")}
    assert not natural.holds(longer(train, arm, 1.2)).any()


def test_legs_that_are_longer_are_out_of_proportion_and_alike(train, natural):
    legs = {NTU25.index(f"{joint}{side}") for joint in ("Knee", "Ankle", "Foot") for side in "LR"}
    figures, before = natural.figures(longer(train, legs, 1.6)), natural.figures(train)
    assert (figures[:, PROPORTIONS] > natural.thresholds[PROPORTIONS]).all()
    torch.testing.assert_close(figures[:, ASYMMETRY], before[:, ASYMMETRY], atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [0.6, 1.3])
def test_a_child_is_no_worse_than_an_adult(train, natural, scale):
    small = train.with_xyz(scale * train.xyz)
    torch.testing.assert_close(natural.figures(small)[:, ASYMMETRY:], natural.figures(train)[:, ASYMMETRY:], **NEAR)
    assert scale > 1 or natural.holds(small).float().mean() >= natural.holds(train).float().mean()


numbers = st.floats(-2, 2, width=32)


@settings(deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.3, 3.0), shift=st.tuples(numbers, numbers, numbers))
def test_where_how_turned_and_how_large_a_body_is_says_nothing(seed, scale, shift):
    clips = random_clips(4, persons=2, absent=True, generator=torch.Generator().manual_seed(seed))
    recorded = proportions_of(median_lengths(random_clips(9)), COCO17)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))).Q
    moved = scale * clips.xyz @ (turn * torch.linalg.det(turn)) + torch.tensor(shift)
    moved = clips.with_xyz(torch.where(clips.valid[..., None, None], moved, 0))
    before, after = median_lengths(clips), median_lengths(moved)
    torch.testing.assert_close(recorded.asymmetry(after), recorded.asymmetry(before), **NEAR)
    torch.testing.assert_close(recorded.strangeness(after), recorded.strangeness(before), **NEAR)


def test_figures_are_what_they_are_said_to_be():
    """The formulas, bone by bone, of one body among bodies of twice its size and equal sides."""
    generator = torch.Generator().manual_seed(0)
    recorded = 0.2 + torch.rand(7, 1, 16, generator=generator)
    body = 0.2 + torch.rand(1, 1, 16, generator=generator)
    learned, mirror = proportions_of(recorded, COCO17), COCO17.mirrored_bones

    def logs(lengths):
        return [math.log(length / sum(lengths)) for length in lengths]

    def middle(values):
        return sorted(values)[3]

    people, own = [logs(person) for person in recorded[:, 0].tolist()], logs(body[0, 0].tolist())
    sides, shares = [], []
    for bone, other in enumerate(mirror):
        both = [(person[bone] + person[other]) / 2 for person in people]
        spread = math.sqrt(sum((value - middle(both)) ** 2 for value in both) / 7 + UNRECORDED**2)
        if bone <= other:
            shares.append((((own[bone] + own[other]) / 2 - middle(both)) / spread) ** 2)
        spread = math.sqrt(sum((person[bone] - person[other]) ** 2 for person in people) / 7 + UNRECORDED**2)
        if bone < other:
            sides.append(((own[bone] - own[other]) / spread) ** 2)
    assert float(learned.asymmetry(body)) == pytest.approx(math.sqrt(sum(sides) / len(sides)), rel=1e-4)
    assert float(learned.strangeness(body)) == pytest.approx(math.sqrt(sum(shares) / len(shares)), rel=1e-4)


def test_the_person_who_is_farthest_off_decides_and_the_absent_say_nothing():
    lengths = torch.full((3, 2, 16), 0.3)
    learned = proportions_of(lengths, COCO17)
    lengths[0, 1, -1] = 0.6  # one of two
    lengths[1, 1] = torch.nan  # absent
    lengths[2] = torch.nan  # nobody
    for figure in (learned.asymmetry(lengths), learned.strangeness(lengths)):
        assert figure[0] > 0.1
        assert (figure[1:] == 0).all()
    alone = proportions_of(torch.where(lengths == 0.6, 0.3, lengths), COCO17)
    torch.testing.assert_close(alone.share, learned.share)


def test_nobody_is_learned_from_and_is_nothing():
    learned = proportions_of(torch.full((2, 1, 16), torch.nan), COCO17)
    assert learned.share.isfinite().all()
    assert (learned.side_spread == torch.tensor(UNRECORDED)).all()


@pytest.mark.parametrize("recorded", [0.0, 0.3])
def test_bones_without_length(recorded):
    """Natural where they were recorded so, and seen where they were not; never a figure that is no number."""
    lengths = torch.full((5, 1, 16), 0.3)
    lengths[..., -1] = recorded
    learned = proportions_of(lengths, COCO17)
    lost = lengths.clone()
    lost[..., -1] = 0
    figures = torch.stack([learned.asymmetry(lost), learned.strangeness(lost)])
    assert figures.isfinite().all()
    assert (figures > 2).any(0).all() == (recorded > 0)
    nothing = torch.zeros(1, 1, 16)
    assert learned.strangeness(nothing).isfinite().all()
    assert learned.asymmetry(nothing).isfinite().all()


def test_skeletons_without_left_and_right_have_no_asymmetry():
    learned = proportions_of(torch.full((3, 1, 2), 0.4), NOT_PAIRED)
    assert (learned.asymmetry(torch.tensor([[[0.1, 0.9]]])) == 0).all()
    assert float(learned.strangeness(torch.tensor([[[0.1, 0.9]]]))) > 2


def test_one_bone_that_a_camera_sees_anew_each_time_weighs_less():
    """Of two changes of the same size, that of the bone which is never the same counts for less."""
    lengths = torch.full((40, 1, 16), 0.3)
    lengths[:, 0, 3] *= torch.linspace(-0.4, 0.4, 40).exp()
    learned = proportions_of(lengths, COCO17)
    noisy, steady = torch.full((2, 1, 1, 16), 0.3)
    noisy[..., 3] *= 1.5
    steady[..., 5] *= 1.5
    assert 2 * learned.asymmetry(noisy) < learned.asymmetry(steady)


@pytest.mark.parametrize("persons", [1, 2])
def test_what_the_bone_length_attack_makes_is_seen(train, natural, persons):
    """Scales that are constant in time: no bone changes within the clip."""
    clips = train[torch.nonzero(train.valid.any(2).sum(1) == persons)[:4, 0]]
    clips = replace(clips, labels=torch.arange(4) % 2, classes=("left", "right"))
    attack = fb.create_attack("bonelength", steps=10, tolerance=0.4, step_size=0.1)
    outcome = attack(linear_victim(clips, distance=50.0), clips, threat=Unbounded(), natural=natural)
    assert outcome.distances["bone_length_change"].min() > 0.1
    figures = natural.figures(outcome.adversarial)
    assert figures[:, FIGURES.index("bone_change")].max() < 1e-3
    assert (figures[:, ASYMMETRY:] > natural.thresholds[ASYMMETRY:]).any(1).all()
    assert not outcome.distances["on_manifold"].any()


def test_the_benchmark_says_what_is_seen():
    script = Path(__file__).parents[1] / "benchmarks" / "changed_bodies.py"
    command = [sys.executable, script, "synthetic", "--split", "test", "--every", "42"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert next(line.split()[-3] for line in done.stdout.splitlines() if line.startswith("left side")) == "100.0"
