"""Intervals for rates."""


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
