"""Draw the skeletons of ``funnybone.skeletons`` into docs/skeletons/, for docs/skeletons.md.

Run it as ``python docs/draw_skeletons.py [FOLDER]`` after a change of a skeleton or of a graph. Joints, bones, sides,
root and centre come from the code. Only the places on paper are made up here: a `Skeleton` holds no pose.
The SVG is written without a drawing library: the same skeleton gives the same bytes everywhere, and a change reads as a
diff of one line a joint or bone.
"""

import argparse
import math
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from funnybone.errors import DataError
from funnybone.models.graphs import Graph, graph_of
from funnybone.skeletons import ALL, Skeleton

FOLDER = Path(__file__).parent / "skeletons"

# Where joints are drawn: across and up, in tenths of the figure's height. Only the middle and the person's left, which
# is to the right of who looks at the figure; the right mirrors it. No pose and no proportion of anybody: joints that
# coincide in recordings (HDM05_25) lie apart here.
_KINECT = {
    "head": (0, 9.4), "shoulder_center": (0, 8.2), "spine": (0, 6.2), "hip_center": (0, 5.1),
    "left_shoulder": (1.2, 7.7), "left_elbow": (1.9, 6.3), "left_wrist": (2.6, 5.0), "left_hand": (2.95, 4.3),
    "left_hip": (0.75, 4.6), "left_knee": (0.9, 2.8), "left_ankle": (1.0, 1.0), "left_foot": (1.5, 0.45),
}  # fmt: skip
PLACES = {
    "NTU25": {
        "Head": (0, 9.5), "Neck": (0, 8.75), "SpineShoulder": (0, 8.0), "SpineMid": (0, 6.6), "SpineBase": (0, 5.2),
        "ShoulderL": (1.2, 7.6), "ElbowL": (1.9, 6.3), "WristL": (2.5, 5.1), "HandL": (2.8, 4.4),
        "ThumbL": (2.25, 3.75), "HandTipL": (3.2, 3.45),
        "HipL": (0.75, 4.7), "KneeL": (0.9, 2.8), "AnkleL": (1.0, 1.0), "FootL": (1.5, 0.45),
    },
    "HDM05": {
        "head": (0, 9.6), "upperneck": (0, 8.9), "lowerneck": (0, 8.2), "thorax": (0, 7.3), "upperback": (0, 6.6),
        "lowerback": (0, 5.9), "root": (0, 5.2), "lclavicle": (1.2, 7.9), "lhumerus": (1.9, 6.4),
        "lradius": (2.45, 5.2), "lwrist": (2.7, 4.55), "lhand": (3.0, 3.9), "lthumb": (2.2, 3.9),
        "lfingers": (3.2, 3.2),
        "lhipjoint": (0.75, 4.7), "lfemur": (0.9, 2.8), "ltibia": (1.0, 1.1), "lfoot": (1.35, 0.5),
        "ltoes": (1.95, 0.3),
    },
    "HDM05_25": {
        "Head": (0, 9.2), "Neck": (0, 8.1), "Spine1": (0, 7.3), "Spine": (0, 6.3), "Hips": (0, 5.2),
        "LeftArm": (1.2, 7.7), "LeftForeArm": (1.9, 6.3), "LeftHand": (2.5, 5.0), "LeftHandIndex": (2.85, 4.1),
        "LThumb": (2.1, 4.1), "LHipJoint": (0.6, 4.8), "LeftUpLeg": (0.95, 4.2), "LeftLeg": (1.0, 2.6),
        "LeftFoot": (1.05, 1.0), "LeftToeBase": (1.55, 0.45),
    },
    "MHAD": {
        "Head": (0, 9.5), "Neck": (0, 8.6), "spine2": (0, 7.2), "spine1": (0, 6.5), "spine": (0, 5.8),
        "Hips": (0, 5.1), "LeftShoulder": (0.6, 7.7), "LeftArm": (1.25, 7.9), "LeftArmRoll": (1.65, 7.2),
        "LeftForeArm": (2.05, 6.4), "LeftForeArmRoll": (2.4, 5.7), "LeftHand": (2.8, 4.9),
        "LeftUpLeg": (0.75, 4.6), "LeftUpLegRoll": (0.83, 3.75), "LeftLeg": (0.9, 2.85), "LeftLegRoll": (0.95, 2.0),
        "LeftFoot": (1.0, 1.1), "LeftToeBase": (1.5, 0.5),
    },
    "KINECT20": _KINECT,
    "UTD20": _KINECT,
    "OPENPOSE18": {
        "Nose": (0, 8.9), "Neck": (0, 7.8), "LEye": (0.5, 9.4), "LEar": (1.15, 9.1), "LShoulder": (1.2, 7.6),
        "LElbow": (1.9, 6.2), "LWrist": (2.6, 4.8), "LHip": (0.8, 4.7), "LKnee": (0.9, 2.8), "LAnkle": (1.0, 0.9),
    },
    "COCO17": {
        "nose": (0, 8.9), "left_eye": (0.5, 9.4), "left_ear": (1.15, 9.1), "left_shoulder": (1.2, 7.6),
        "left_elbow": (1.9, 6.2), "left_wrist": (2.6, 4.8), "left_hip": (0.8, 4.7), "left_knee": (0.9, 2.8),
        "left_ankle": (1.0, 0.9),
    },
}  # fmt: skip

