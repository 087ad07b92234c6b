"""Attacks: one file each, found by name."""

from funnybone.attacks.base import Attack, Problem, attacks, create_attack, register_attack
from funnybone.attacks.gradient import GradientAttack

__all__ = ["Attack", "GradientAttack", "Problem", "attacks", "create_attack", "register_attack"]
