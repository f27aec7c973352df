"""Reading the reports that commands write into their folders, strictly: whole, or one sentence on what is wrong."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertsurgeon.errors import CheckpointError
from bertsurgeon.files import read_json
from bertsurgeon.reporting.schema import SCHEMA_VERSION, SHAPES, Kind

_FILES: dict[str, tuple[Kind, ...]] = {
    "report.json": ("compress", "prune"),
    "training_report.json": ("training",),
    "layer_drop.json": ("layer_drop",),
    "vocabulary_report.json": ("vocabulary",),
    "bertsurgeon_export.json": ("export",),
    "calibration.json": ("calibration",),
}
"""Names of the files, in the order in which a folder is searched for them, and the reports that they may hold."""

_MARKS: dict[Kind, frozenset[str]] = {
    "compress": frozenset({"schema_version"}),
    "prune": frozenset({"pruning", "models"}),
    "training": frozenset({"task", "metrics"}),
    "layer_drop": frozenset({"layers", "of"}),
    "vocabulary": frozenset({"texts", "kept", "of"}),
    "export": frozenset({"runtime", "precision", "inputs"}),
    "calibration": frozenset({"settings", "curves"}),
}
"""Keys by which the kind of a report is recognized."""


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Control characters, and halves of characters that no file can hold."""


def find_kind(report: Mapping[str, Any]) -> Kind | None:
    """Returns which command's report this is; None if it is none."""
    return next((kind for kind, keys in _MARKS.items() if keys <= report.keys()), None)


def check_report(report: Any, source: str = "The report") -> tuple[Kind, dict[str, Any]]:
    """Checks the shape of a report.

    Args:
        report: Plain data.
        source: Name of the report, for the error.

    Returns:
        Its kind, and the report with None in place of numbers that are not finite.

    Raises:
        CheckpointError: If it is no report, of another schema version, or lacks something.
    """
    from pydantic import TypeAdapter, ValidationError

    kind = find_kind(report) if isinstance(report, dict) else None
    if kind is None:
        raise CheckpointError(f"{source} is not a report of a bertsurgeon command; name a folder that one wrote.")
    version = report.get("schema_version")
    if kind == "compress" and version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{source} has the schema version {str(version)[:20]}, and this version of bertsurgeon reads "
            f"{SCHEMA_VERSION}; install the version that wrote it, or run the command again."
        )
    report = _clean(report)
    try:
        TypeAdapter(SHAPES[kind]).validate_python(report)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
        fault = "is missing" if first["type"] == "missing" else f"has a wrong value ({first['msg'].lower()})"
        raise CheckpointError(f"{source} is damaged: {where} {fault}; run the command again.") from error
    if kind == "compress":
        _check_names(report, source)
    if kind == "prune" and not report["models"]:
        raise CheckpointError(f"{source} is damaged: it holds no models; run the command again.")
    return kind, report


def _check_names(report: dict[str, Any], source: str) -> None:
    """Checks what the shape alone does not fix: the chosen candidate, and a square confusion matrix."""
    names = [candidate["name"] for candidate in report["candidates"]]
    if not names or (report["chosen"] is not None and report["chosen"] not in names):
        raise CheckpointError(
            f"{source} is damaged: its chosen model is not among its candidates; run the command again."
        )
    confusion = (report.get("answers") or {}).get("confusion")
    if confusion is not None:
        size = len(confusion["labels"])
        if len(confusion["counts"]) != size or any(len(row) != size for row in confusion["counts"]):
            raise CheckpointError(f"{source} is damaged: answers.confusion is not square; run the command again.")


def read_report(folder: str | Path) -> tuple[Kind, dict[str, Any]]:
    """Reads the report in a folder that a command wrote.

    Args:
        folder: A folder with a model, an export or a calibration.

    Returns:
        The kind of the report, and its content.

    Raises:
        CheckpointError: If there is none, or it is damaged or of another version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}; name one that a bertsurgeon command wrote.")
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder} holds no report of a bertsurgeon command; name a folder that one wrote.")
    try:
        kind, report = check_report(read_json(file, None), str(file))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: it is damaged, or not JSON; run the command again.") from error
    if kind not in _FILES[file.name]:
        raise CheckpointError(f"{file} holds another command's report; run the command again.")
    return kind, report


def _clean(value: Any) -> Any:
    """Replaces what JSON may hold but a page cannot: numbers out of range by None, and control characters in texts."""
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    is_large = isinstance(value, int) and value.bit_length() > 1000  # no float
    return None if is_large or (isinstance(value, float) and not math.isfinite(value)) else value
