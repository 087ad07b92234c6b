"""Intervals for rates."""

import math


def wilson(successes: int, n: int) -> tuple[float, float] | None:
    """Return the Wilson score 95 % interval of a rate, or None when nothing was tried.

    Parameters
    ----------
    successes, n : int
        How many of how many.

    References
    ----------
    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.

    Examples
    --------
    >>> low, high = wilson(0, 20)
    >>> round(low, 3), round(high, 3)
    (0.0, 0.161)
    """
    if n == 0:
        return None
    from scipy.stats import binomtest  # half a second to import, so only where a rate is reported

    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def difference(before: int, after: int, n: int) -> tuple[float, float]:
    """Return a 95 % interval of ``after / n - before / n``, made of the Wilson intervals of the two rates.

    The two counts are taken for independent. On the same clips they are not: where what is hard for one classifier is
    hard for the other, the interval is wider than it needs to be.

    Parameters
    ----------
    before, after : int
        How many of n.
    n : int
        At least 1.

    References
    ----------
    Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven methods",
    Statistics in Medicine 17, 1998, method 10.

    Examples
    --------
    >>> low, high = difference(10, 18, 20)
    >>> round(low, 3), round(high, 3)
    (0.116, 0.613)
    """
    one, other = wilson(before, n), wilson(after, n)
    if one is None or other is None:
        raise ValueError("no clips, no rates")
    first, second = before / n, after / n
    change = second - first
    return (
        change - math.hypot(second - other[0], one[1] - first),
        change + math.hypot(other[1] - second, first - one[0]),
    )
