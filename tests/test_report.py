"""The report without a browser: what the page says, and that nothing in it can get out or in."""

import base64
import dataclasses
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import funnybone.report
from funnybone.auditing.schema import (
    DEVIATIONS,
    AttackResult,
    AuditResult,
    AuditWarning,
    CleanResult,
    DataSummary,
    Hardening,
    SurrogateResult,
    TransferCell,
    TransferResult,
    VictimResult,
    WorstCase,
)
from funnybone.errors import DataError
from funnybone.metrics.intervals import wilson
from funnybone.report.charts import displacement_curves
from funnybone.report.examples import Example
from funnybone.report.html import render
from funnybone.report.payload import encode, to_script
from funnybone.skeletons import COCO17, KINECT20
from funnybone.victims.hardened import Fitted

HOSTILE = '</script><img onerror="window.hit=1" src=x>\'&'
LONG = "picks-up-a-box-and-puts-it-onto-the-uppermost-shelf"
WEB = Path(__file__).parents[1] / "web"

# A standing person in metres, y up, facing +z, in the order of KINECT20.
STANDING = (
    (0.0, 0.95, 0.0), (0.0, 1.1, 0.0), (0.0, 1.42, 0.0), (0.0, 1.65, 0.02),
    (0.18, 1.4, 0.0), (0.25, 1.14, 0.02), (0.27, 0.92, 0.08), (0.27, 0.84, 0.1),
    (-0.18, 1.4, 0.0), (-0.25, 1.14, 0.02), (-0.27, 0.92, 0.08), (-0.27, 0.84, 0.1),
    (0.09, 0.9, 0.0), (0.1, 0.5, 0.02), (0.1, 0.08, 0.0), (0.1, 0.04, 0.12),
    (-0.09, 0.9, 0.0), (-0.1, 0.5, 0.02), (-0.1, 0.08, 0.0), (-0.1, 0.04, 0.12),
)  # fmt: skip


def motion(persons: int = 1, frames: int = 60) -> torch.Tensor:
    """Swinging arms and legs, (M, T, 20, 3); the second person stands 1.2 m to the left of the first."""
    pose = torch.tensor(STANDING).expand(persons, frames, 20, 3).clone()
    swing = torch.sin(torch.linspace(0, 4 * math.pi, frames))[None, :, None]
    for joints, sign in (((5, 6, 7, 17, 18, 19), 1.0), ((9, 10, 11, 13, 14, 15), -1.0)):
        pose[:, :, list(joints), 2] += sign * 0.25 * swing
    pose[..., 0] += 1.2 * torch.arange(persons)[:, None, None]
    return pose


def example(persons: int = 1, frames: int = 60, **changes) -> Example:
    """An adversary that moves the right arm by up to 120 mm and everything else by half a millimetre."""
    clean = motion(persons, frames)
    adversarial = clean + 0.0005
    adversarial[:, :, [10, 11], 1] += 0.12 * torch.sin(torch.linspace(0, math.pi, frames))[:, None]
    values = {
        "clip": f"clip-{persons}",
        "victim": "stgcn",
        "attack": "smart",
        "skeleton": KINECT20,
        "up": "y",
        "fps": 30.0,
        "clean": clean,
        "adversarial": adversarial,
        "valid": torch.ones(persons, frames, dtype=torch.bool),
        "truth": "walk",
        "clean_prediction": "walk",
        "adversarial_prediction": "jog",
        "success": True,
        "displacement": 0.0093,
    }
    return Example(**(values | changes))


def gallery() -> list[Example]:
    """0 one person, 1 two of whom the second comes late, 2 and 3 other axes up, 4 flat, 5 hostile names."""
    one, late = example(), torch.ones(2, 60, dtype=torch.bool)
    late[1, :30] = False
    turned = [
        dataclasses.replace(
            one, up=up, clean=one.clean[..., order], adversarial=one.adversarial[..., order], truth=LONG
        )
        for up, order in (("z", [2, 0, 1]), ("x", [1, 2, 0]))
    ]
    heights = torch.tensor([1.6, 1.64, 1.64, 1.6, 1.6, 1.4, 1.4, 1.1, 1.1, *[0.9] * 4, 0.5, 0.5, 0.1, 0.1])
    sides = torch.tensor([0, 0.03, -0.03, 0.07, -0.07, *[0.2, -0.2] * 3, *[0.1, -0.1] * 3])
    picture = (torch.stack([sides, -heights], -1) * 200 + 500).expand(1, 20, 17, 2)
    seen = torch.ones(1, 20, dtype=torch.bool)
    flat = example(frames=20, skeleton=COCO17, clean=picture, adversarial=picture + 2, valid=seen, unit="pixel")
    hostile = example(2, clip=HOSTILE, victim=HOSTILE, attack=HOSTILE, truth=HOSTILE, adversarial_prediction=LONG)
    return [one, example(2, valid=late), *turned, flat, hostile]