# The graphs that `graph=` puts in place of a skeleton's, as graphs.py describes them.
VARIANTS = {
    "pyskl": "hand tips hang on the hands, not on the thumbs",
    "centre13": "hops are measured from joint 13, not from 12",
    "shifted": "joint numbers one too small, edges turned round",
    "ntu25": "the bones of NTU25 on joints of another order",
}

# Pixels: a unit of `PLACES`, a joint's radius, a graph with its title, the names beside it, a line of text, the edge.
SCALE, RADIUS, PANEL, NAMES, LINE, MARGIN = 45, 9, (362, 500), 150, 16, 20

# Blue and orange of Okabe and Ito, which colour-blind eyes tell apart, and a grey; each with numbers that stand out.
# `only`: an edge that the skeleton lacks. `missing`: a bone that the graph lacks.
STYLE = """
text { font: 12px sans-serif; fill: #1a1a1a; }
.strong { font-weight: bold; font-size: 13px; }
.name { font-weight: bold; font-size: 19px; }
.number { text-anchor: middle; font-size: 10px; }
.heading { text-anchor: middle; }
.left { fill: #0072b2; } .right { fill: #e69f00; } .middle { fill: #4d4d4d; }
.left .number, .middle .number { fill: white; } .right .number { fill: black; }
.bone, .only, .missing, .ring { fill: none; stroke-linecap: round; }
.bone { stroke: #8c8c8c; stroke-width: 3; }
.only { stroke: #1a1a1a; stroke-width: 1.7; stroke-linecap: butt; stroke-dasharray: 7 3.5; }
.missing { stroke: #8c8c8c; stroke-width: 2.2; stroke-dasharray: 0 4.5; }
.ring { stroke: #1a1a1a; stroke-width: 1.6; }
"""

Point = tuple[float, float]


def places(skeleton: Skeleton) -> list[Point]:
    """Where each joint is drawn, in units of `PLACES`."""
    found = dict(PLACES[skeleton.name])
    for left, right in skeleton.pairs:
        x, y = found[skeleton.joints[left]]
        found[skeleton.joints[right]] = (-x, y)
    return [found[joint] for joint in skeleton.joints]


def sides(skeleton: Skeleton) -> list[str]:
    """``left``, ``right`` or ``middle`` for each joint."""
    found = {left: "left" for left, _ in skeleton.pairs} | {right: "right" for _, right in skeleton.pairs}
    return [found.get(joint, "middle") for joint in range(len(skeleton.joints))]


def variants(skeleton: Skeleton) -> dict[str, Graph]:
    """The graphs of published code that can stand in for this skeleton's, and are not the same."""
    found = {}
    for variant in VARIANTS:
        try:
            found[variant] = graph_of(skeleton, variant)
        except DataError:  # not one of this skeleton
            continue
    return {variant: graph for variant, graph in found.items() if graph != graph_of(skeleton)}


