"""Which data sets and file formats there are, and the one way to load them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from funnybone.clips import Clips
from funnybone.errors import DataError
from funnybone.registry import Registry


@dataclass(frozen=True)
class DataSet:
    """A data set that can be loaded by name.

    Parameters
    ----------
    name : str
        How it is called on the command line.
    description : str
        One line for ``funnybone data list``.
    licence : str
        Terms of the recordings.
    load : callable
        ``load(root) -> Clips``; ``root`` is the folder that holds its files, or None.
    splits : mapping of str to str
        Named parts, ``{"test": "subject:s01,s02"}``; ``train`` is what ``test`` leaves.
    synthetic : bool
        True when no person was recorded.
    natural : Path, optional
        What its training part keeps to, as `funnybone.metrics.NaturalMotion.save` wrote it.
    """

    name: str
    description: str
    licence: str
    load: Callable[[Path | None], Clips]
    splits: Mapping[str, str] = field(default_factory=dict)
    synthetic: bool = False
    natural: Path | None = None

    def rule(self, split: str) -> str:
        """Return the ``KEY:VALUES`` rule that a named part stands for; other rules are returned as they are."""
        inverted, name = split.startswith("!"), split.removeprefix("!")
        named = {**self.splits, **({"train": f"!{self.splits['test']}"} if "test" in self.splits else {})}
        rule = named.get(name, name)
        return rule if not inverted else rule[1:] if rule.startswith("!") else f"!{rule}"


datasets: Registry[DataSet] = Registry("data set", "funnybone.data")
formats: Registry[Callable[[Path], Clips]] = Registry("file format", "funnybone.data")


def find(source: str | Path, root: str | Path | None = None) -> tuple[DataSet | None, Clips]:
    """Return the named data set, or None for a file, and all of its clips at their recorded lengths."""
    if isinstance(source, str) and source in datasets:
        data = datasets[source]
        return data, data.load(Path(root).expanduser() if root is not None else None)
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"{source}: neither a file nor a data set", hint=f"data sets are {', '.join(datasets.names())}")
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in formats or path.is_dir():
        raise DataError(f"{source}: not a motion file", hint=f"formats are {', '.join(formats.names())}")
    return None, formats[suffix](path)


def load_data(
    source: str | Path, *, split: str | None = None, root: str | Path | None = None, frames: int | None = 60
) -> Clips:
    """Load a data set by name or a motion file by path.

    Parameters
    ----------
    source : str or Path
        ``"synthetic"`` or a path such as ``"hdm05_11.npz"``.
    split : str, optional
        ``"subject:mm,tr"`` keeps these subjects, ``"!subject:mm,tr"`` the others; ``"test"`` and ``"train"`` where
        the data set names them. None keeps everything.
    root : str or Path, optional
        Folder of the files of a named data set.
    frames : int, optional
        Frames that every clip is resampled to, its frame rate changing with it; None keeps the recorded lengths,
        the shorter clips padded with frames that are not valid.

    Returns
    -------
    Clips

    Raises
    ------
    DataError
        For a missing or damaged file, an unknown format, or a split that names nothing.

    Examples
    --------
    >>> import funnybone as fb
    >>> fb.load_data("synthetic", split="class:wave")
    Clips('synthetic', n=..., persons=2, frames=60, NTU25, 14 classes, synthetic)
    """
    data, clips = find(source, root)
    if split is not None:
        clips = clips.select(data.rule(split) if data else split)
    return clips if frames is None else clips.resample(frames)
