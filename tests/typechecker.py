"""The type checker that pytest puts over every function of the package: beartype, with whole numbers as floats."""

from beartype import BeartypeConf
from beartype import beartype as _beartype

# A radius of 1 metre is as good as one of 1.0 (PEP 484's numeric tower), which beartype has to be told.
check = _beartype(conf=BeartypeConf(is_pep484_tower=True))
