"""Classifiers as an attacker meets them: what they answer, what they hide, and what was asked of them."""

from funnybone.victims.access import LEVELS, Access, BudgetError, Gradients, Labels, Meter, Scores, view
from funnybone.victims.base import Victim, predict
from funnybone.victims.callable import CallableVictim
from funnybone.victims.ensemble import Ensemble
from funnybone.victims.files import save_victim
from funnybone.victims.hardened import Hardened, forms, register_form
from funnybone.victims.load import create_victim
from funnybone.victims.torch import TorchVictim

__all__ = [
    "LEVELS",
    "Access",
    "BudgetError",
    "CallableVictim",
    "Ensemble",
    "Gradients",
    "Hardened",
    "Labels",
    "Meter",
    "Scores",
    "TorchVictim",
    "Victim",
    "create_victim",
    "forms",
    "predict",
    "register_form",
    "save_victim",
    "view",
]
