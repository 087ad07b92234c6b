"""funnybone: find where a skeleton-based activity classifier is weak, show it, and harden it.

Public names load on first use, so that importing the package, and the command line's help, cost nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> the module it lives in; a name that is a module itself is marked by None.
_PUBLIC = {
    "Audit": "auditing",
    "Clips": "clips",
    "DataError": "errors",
    "Skeleton": "skeletons",
    "attacks": None,
    "data": None,
    "defenses": None,
    "goals": None,
    "metrics": None,
    "models": None,
    "skeletons": None,
    "testing": None,
    "threat": None,
    "victims": None,
    "Outcome": "outcome",
    "audit": "auditing",
    "create_attack": "attacks",
    "create_defense": "defenses",
    "load_data": "data",
    "security_curve": "auditing.curve",
    "transfer_matrix": "auditing.transfer",
    "CallableVictim": "victims",
    "Ensemble": "victims",
    "TorchVictim": "victims",
    "Victim": "victims",
    "create_victim": "victims",
    "save_victim": "victims",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'funnybone' has no attribute {name!r}")
    module = importlib.import_module(f"funnybone.{_PUBLIC[name] or name}")
    value = getattr(module, name) if _PUBLIC[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
