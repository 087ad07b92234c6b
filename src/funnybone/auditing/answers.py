"""What a target says to clips that were made to fool a surrogate, to the ledger's table and back."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from funnybone.auditing.rows import FieldError

TABLE = (
    "CREATE TABLE answers (shard TEXT NOT NULL, target TEXT NOT NULL, said TEXT NOT NULL, PRIMARY KEY (shard, target))"
)


class Answer(NamedTuple):
    """What one target says to one clip.

    Attributes
    ----------
    right : bool
        It got the clean clip right, and did not give it to the goal already.
    prediction : int
        The class that it gives the adversarial clip.
    fooled : bool
        The goal holds of its answer to the adversarial clip.
    """

    right: bool
    prediction: int
    fooled: bool


def to_sql(answers: Sequence[Answer]) -> str:
    """Return the answers to the clips of one shard as they stand in the table.

    Examples
    --------
    >>> to_sql([Answer(True, 3, False)])
    '[[1, 3, 0]]'
    """
    return json.dumps([list(map(int, answer)) for answer in answers])


def from_sql(said: Any, clips: int, classes: int) -> list[Answer]:
    """Return the answers that a table holds.

    Parameters
    ----------
    said : object
        What is in the column.
    clips, classes : int
        How many the shard and the audit have.

    Raises
    ------
    FieldError
        For anything that no audit writes.
    """
    try:
        found = json.loads(said)
        answers = [Answer(bool(right), prediction, bool(fooled)) for right, prediction, fooled in found]
        as_written = to_sql(answers) == json.dumps(found) and all(0 <= one.prediction < classes for one in answers)
    except (TypeError, ValueError):
        as_written = False
    if not as_written:
        raise FieldError("said is no list of answers that an audit writes")
    if len(answers) != clips:
        raise FieldError(f"said has {len(answers)} answers to {clips} clips")
    return answers
