"""What importing costs, and that imports point one way only."""

import ast
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import funnybone

SOURCE = Path(funnybone.__file__).parent

# A part may import itself and the parts of the lines above its own, and nothing else.
LEVELS = (
    ("errors", "tables", "units"),
    ("registry", "sampling", "settings", "skeletons"),
    ("clips",),
    ("chance", "clips_io", "motion"),
    ("metrics", "threat"),
    ("goals", "models", "data"),
    ("victims",),
    ("outcome", "training"),
    ("attacks",),
    ("defenses",),
    ("auditing",),
    ("report", "study", "testing"),
    ("cli",),
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# Looked up when it is called, not when the module is loaded: an audit can write its report.
DEFERRED = {("auditing", "report")}
# Lists of attacks, the victim of the command without arguments and the network that no-box learns are data of their own
# files.
MAY_NAME = {"auditing/suites.py", "cli/demo.py", "attacks/nobox.py"}

COMMANDS = (
    (),
    ("audit",),
    ("attack",),
    ("compare",),
    ("harden",),
    ("train",),
    ("data",),
    ("data", "list"),
    ("data", "info"),
    ("data", "natural"),
    ("models",),
    ("models", "list"),
    ("models", "import"),
    ("models", "push"),
    ("report",),
)


def costs_less_than(limit, code, times=5):
    """Whether a fresh interpreter can do it in so many seconds of processor time; the best of a few counts.

    The clock on the wall would measure who else is on the machine.
    """
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < limit:
            return True
    return False


def test_importing_the_package_is_cheap_and_loads_no_torch():
    assert costs_less_than(0.3, "import sys, funnybone; assert 'torch' not in sys.modules")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "funnybone")
def test_help_is_cheap_and_loads_no_torch(command):
    argv = json.dumps([*command, "--help"])
    code = f"import sys; from funnybone.cli import main; assert main({argv}) == 0; assert 'torch' not in sys.modules"
    assert costs_less_than(0.5, code)


def parsed():
    return {path.relative_to(SOURCE): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def part_of(path):
    return path.parts[0].removesuffix(".py")


def imported(node):
    """Parts of the package that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "funnybone" else [node.module]
    else:
        return []
    parts = [name.split(".") for name in names if name and name.split(".")[0] == "funnybone"]
    return [name[1] for name in parts if len(name) > 1 and not name[1].startswith("__")]


def test_imports_point_one_way():
    wrong = []
    for path, tree in parsed().items():
        part = part_of(path)
        if part in ("__init__", "__main__"):
            continue
        assert part in LEVEL, f"{path}: give the new part {part!r} its level in this test"
        at_once = {id(statement) for statement in tree.body}
        for node in ast.walk(tree):
            for other in imported(node):
                later = (part, other) in DEFERRED and id(node) not in at_once
                if other != part and not later and LEVEL[other] >= LEVEL[part]:
                    wrong.append(f"{path}:{node.lineno} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_is_asked_for_its_version_alone():
    """Lazy public names would lead around the levels."""
    for path, tree in parsed().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "funnybone":
                assert node.attr == "__version__", f"{path}:{node.lineno} uses funnybone.{node.attr}"


def test_no_file_names_a_part_that_another_implements():
    from funnybone.attacks import attacks
    from funnybone.models import models

    names = dict.fromkeys(attacks.names(), "attacks") | dict.fromkeys(models.names(), "models")
    wrong = []
    for path, tree in parsed().items():
        if path.as_posix() in MAY_NAME:
            continue
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
                continue
            owner = names.get(node.value.split(".")[0])
            if owner is not None and part_of(path) != owner:
                wrong.append(f"{path}:{node.lineno} names {node.value!r}")
    assert not wrong, "\n".join(wrong)
