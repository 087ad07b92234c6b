"""The type checker that pytest puts over every function of the package: beartype, with whole numbers as floats.

A plugin of pytest. In each test the first calls of each function are checked, and no more of them: a loop that calls
a function ten thousand times shows what is wrong with it in the first few, and checking all of them takes longer than
most loops.
"""

import functools
from collections import Counter
from types import FunctionType

import jaxtyping
import torch
from beartype import BeartypeConf
from beartype import beartype as _beartype

# A radius of 1 metre is as good as one of 1.0 (PEP 484's numeric tower), which beartype has to be told.
check = _beartype(conf=BeartypeConf(is_pep484_tower=True))

CALLS = 8  # of one function in one test
_calls = Counter()  # by code, which all closures of one function share


def pytest_runtest_logstart():
    _calls.clear()


def _in_first_calls(function=None, *, typechecker):
    """The decorator of jaxtyping, that steps aside after so many calls."""
    if function is None:
        return functools.partial(_in_first_calls, typechecker=typechecker)
    if not isinstance(function, FunctionType):
        return _jaxtyped(function, typechecker=typechecker)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if _calls[function.__code__] >= CALLS or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        _calls[function.__code__] += 1
        # An attribute, not a variable around the function: that would be part of a victim's fingerprint, and change.
        wrapper.checked = wrapper.checked or _jaxtyped(function, typechecker=check)
        return wrapper.checked(*args, **kwargs)

    wrapper.checked = None
    return wrapper


_jaxtyped, jaxtyping.jaxtyped = jaxtyping.jaxtyped, _in_first_calls