def draw(skeleton: Skeleton) -> Element:
    """The picture of a skeleton: its graph, graphs of published code beside it, the joints' names, a legend."""
    others = variants(skeleton)
    columns = min(1 + len(others), 2)
    rows = math.ceil((1 + len(others)) / 2)
    width = 2 * MARGIN + columns * PANEL[0] + NAMES
    top, bottom = 66, 82 + rows * PANEL[1]
    height = bottom + (4 if others else 3) * LINE + MARGIN / 2
    size = {"width": f"{width:g}", "height": f"{height:g}", "viewBox": f"0 0 {width:g} {height:g}"}
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size})
    SubElement(svg, "title").text = f"Skeleton {skeleton.name}"
    SubElement(svg, "style").text = STYLE
    # White whatever the page's colour is.
    frame = {"x": "1", "y": "1", "width": f"{width - 2:g}", "height": f"{height - 2:g}", "rx": "16"}
    SubElement(svg, "rect", {**frame, "fill": "white", "stroke": "#a6a6a6"})
    root, centre = (f"{joint} {skeleton.joints[joint]}" for joint in (skeleton.root, skeleton.centre))
    facts = f"{len(skeleton.joints)} joints, {len(skeleton.bones)} bones; root {root}, centre {centre}"
    _text(svg, (MARGIN, 38), skeleton.name, "name")
    _text(svg, (MARGIN, 57), facts)
    for place, (variant, graph) in enumerate({"": graph_of(skeleton), **others}.items()):
        corner = (MARGIN + place % 2 * PANEL[0], top + place // 2 * PANEL[1])
        if others:
            middle = corner[0] + PANEL[0] / 2
            _text(svg, (middle, corner[1] + 18), f'graph="{variant or "skeleton"}"', "strong heading")
            _text(svg, (middle, corner[1] + 33), VARIANTS.get(variant, "its own bones"), "heading")
        _graph(svg, corner, skeleton, graph, f"{variant}-" if variant else "")
    _names(svg, (width - MARGIN - NAMES + 16, top + 18), skeleton)
    _legend(svg, (MARGIN + 9, bottom), 190 if others else 128, bool(others))
    return svg


def _graph(svg: Element, corner: Point, skeleton: Skeleton, graph: Graph, prefix: str) -> None:
    """A graph on the figure of the skeleton, with ids that begin with a prefix."""
    x0, y0 = corner[0] + PANEL[0] / 2, corner[1] + PANEL[1] - 10
    xy = [(x0 + x * SCALE, y0 - y * SCALE) for x, y in places(skeleton)]
    for side, x in (("right", -2.75), ("left", 2.75)):
        _text(svg, (x0 + x * SCALE, y0 - 8.9 * SCALE), f"person's {side}", "heading")
    own, drawn = ({frozenset(edge) for edge in edges} for edges in (skeleton.bones, graph.edges))
    lines = [("bone", edge) for edge in graph.edges if frozenset(edge) in own]
    lines += [("missing", bone) for bone in skeleton.bones if frozenset(bone) not in drawn]
    lines += [("only", edge) for edge in graph.edges if frozenset(edge) not in own]
    for kind, (a, b) in lines:
        _line(svg, _path(xy, a, b), kind, id=f"{prefix}{kind}-{a}-{b}")
    x, y = xy[graph.centre]
    _ring(svg, (x, y), RADIUS + 5, id=f"{prefix}centre-{graph.centre}")
    for joint, (place, side) in enumerate(zip(xy, sides(skeleton), strict=True)):
        _joint(svg, place, side, joint == skeleton.root, str(joint), id=f"{prefix}joint-{joint}")


def _path(xy: list[Point], a: int, b: int) -> str:
    """From one joint to another: straight, or bent as little as keeps it off the joints between them."""
    (ax, ay), (bx, by) = xy[a], xy[b]
    others = [place for joint, place in enumerate(xy) if joint not in (a, b)]
    for bend in sorted((step / 20 for step in range(-12, 13)), key=abs):
        # The middle point of a quadratic curve, off the straight line by this share of its length.
        mx, my = (ax + bx) / 2 - bend * (by - ay), (ay + by) / 2 + bend * (bx - ax)
        weights = [((1 - s) ** 2, 2 * s * (1 - s), s**2) for s in (step / 40 for step in range(41))]
        points = [(p * ax + q * mx + r * bx, p * ay + q * my + r * by) for p, q, r in weights]
        if min(math.dist(point, other) for point in points for other in others) > RADIUS + 3:
            break
    curve = "L" if bend == 0 else f"Q {mx:.1f} {my:.1f}"
    return f"M {ax:.1f} {ay:.1f} {curve} {bx:.1f} {by:.1f}"


def _names(svg: Element, corner: Point, skeleton: Skeleton) -> None:
    """Numbers and names of the joints, one below the other."""
    x, y = corner
    _text(svg, (x - 7, y), "joints", "strong")
    for joint, (name, side) in enumerate(zip(skeleton.joints, sides(skeleton), strict=True)):
        row = y + (joint + 1) * LINE
        _joint(svg, (x, row), side, joint == skeleton.root, str(joint), radius=7.8)
        _text(svg, (x + 14, row + 4), name, id=f"name-{joint}")


def _legend(svg: Element, corner: Point, column: float, variants: bool) -> None:
    """What the marks mean."""
    (x, y), right = corner, 16
    for place, side in enumerate(("right", "middle", "left")):
        meaning = side if side == "middle" else f"person's {side}"
        _joint(svg, (x + place * column, y), side, False, radius=6)
        _text(svg, (x + place * column + right, y + 4), meaning)
    _joint(svg, (x, y + LINE), "middle", True, radius=6)
    _text(svg, (x + right, y + LINE + 4), "root")
    _ring(svg, (x + column, y + LINE), 6)
    _text(svg, (x + column + right, y + LINE + 4), "centre: hops are measured from here")
    meanings = (
        {"bone": "a bone", "only": "only in the published graph", "missing": "missing from it"} if variants else {}
    )
    for place, (kind, meaning) in enumerate(meanings.items()):
        at = x + place * column
        _line(svg, f"M {at - 9:g} {y + 2 * LINE:g} L {at + 9:g} {y + 2 * LINE:g}", kind)
        _text(svg, (at + right, y + 2 * LINE + 4), meaning)
    note = "The figure faces you: its left is on your right. Placed by hand, not to scale."
    _text(svg, (x - 9, y + (3 if variants else 2) * LINE + 4), note)


def _joint(
    svg: Element, at: Point, side: str, root: bool, number: str = "", radius: float = RADIUS, **ids: str
) -> None:
    """A disc in the colour of its side, or a square for the root."""
    group = SubElement(svg, "g", {**ids, "class": side})
    if root:
        size = f"{2 * radius:g}"
        corner = {"x": f"{at[0] - radius:.1f}", "y": f"{at[1] - radius:.1f}"}
        SubElement(group, "rect", {**corner, "width": size, "height": size})
    else:
        SubElement(group, "circle", {"cx": f"{at[0]:.1f}", "cy": f"{at[1]:.1f}", "r": f"{radius:g}"})
    if number:
        _text(group, (at[0], at[1] + 3.6), number, "number")


def _ring(svg: Element, at: Point, radius: float, **ids: str) -> None:
    circle = {"cx": f"{at[0]:.1f}", "cy": f"{at[1]:.1f}", "r": f"{radius:g}"}
    SubElement(svg, "circle", {**ids, "class": "ring", **circle})


def _line(svg: Element, path: str, kind: str, **ids: str) -> None:
    SubElement(svg, "path", {**ids, "class": kind, "d": path})


def _text(svg: Element, at: Point, text: str, style: str = "", **ids: str) -> None:
    attributes = {**ids, **({"class": style} if style else {})}
    SubElement(svg, "text", {**attributes, "x": f"{at[0]:.1f}", "y": f"{at[1]:.1f}"}).text = text


def save(skeleton: Skeleton, folder: Path) -> Path:
    """Write the picture of a skeleton and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{skeleton.name.lower()}.svg"
    svg = draw(skeleton)
    ElementTree.indent(svg, " ")
    path.write_text(ElementTree.tostring(svg, encoding="unicode") + "\n", encoding="utf-8", newline="\n")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the skeletons of funnybone.")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="where the SVG files go")
    folder = parser.parse_args().folder
    for skeleton in ALL:
        save(skeleton, folder)
