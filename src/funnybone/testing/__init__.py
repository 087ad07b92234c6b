"""The exam that every attack, victim and defense must pass; public, for parts made elsewhere too.

Each check raises `AssertionError` with a sentence that says which promise was broken.
"""

from funnybone.testing.analytic import linear_victim, random_clips
from funnybone.testing.exams import check_attack, check_defense
from funnybone.testing.victim_exam import check_victim

__all__ = ["check_attack", "check_defense", "check_victim", "linear_victim", "random_clips"]
