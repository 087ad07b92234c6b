"""Attacks: one file each, found by name."""

from funnybone.attacks.base import Attack, attacks, create_attack, register_attack
from funnybone.attacks.gradient import GradientAttack
from funnybone.attacks.problem import Problem

__all__ = ["Attack", "GradientAttack", "Problem", "attacks", "create_attack", "register_attack"]
