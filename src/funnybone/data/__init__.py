"""Data sets by name and motion files by format, all as `Clips`."""

from funnybone.data.registry import DataSet, datasets, formats, load_data

__all__ = ["DataSet", "datasets", "formats", "load_data"]
