"""The pictures of skeletons in the documents show the joints and bones of the code, each on its side of the person."""

import importlib.util
import itertools
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from funnybone.errors import DataError
from funnybone.models.graphs import graph_of
from funnybone.skeletons import ALL, HDM05_25, NTU25

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "skeletons.md").read_text(encoding="utf-8")
SVG = "{http://www.w3.org/2000/svg}"

each_skeleton = pytest.mark.parametrize("skeleton", ALL, ids=lambda skeleton: skeleton.name)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The pictures, drawn anew, by the names of their skeletons."""
    spec = importlib.util.spec_from_file_location("draw_skeletons", DOCS / "draw_skeletons.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path_factory.mktemp("skeletons")
    return {skeleton.name: script.save(skeleton, folder) for skeleton in ALL}


@pytest.fixture
def picture(drawn, skeleton):
    """The elements of a skeleton's picture by their ids."""
    named = [element for element in ElementTree.parse(drawn[skeleton.name]).iter() if "id" in element.attrib]
    found = {element.get("id"): element for element in named}
    assert len(found) == len(named), "an id occurs twice"
    return found


def centre(joint):
    """Where the disc of a joint, or the square of the root, has its centre."""
    shape = joint[0].attrib
    if "cx" in shape:
        return float(shape["cx"]), float(shape["cy"])
    return float(shape["x"]) + float(shape["width"]) / 2, float(shape["y"]) + float(shape["height"]) / 2


def ends(line):
    """First and last point of a line."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", line.get("d"))]
    return (*numbers[:2],), (*numbers[-2:],)


def test_the_pictures_in_the_documents_are_those_of_the_code(drawn):
    kept = DOCS / "skeletons"
    assert {path.name for path in kept.iterdir()} == {path.name for path in drawn.values()}
    assert len(set(drawn.values())) == len(ALL)
    for path in drawn.values():
        same = path.read_text(encoding="utf-8") == (kept / path.name).read_text(encoding="utf-8")
        assert same, f"docs/skeletons/{path.name} is not what the code draws: run python docs/draw_skeletons.py"
        assert path.stat().st_size < 60_000


@each_skeleton
def test_each_joint_is_named_and_each_bone_leads_from_child_to_parent(skeleton, picture):
    for joint, name in enumerate(skeleton.joints):
        assert picture[f"name-{joint}"].text == name
        assert picture[f"joint-{joint}"].find(f"{SVG}text").text == str(joint)
        assert (picture[f"joint-{joint}"].find(f"{SVG}rect") is not None) == (joint == skeleton.root)
    assert {found for found in picture if found.startswith("bone-")} == {f"bone-{c}-{p}" for c, p in skeleton.bones}
    for child, parent in skeleton.bones:
        for end, joint in zip(ends(picture[f"bone-{child}-{parent}"]), (child, parent), strict=True):
            assert math.dist(end, centre(picture[f"joint-{joint}"])) < 0.2
    assert f"centre-{skeleton.centre}" in picture


@each_skeleton
def test_the_persons_left_is_on_the_right_and_nothing_hides_a_joint(skeleton, picture):
    at = [centre(picture[f"joint-{joint}"]) for joint in range(len(skeleton.joints))]
    middle = at[skeleton.root][0]
    for left, right in skeleton.pairs:
        assert at[left][0] > middle > at[right][0]
        assert (picture[f"joint-{left}"].get("class"), picture[f"joint-{right}"].get("class")) == ("left", "right")
    for joint in set(range(len(at))) - {joint for pair in skeleton.pairs for joint in pair}:
        assert at[joint][0] == pytest.approx(middle)
        assert picture[f"joint-{joint}"].get("class") == "middle"
    radius = float(next(picture[f"joint-{joint}"][0].get("r") for joint, _ in skeleton.pairs))
    assert all(math.dist(*pair) > 2 * radius for pair in itertools.combinations(at, 2))
    for bone in skeleton.bones:
        assert picture[f"bone-{bone[0]}-{bone[1]}"].get("d").count("L") == 1  # straight: no joint is in its way


@each_skeleton
def test_graphs_of_published_code_stand_beside_the_skeleton(skeleton, picture):
    names = {NTU25: ["pyskl"], HDM05_25: ["centre13", "shifted", "ntu25"]}.get(skeleton, [])
    own = {frozenset(bone) for bone in skeleton.bones}
    for name in names:
        graph = graph_of(skeleton, name)
        linked = {frozenset(edge) for edge in graph.edges}
        kept = {f"{name}-bone-{a}-{b}" for a, b in graph.edges if {a, b} in own}
        dashed = {f"{name}-only-{a}-{b}" for a, b in graph.edges if {a, b} not in own}
        dotted = {f"{name}-missing-{c}-{p}" for c, p in skeleton.bones if {c, p} not in linked}
        joints = {f"{name}-joint-{joint}" for joint in range(graph.joints)}
        here = {found for found in picture if found.startswith(f"{name}-")}
        assert here == kept | dashed | dotted | joints | {f"{name}-centre-{graph.centre}"}
    assert {name.split("-")[0] for name in picture} == {"bone", "joint", "name", "centre", *names}


def test_no_graph_of_published_code_is_left_out(drawn):
    with pytest.raises(DataError) as caught:
        graph_of(NTU25, "all")
    shown = {graph for path in drawn.values() for graph in re.findall(r'graph="(\w+)"', path.read_text("utf-8"))}
    assert shown == {"skeleton", *re.search(r"one of (.*)", str(caught.value))[1].split(", ")}


@each_skeleton
def test_the_page_says_what_the_code_says(skeleton):
    _, section = re.split(rf"^## {skeleton.name}$", PAGE, flags=re.M)
    section = " ".join(re.split(r"^## ", section, flags=re.M)[0].split())
    assert f"](skeletons/{skeleton.name.lower()}.svg)" in section
    assert " " + ", ".join(f"{joint} {name}" for joint, name in enumerate(skeleton.joints)) + ". " in section
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| [`{skeleton.name}`]"))
    root, middle = (f"{joint} {skeleton.joints[joint]}" for joint in (skeleton.root, skeleton.centre))
    assert [cell.strip() for cell in row.split("|")][2:5] == [str(len(skeleton.joints)), root, middle]
    assert f"(#{skeleton.name.lower()})" in row
