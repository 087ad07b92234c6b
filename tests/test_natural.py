"""The test for natural motion: how many clean clips it flags, what it sees, and what it does with files."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import funnybone as fb
from funnybone.cli import main
from funnybone.data import npz
from funnybone.metrics.natural import BODY, FIGURES, FORMAT, learn_natural_motion, load_natural_motion, on_manifold_rate
from funnybone.motion.angles import positions
from funnybone.testing import linear_victim, random_clips

LOST = torch.zeros(60, 25, 1, dtype=torch.bool)  # a joint that is at the origin for a while
LOST[20:40, 3] = True


@pytest.fixture(scope="module")
def train():
    return fb.load_data("synthetic", split="train")[::24]


@pytest.fixture(scope="module")
def natural(train):
    return learn_natural_motion(train)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_clips_too_short_for_a_derivative_are_judged_by_what_is_left(frames):
    clips = random_clips(8, frames=frames)
    short = learn_natural_motion(clips)
    assert short.figures(clips).isfinite().all()
    assert short.holds(clips).all()
    jumped = clips.xyz.clone()
    jumped[:, :, -1] += 5
    assert bool(short.holds(clips.with_xyz(jumped)).any()) == (frames == 1)  # there is nowhere to jump from


def test_no_more_clips_are_flagged_than_stated(train, natural):
    assert natural.clips == len(train)
    assert natural.flagged <= 0.05 * (len(train) + 1)
    assert learn_natural_motion(train, false_alarms=0.2).flagged > natural.flagged
    assert learn_natural_motion(train, false_alarms=0.0).flagged == 0


def test_people_who_were_not_recorded_are_flagged_little_more_often(natural):
    test = fb.load_data("synthetic", split="test")[::12]
    assert on_manifold_rate(test, natural) > 0.8


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        (lambda xyz: xyz + 0.005 * torch.randn(xyz.shape), "trembling"),
        (lambda xyz: torch.cat([xyz[:, :, :30], xyz[:, :, 30:] + 0.5], 2), "largest_acceleration"),
        (lambda xyz: torch.where(LOST, 0, xyz), "bone_change"),
    ],
    ids=["noise", "jump", "lost joint"],
)
def test_what_no_body_does_is_seen(train, natural, change, figure):
    torch.manual_seed(0)
    moved = train.with_xyz(change(train.xyz))
    assert on_manifold_rate(moved, natural) < 0.1
    over = natural.figures(moved) > natural.thresholds
    assert over[:, FIGURES.index(figure)].float().mean() > 0.8


def test_an_arm_beyond_its_limits_is_seen(train, natural):
    motion = natural.limits.angles(train, breathing=True)
    theta = motion.theta.clone()
    theta[..., 5:, :] = 2 * theta[..., 5:, :] + 1.5
    bent = train.with_xyz(positions(replace(motion, theta=theta)))
    figures = natural.figures(bent)
    assert (figures[:, FIGURES.index("beyond_limits")] > natural.thresholds[1]).float().mean() > 0.9
    assert figures[:, FIGURES.index("bone_change")].max() < 1e-3


def test_where_a_body_stands_and_faces_says_nothing(train, natural):
    turned = train.with_xyz((train.xyz[..., [2, 1, 0]] * torch.tensor([1.0, 1.0, -1.0]) + 3) * 1.0)
    torch.testing.assert_close(natural.figures(turned), natural.figures(train), rtol=2e-2, atol=2e-2)


def test_it_is_saved_and_loaded(tmp_path, train, natural):
    natural.save(tmp_path / "natural.safetensors")
    again = load_natural_motion(tmp_path / "natural.safetensors")
    assert torch.equal(again.figures(train), natural.figures(train))
    assert (again.clips, again.flagged, again.name) == (natural.clips, natural.flagged, natural.name)


def test_files_that_are_none_are_said_to_be(tmp_path, natural):
    path = tmp_path / "natural.safetensors"
    with pytest.raises(fb.DataError, match="no such file"):
        load_natural_motion(path)
    path.write_bytes(b"{}")
    with pytest.raises(fb.DataError, match="not a file of natural motion"):
        load_natural_motion(path)
    natural.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(fb.DataError, match="not a file of natural motion"):
        load_natural_motion(path)
    count, skeleton = len(FIGURES), natural.limits.skeleton
    record = {"format": FORMAT, "figures": FIGURES, "skeleton": vars(skeleton), "false_alarms": 0.05}
    record |= {"clips": 3, "flagged": 0, "frames": 60, "name": "x"}
    tensors = {"lower": natural.limits.lower, "upper": natural.limits.upper, "rest": natural.limits.rest}
    tensors |= {key: getattr(natural.proportions, key) for key in BODY}
    save_file(tensors | {"thresholds": torch.zeros(3)}, path, {"natural_motion": json.dumps(record)})
    with pytest.raises(fb.DataError, match="thresholds for 10 figures"):
        load_natural_motion(path)
    for key, value, why in (("clips", math.inf, "not a file"), ("false_alarms", math.nan, "share of false alarms")):
        save_file(
            tensors | {"thresholds": torch.zeros(count)}, path, {"natural_motion": json.dumps(record | {key: value})}
        )
        with pytest.raises(fb.DataError, match=why):
            load_natural_motion(path)
    save_file(tensors | {"thresholds": torch.full((count,), torch.nan)}, path, {"natural_motion": json.dumps(record)})
    with pytest.raises(fb.DataError, match="threshold"):
        load_natural_motion(path)
    bones = len(skeleton.bones)
    for part, why in ((torch.ones(3), f"there are {bones} bones"), (torch.zeros(bones), "not above zero")):
        save_file(
            tensors | {"thresholds": torch.zeros(count), "share_spread": part},
            path,
            {"natural_motion": json.dumps(record)},
        )
        with pytest.raises(fb.DataError, match=why):
            load_natural_motion(path)


def test_a_file_of_the_format_before_is_said_to_be_one(tmp_path, natural):
    """Format 1 had no asymmetry and no proportions."""
    path = tmp_path / "natural.safetensors"
    tensors = {key: getattr(natural.limits, key) for key in ("lower", "upper", "rest")}
    record = {"format": 1, "figures": FIGURES[:8], "skeleton": vars(natural.limits.skeleton), "false_alarms": 0.05}
    record |= {"clips": 3, "flagged": 0, "frames": 60, "name": "x"}
    save_file(tensors | {"thresholds": torch.zeros(8)}, path, {"natural_motion": json.dumps(record)})
    with pytest.raises(fb.DataError, match=r"another version wrote it, in format 1; .*funnybone data natural") as error:
        load_natural_motion(path)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused(train, natural):
    with pytest.raises(fb.DataError, match="learned from 60"):
        natural.figures(train.resample(30))
    with pytest.raises(fb.DataError, match="on skeleton"):
        natural.figures(random_clips(2, frames=60))
    with pytest.raises(fb.DataError, match="learned from several"):
        learn_natural_motion(train[:1])
    with pytest.raises(fb.DataError, match="share below 1"):
        learn_natural_motion(train, false_alarms=1.0)


def test_an_outcome_says_which_clips_are_natural(train, natural):
    victim = fb.create_victim("stgcn", data="synthetic")
    clips = train[:4]
    outcome = fb.create_attack("pgd", steps=3)(victim, clips, threat=fb.threat.Linf(0.02), natural=natural)
    assert torch.equal(outcome.distances["on_manifold"], natural.holds(outcome.adversarial).float())
    assert (
        "on_manifold" not in fb.create_attack("pgd", steps=1)(victim, clips[:1], threat=fb.threat.Linf(0.02)).distances
    )


@pytest.fixture(scope="module")
def few():
    """Clips, a file of them, and what they keep to."""
    return random_clips(12, frames=12)


def test_an_audit_counts_what_is_natural(tmp_path, few):
    natural = learn_natural_motion(few)
    victim = {"plane": linear_victim(few, distance=0.2)}
    done = fb.audit(victim, few[:4], natural=natural, out=tmp_path / "audit")
    fallen = [attack for attack in done.result.victims[0].attacks if attack.succeeded]
    assert fallen
    assert all(0 <= attack.on_manifold_rate <= 1 for attack in fallen)
    assert "natural" in done.to_html().read_text().lower()
    without = fb.audit(victim, few[:4], out=tmp_path / "without")
    assert all(attack.on_manifold_rate is None for attack in without.result.victims[0].attacks)
    with pytest.raises(fb.DataError, match="holds another audit"):
        fb.audit(victim, few[:4], out=tmp_path / "audit")
    with pytest.raises(fb.DataError, match="learned from 12"):
        fb.audit(victim, random_clips(4), natural=natural, out=tmp_path / "other")


def test_the_command_says_how_many_clean_clips_it_flags(tmp_path, few, capsys):
    npz.write(tmp_path / "few.npz", few)
    file = tmp_path / "natural.safetensors"
    command = ["data", "natural", str(tmp_path / "few.npz"), "--split", "subject:s0", "--frames", "12", "--out"]
    assert main([*command, str(file)]) == 0
    said = capsys.readouterr().out
    assert "learned from 8 clips" in said
    assert "of 4 clean clips of subject:s0" in said
    assert load_natural_motion(file).frames == 12
    assert main(["attack", "pgd", "--victim", "stgcn", "--limit", "1", "--natural", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_packaged_file_is_that_of_the_training_part():
    from funnybone.data import datasets

    packaged = load_natural_motion(datasets["synthetic"].natural)
    learned = learn_natural_motion(fb.load_data("synthetic", split="train"))
    assert torch.allclose(packaged.thresholds, learned.thresholds, rtol=1e-3)
    assert torch.allclose(packaged.limits.lower, learned.limits.lower, atol=1e-3)
    for key in BODY:
        assert torch.allclose(getattr(packaged.proportions, key), getattr(learned.proportions, key), atol=1e-4)
    assert (packaged.clips, packaged.frames) == (learned.clips, learned.frames)
