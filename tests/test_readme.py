"""What the documents tell a reader to type runs without an error, and their Python writes data that can be read.

Of ``make`` targets only that they exist is tested: they run with ``--dry-run``, since one of them runs this very test.
Whether a transcript prints what the document shows is not compared.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import funnybone as fb
from funnybone.cli import app

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path, *languages):
    """The fenced blocks of a document in these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    return [text for language, text in found if language in languages]


def commands(block):
    """The commands of a block of shell input, or of a transcript whose input begins with a dollar."""
    lines = [line.strip() for line in block.splitlines()]
    if any(line.startswith("$ ") for line in lines):
        return [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


SHELL = [
    pytest.param(
        block,
        id=f"{path.stem}-{number}",
        marks=[pytest.mark.slow, pytest.mark.timeout(3600)] if "../shared" in block else [],
    )
    for path in DOCUMENTS
    for number, block in enumerate(blocks(path, "sh", "console"))
]
PYTHON = [
    pytest.param(block, id=f"{path.stem}-{number}")
    for path in DOCUMENTS
    for number, block in enumerate(blocks(path, "python"))
]


@pytest.fixture
def place(tmp_path):
    """An empty folder to work in, with the recordings where the documents say."""
    folder = tmp_path / "funnybone"
    folder.mkdir()
    if SHARED.is_dir():
        (tmp_path / "shared").symlink_to(SHARED)
    return folder


@pytest.mark.parametrize("block", SHELL)
def test_shell_block(block, place):
    if "../shared" in block and not SHARED.is_dir():
        pytest.skip("real recordings are not here: no folder ../shared")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands(block):
        if command.startswith("make"):  # see above
            done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
        else:
            done = subprocess.run(
                command, shell=True, cwd=place, capture_output=True, text=True, env={**os.environ, "PATH": path}
            )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("block", PYTHON)
def test_python_block(block, place):
    done = subprocess.run([sys.executable, "-c", block], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for file in place.glob("*.npz"):
        assert len(fb.load_data(file)) == 2


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_settings_files_have_known_keys(path):
    for block in blocks(path, "toml"):
        (command,) = re.findall(r"funnybone (\w+)", block)
        known = {argument.name.lstrip("-").lower() for argument in app[command].assemble_argument_collection()}
        assert set(tomllib.loads(block)) <= known


def test_changelog_and_citation_agree_with_the_version():
    assert f"version: {fb.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