def attack(name: str = "smart", **changes) -> AttackResult:
    values = {
        "name": name,
        "access": "gradients",
        "goal": "anything but",
        "threat": "linf 0.02 & bones 0.01",
        "settings": {"steps": 200, "step_size": 0.005},
        "n": 99,
        "attacked": 94,
        "succeeded": 92,
        "success_rate": 92 / 94,
        "ci95": (0.9257, 0.9941),
        "robust_accuracy": 2 / 99,
        "robust_accuracy_ci95": (0.0056, 0.0707),
        "queries_median": None,
        "steps_median": 37.0,
        "position_m": 0.0031,
        "max_position_m": 0.0112,
        "velocity": 0.02,
        "acceleration": 0.96,
        "jerk": 41.5,
        "joint_angle_acceleration": 5.27,
        "bone_length_change": 0.004,
        "npss": 0.0173,
        "on_manifold_rate": None,
        "max_violation": 2.3e-7,
        "zero_gradients": 0,
        "seconds": 12.0,
        "success_by_displacement": [(0.001 * k, k / 94) for k in range(1, 93)],
    }
    return AttackResult(**(values | changes))


def nothing_fell(name: str) -> AttackResult:
    absent = dict.fromkeys(("steps_median", *DEVIATIONS))
    return attack(
        name,
        succeeded=0,
        success_rate=0.0,
        ci95=(0.0, 0.0393),
        robust_accuracy=94 / 99,
        robust_accuracy_ci95=(0.8872, 0.9781),
        success_by_displacement=[],
        **absent,
    )


def audit(**changes) -> AuditResult:
    clean = CleanResult(accuracy=94 / 99, ci95=(0.8872, 0.9781), n=99)
    values = {
        "seed": 17,
        "suite": "quick",
        "data": DataSummary(
            name="hdm05",
            split="subject:mm,tr",
            n=99,
            classes=["walk", "jog", HOSTILE],
            frames=60,
            persons=2,
            skeleton="KINECT20",
            unit="metre",
            synthetic=False,
            sha256="ab" * 32,
        ),
        "victims": [
            VictimResult(
                name="stgcn",
                defense=None,
                parameters=3_100_000,
                clean=clean,
                attacks=[attack()],
                worst_case=WorstCase(robust_accuracy=2 / 99, robust_accuracy_ci95=(0.0056, 0.0707), n=99),
            ),
            VictimResult(
                name=HOSTILE,
                defense="beat",
                parameters=None,
                clean=clean,
                attacks=[nothing_fell("basar")],
                worst_case=WorstCase(robust_accuracy=94 / 99, robust_accuracy_ci95=(0.8872, 0.9781), n=99),
            ),
        ],
        "warnings": [AuditWarning(code="few-clips", message="99 clips give wide intervals")],
        "environment": {"torch": "2.13.0"},
    }
    return AuditResult(**(values | changes))


def cell(surrogate: str, target: str, fooled: int, n: int, **changes) -> TransferCell:
    values = {
        "surrogate": surrogate,
        "target": target,
        "white_box": target in surrogate.split("+"),
        "n": n,
        "fooled": fooled,
        "rate": fooled / n if n else None,
        "ci95": wilson(fooled, n),
        "fooled_surrogate": n,
        "fooled_both": fooled,
    }
    return TransferCell(**(values | changes))


def transfer(targets=("stgcn", HOSTILE, "sgn", "ctrgcn"), attacks=("mifgsm", "dim"), missing=()) -> dict:
    """Two surrogates, the last two of the targets, and their ensemble; cells of every shade, one over no clip."""
    own = list(targets[-2:])
    surrogates = [*own, "+".join(own)]
    matrices = []
    for place, name in enumerate(attacks):
        cells = [
            cell(one, target, (17 * row + 31 * column + 7 * place) % 91 if column else 0, 90 if row or column else 0)
            for row, one in enumerate(surrogates)
            for column, target in enumerate(targets)
            if target not in missing
        ]
        matrices.append(
            TransferResult(
                name=name,
                attack=name,
                access="gradients",
                goal="ab",
                threat="Linf(radius=0.01)",
                settings={"steps": 10},
                surrogates=surrogates,
                targets=list(targets),
                cells=cells,
            )
        )
    clean = CleanResult(accuracy=0.91, ci95=(0.84, 0.95), n=99)
    met = [
        SurrogateResult(name=one, defense=None, parameters=70_000, contains=one.split("+"), clean=clean)
        for one in surrogates
    ]
    return {"surrogates": met, "transfer": matrices}


