"""The one exception that is a user's to mend."""


class DataError(ValueError):
    """Unusable input: a file, an array, a name or a setting. The command line turns it into exit status 2.

    Parameters
    ----------
    message : str
        What is wrong and where: the file, the field, the value.
    hint : str, optional
        How to mend it.

    Examples
    --------
    >>> print(DataError("walk.npz: no array named 'clips'", hint="see docs/npz.md for the layout"))
    walk.npz: no array named 'clips'; see docs/npz.md for the layout
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
