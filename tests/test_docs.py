"""Pages of documentation name what there is."""

import re
from pathlib import Path

from funnybone.attacks import attacks

DOCS = Path(__file__).parents[1] / "docs"


def test_every_attack_is_in_the_table_and_nothing_else():
    names = re.findall(r"^\| `(\w+)` \|", (DOCS / "attacks.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(attacks.names())