class Page(HTMLParser):
    """The elements and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.blocks: dict[str, list[str]] = {"script": [], "style": []}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = [tag] if tag in self.blocks else []

    def handle_endtag(self, tag):
        self._open = []

    def handle_data(self, data):
        if self._open:
            self.blocks[self._open[0]].append(data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def page() -> Page:
    hostile = example(2, clip=HOSTILE, victim=HOSTILE, truth=HOSTILE, clean_prediction=HOSTILE)
    return Page(render(audit(), [example(), hostile]))


def test_page_says_what_was_measured(page):
    text = page.text
    for figure in ("97.9", "[92.6, 99.4]", "of 94", "[0.6, 7.1]", "94.9", "[88.7, 97.8]", "37", "3.1", "2.3 × 10⁻⁷"):
        assert figure in text
    for word in ("hdm05", "subject:mm,tr", "seed 17", "few-clips", "linf 0.02 & bones 0.01", "step_size", "3,100,000"):
        assert word in text
    assert "Synthetic" not in text


def test_headline_is_the_worst_case_of_all_attacks_together():
    worst = WorstCase(robust_accuracy=0.0123, robust_accuracy_ci95=(0.0012, 0.0567), n=99)
    victim = audit().victims[0].model_copy(update={"worst_case": worst, "attacks": [attack(), attack("other")]})
    text = Page(render(audit(victims=[victim]), [])).text
    assert "Under all attacks 1.2 % [0.1, 5.7]" in text
    assert "fooled by none of 2 attacks; smart (anything but, gradients), the strongest, alone leaves 2.0 %" in text
    assert text.count("(all together)") == 1
    untouched = victim.model_copy(update={"worst_case": None, "attacks": []})
    assert "Not attacked." in Page(render(audit(victims=[untouched]), [])).text


def test_what_it_means_and_how_a_victim_was_hardened():
    fitted = Fitted(data=HOSTILE, split="train", n=1, held_out=3, seed=5, sha256="")
    hardening = Hardening(base="stgcn", settings={"rounds": 2, "prior": None}, fitted=fitted)
    plain, hardened = audit().victims
    victims = [plain, hardened.model_copy(update={"hardening": hardening})]
    text = Page(render(audit(victims=victims, meaning=[f"{HOSTILE} fell."]), [])).text
    assert f"What this means {HOSTILE} fell." in text
    assert f"How {HOSTILE} was hardened" in text
    said = f"By beat, around stgcn, fitted on 1 clip of {HOSTILE} train , with 3 others to choose by, seed 5."
    assert said.replace(" ,", ",") in text.replace(" ,", ",")
    assert "rounds 2 prior none" in text
    assert "hardened" not in Page(render(audit(), [])).text
    unsaid = hardened.model_copy(update={"hardening": Hardening(base=None, settings={}, fitted=None)})
    assert "By beat." in Page(render(audit(victims=[unsaid]), [])).text


@pytest.mark.parametrize(("unit", "short"), [("metre", "mm"), ("pixel", "px")])
def test_figures_and_curves_carry_the_unit_of_the_data(unit, short):
    text = render(audit(data=audit().data.model_copy(update={"unit": unit})), [])
    assert f"displacement, {short}</text>" in text
    assert f"Displacement<span>{short}</span>" in text
    assert displacement_curves(audit().victims, unit).panels[0].curves[0].described.endswith(f" {short}")
    (last,) = {tick.label for tick in displacement_curves(audit().victims, unit).x_ticks[-1:]}
    assert float(last) == (100 if unit == "metre" else 0.1)


def test_what_does_not_exist_is_a_dash(page):
    assert not re.search(r"\b(None|nan|NaN|null|undefined)\b", page.text)
    assert "–" in page.text
    unattacked = attack(attacked=0, succeeded=0, success_rate=None, ci95=None, success_by_displacement=[])
    victim = audit().victims[0].model_copy(update={"attacks": [unattacked]})
    assert not re.search(r"\bNone\b|nan", Page(render(audit(victims=[victim]), [])).text)


def test_synthetic_data_are_named_before_any_figure():
    data = audit().data.model_copy(update={"synthetic": True})
    text = Page(render(audit(data=data), [])).text
    assert 0 <= text.index("Synthetic data.") < text.index("Clean accuracy")


def test_hostile_names_stay_text(page):
    assert not [attributes for tag, attributes in page.tags if tag == "img" or "onerror" in attributes]
    assert page.text.count(HOSTILE) >= 4
    motions = [block for block in page.blocks["script"] if block.startswith("[{")]
    assert len(motions) == 1
    assert json.loads(motions[0])[1]["truth"] == HOSTILE


def test_page_fetches_nothing(page):
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "action", "data", "poster"} & attributes.keys(), tag
        assert (attributes.get("href") or "#").startswith(("#", "data:")), tag
        assert "style" not in attributes, "the policy would refuse it"
    assert not re.search(r"url\(|@import", "".join(page.blocks["style"]))


def test_policy_names_exactly_the_scripts_of_the_page(page):
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"
        for block in page.blocks["script"]
        if not block.startswith("[{")
    }
    assert len(hashes) == 2
    assert hashes == set(re.search(r"script-src ([^;]+)", policy)[1].split())


def test_page_is_the_same_each_time_and_light_without_examples():
    assert render(audit(), [example()]) == render(audit(), [example()])
    bare = render(audit(), [])
    assert "data-player" not in bare
    assert len(bare) < 100_000


def test_transfer_says_rate_n_and_interval_of_each_cell():
    page = Page(render(audit(**transfer()), []))
    assert "of the n clips that surrogate and target both get right before" in page.text
    assert page.text.count("Fooled, in % of the n clips that both get right.") == 2
    cells = [attributes for tag, attributes in page.tags if tag == "td" and "title" in attributes]
    assert len(cells) == 2 * 3 * 4
    # ctrgcn on the hostile name, by mifgsm: 48 of 90.
    (found,) = [
        one for one in cells if one["title"].startswith(f"48 of 90 clips that ctrgcn and {HOSTILE} both get right")
    ]
    assert found["title"].endswith(f"fool {HOSTILE}: 53.3 % [43.1, 63.3]")
    assert found["class"] == "h5"
    assert "53.3 n=90 , interval 43.1 to 63.3 %" in page.text
    assert sum("own" in one["class"] for one in cells) == 2 * 4
    assert [one["title"] for one in cells if one["class"] == "hnone"] == [
        "sgn and stgcn get no clip right together"
    ] * 2
    assert not re.search(r"\b(None|nan|NaN|null|undefined)\b", page.text)
    assert not [attributes for tag, attributes in page.tags if tag == "img" or "style" in attributes]
    assert ("a", {"href": "#transfer"}) in page.tags
    assert "sgn+ctrgcn surrogate" in page.text


def test_a_target_without_a_cell_is_a_dash():
    page = Page(render(audit(**transfer(missing=("stgcn",))), []))
    titles = [attributes.get("title", "") for tag, attributes in page.tags if tag == "td"]
    assert sum("cannot be judged" in title for title in titles) == 2 * 3


def test_no_transfer_no_section(page):
    assert "Transfer" not in page.text
    assert not any(attributes.get("id") == "transfer" for _, attributes in page.tags)


def unpack(packed: dict, shape: tuple[int, ...]) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(packed["data"]), "<i2").reshape(shape)
    return np.where(steps == -32768, np.nan, steps * packed["step"])


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_motion_survives_the_packing(scale):
    shown = example(2)
    shown = dataclasses.replace(shown, clean=shown.clean * scale, adversarial=shown.clean * scale + 0.0003)
    packed = encode(shown)
    clean = unpack(packed["positions"], (2, 60, 20, 3)) + packed["offset"]
    # A tenth of a millimetre; a clip of fifty metres has to do with one.
    assert np.abs(clean - shown.clean.numpy()).max() <= (0.6e-4 if scale == 1 else 6e-4)
    moved = unpack(packed["displacements"], (2, 60, 20, 3))
    assert np.abs(moved - (shown.adversarial - shown.clean).numpy()).max() < 1e-7


def test_padding_is_left_out_and_absent_persons_are_marked():
    valid = torch.ones(2, 60, dtype=torch.bool)
    valid[:, :10] = valid[:, 50:] = valid[1, :30] = False
    packed = encode(example(2, valid=valid))
    assert (packed["firstFrame"], packed["frames"], packed["totalFrames"]) == (10, 40, 60)
    present = np.frombuffer(base64.b64decode(packed["valid"]), np.uint8).reshape(2, 40)
    assert present[0].all()
    assert present[1].tolist() == [0] * 20 + [1] * 20


@pytest.mark.parametrize(("up", "order"), [("y", (0, 1, 2)), ("z", (2, 0, 1)), ("x", (1, 2, 0))])
def test_every_vertical_axis_gives_the_same_picture(up, order):
    reference = encode(example())
    turned = example()
    # The same person as recorded by a system whose axis `up` is vertical.
    turned = dataclasses.replace(
        turned, up=up, clean=turned.clean[..., list(order)], adversarial=turned.adversarial[..., list(order)]
    )
    packed = encode(turned)
    assert packed["positions"] == reference["positions"]
    assert packed["facing"] == pytest.approx(reference["facing"])
    assert packed["facing"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_flat_people_stand_on_their_feet_and_unseen_joints_are_missing(sign):
    heights = torch.linspace(1.7, 0.1, 17)  # COCO lists joints from the nose to the ankles
    flat = torch.stack([torch.linspace(0.2, 0.4, 17), sign * heights], -1).expand(1, 5, 17, 2).clone()
    flat[:, 2, 9] = 0.0
    shown = example(
        frames=5, skeleton=COCO17, clean=flat, adversarial=flat + 0.01, valid=torch.ones(1, 5, dtype=torch.bool),
        unit="pixel",
    )  # fmt: skip
    packed = encode(shown)
    points = unpack(packed["positions"], (1, 5, 17, 2))
    assert (points[0, 0, 0, 1] > points[0, 0, 16, 1]).all()
    assert np.isnan(points[0, 2, 9]).all()
    assert np.isnan(points).sum() == 2
    assert packed["unit"] == "px"


def test_example_that_cannot_be_shown_says_why():
    with pytest.raises(DataError, match=r"up is 'w'.*x, y, z"):
        to_script([example(up="w")])
    with pytest.raises(DataError, match="no valid frame"):
        to_script([example(valid=torch.zeros(1, 60, dtype=torch.bool))])
    with pytest.raises(DataError, match="20 joints of 3 dimensions on COCO17"):
        to_script([example(skeleton=COCO17)])


def test_curves_rise_to_the_success_rate():
    curves = displacement_curves(audit().victims)
    (curve,) = curves.panels[0].curves
    heights = [float(y) for y in re.findall(r"V([\d.]+)", curve.path)]
    places = [float(x) for x in re.findall(r"H([\d.]+)", curve.path)]
    assert heights == sorted(heights, reverse=True)
    assert places == sorted(places)
    top, bottom = curves.y_ticks[-1].place, curves.y_ticks[0].place
    assert (bottom - heights[-1]) / (bottom - top) == pytest.approx(92 / 94, abs=1e-3)
    assert curves.panels[1].unattacked == ["basar · anything but"]


@pytest.mark.parametrize("largest", [0.0004, 0.003, 0.07, 3.0])
def test_axis_measures_displacement(largest):
    spread = [(largest * share**6, share) for share in np.linspace(0.05, 1, 40).tolist()]
    victim = audit().victims[0].model_copy(update={"attacks": [attack(success_by_displacement=spread)]})
    curves = displacement_curves([victim])
    labels = [float(tick.label) for tick in curves.x_ticks]
    assert labels == sorted(set(labels))
    assert 3 <= len(labels) <= 8
    # Read back from the marks, the dot at the end stands at the last clip's displacement.
    shape = np.log if curves.logarithmic else np.asarray
    slope, start = np.polyfit([tick.place for tick in curves.x_ticks], shape(labels), 1)
    place = curves.panels[0].curves[0].end[0]
    assert slope * place + start == pytest.approx(float(shape(1000 * largest)), rel=1e-6, abs=1e-6)


@pytest.mark.skipif(not WEB.is_dir(), reason="the sources of the scripts are not here")
@pytest.mark.parametrize("name", ["player.js", "theme.js"])
def test_committed_scripts_were_built_from_the_sources(name):
    script = Path(funnybone.report.__path__[0]) / "static" / name
    sources = ["build.mjs", "package-lock.json", *(f"src/{path.name}" for path in (WEB / "src").iterdir())]
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(f"{source}\n".encode() + (WEB / source).read_bytes() + b"\n")
    assert digest.hexdigest() in script.read_text().partition("\n")[0], "run npm run build in web/"
    assert script.stat().st_size < 900_000
