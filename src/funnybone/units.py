"""How a distance is written: millimetres where positions are in metres, the unit of the data where they are not."""

from typing import NamedTuple


class Unit(NamedTuple):
    """Names of a unit and what a distance is multiplied with before it is shown."""

    scale: int
    distance: str
    per_second2: str


UNITS = {
    "metre": Unit(1000, "mm", "m/s2"),
    "pixel": Unit(1, "px", "px/s2"),
    "normalised": Unit(1, "units", "units/s2"),
}
