"""JSON files, read within bounds of size, depth and number of values, whoever wrote them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_BYTES = 32 * 2**20
"""Size of the largest file that is read; the plan of a model with 7 billion weights takes about 17 MB."""

MAX_VALUES = 2**20
"""Most values in a file; each takes up to some 100 bytes of memory."""

MAX_DEPTH = 64
"""Most lists and objects inside each other."""


MAX_ROW_DEPTH = 12
"""Most levels in a row of data; those of SQuAD have 8, and datasets takes time that doubles with every level."""


class DamagedFileError(ValueError):
    """A file is no JSON of the expected form; the message is part of a sentence and does not name the file."""


def read_json(file: Path, form: type[dict[str, Any]] | type[list[Any]] | None = dict) -> Any:
    """Reads a JSON file in UTF-8.

    Args:
        file: The file.
        form: What it has to hold, an object (``dict``) or a list; None for any value.

    Raises:
        OSError: If it cannot be read.
        DamagedFileError: If it is not JSON of this form, or beyond the bounds.
    """
    if special_file([file]) is not None:
        raise DamagedFileError("it is no regular file")
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    return parse_json(content, form)


def special_file(paths: Iterable[Path]) -> Path | None:
    """Returns the first path that exists and is no regular file, nor a link to one: opening a pipe may take forever."""
    return next((path for path in paths if (path.is_symlink() or path.exists()) and not path.is_file()), None)


def parse_json(content: bytes, form: type[dict[str, Any]] | type[list[Any]] | None = dict) -> Any:
    """Returns the value of JSON text in UTF-8; see :func:`read_json`.

    Raises:
        DamagedFileError: If it is not JSON of this form, or beyond the bounds.
    """
    if len(content) > MAX_BYTES:
        raise DamagedFileError(f"it is larger than {MAX_BYTES // 2**20} MB")
    if sum(content.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise DamagedFileError(f"it holds more than {MAX_VALUES:,} values")
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError as error:
        raise DamagedFileError(f"more than {MAX_DEPTH} lists and objects are inside each other") from error
    except DamagedFileError:
        raise
    except UnicodeDecodeError as error:
        raise DamagedFileError("it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise DamagedFileError(f"it is not JSON: {error}") from error
    except ValueError as error:  # numbers of thousands of digits
        raise DamagedFileError("a number has too many digits") from error
    check_depth(value)
    if form is not None and not isinstance(value, form):
        raise DamagedFileError(f"it holds no {'object' if form is dict else 'list'}")
    return value


def parse_rows(text: str) -> Any:
    """Returns the value of JSON text of a data file, which may be as large as it is; duplicate keys are allowed.

    Raises:
        DamagedFileError: If it is no JSON, nested too deeply, or has a number of thousands of digits.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise DamagedFileError(f"more than {MAX_ROW_DEPTH} lists and objects are inside each other") from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise DamagedFileError("a number has too many digits") from error
    _check_depth(value, MAX_ROW_DEPTH, None)
    return value


def check_depth(value: Any) -> None:
    """Checks that lists and objects of plain data are not too deep inside each other, and not too many.

    Data in which a part occurs several times, as YAML can express, counts each of its occurrences.

    Raises:
        DamagedFileError: If there are more than ``MAX_DEPTH`` levels or ``MAX_VALUES`` values.
    """
    _check_depth(value, MAX_DEPTH, MAX_VALUES)


def _check_depth(value: Any, most_levels: int, most_values: int | None) -> None:
    level, count = [value], 0
    for _ in range(most_levels + 1):
        parts: list[Any] = []
        for part in level:
            if isinstance(part, dict | list):
                count += len(part)
                if most_values is not None and count > most_values:
                    raise DamagedFileError(f"it holds more than {most_values:,} values")
                parts += part.values() if isinstance(part, dict) else part
        if not parts:
            return
        level = parts
    raise DamagedFileError(f"more than {most_levels} lists and objects are inside each other")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object, whose keys must differ: readers differ in which of two equal ones they use."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DamagedFileError(f"the key {twice[:40]!r} is there twice")
    return content
