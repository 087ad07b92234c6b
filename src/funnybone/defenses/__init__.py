"""Defenses: one file each, found by name. A defense turns a victim into another victim."""

from funnybone.defenses.base import Defense, Progress, create_defense, defenses, register_defense

__all__ = ["Defense", "Progress", "create_defense", "defenses", "register_defense"]
