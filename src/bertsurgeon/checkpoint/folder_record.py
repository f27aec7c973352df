"""The record of a folder that a command wrote: which files are ours, so that nothing else is ever deleted.

``docs/format.md`` specifies the file. Version 0.1.0 wrote none; its folders are recognized by the names of their files
and by what only that version wrote into them.
"""

import json
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from bertsurgeon.files import read_json

EXPORT_MANIFEST = "bertsurgeon_export.json"
"""File that an exported model has, see :mod:`bertsurgeon.runtime.manifest`."""

RECORD = "bertsurgeon_folder.json"
"""Name of the file that lists the files of a folder."""

RECORD_VERSION = 1

FolderKind = Literal["model", "calibration", "export", "training", "search"]

TRAINING_FILES = ("checkpoint-*/", "start/", "recipe.json")
"""What a training keeps in its work folder; a name that ends in a slash is a folder with all that is in it."""

WORK_FOLDERS = (".training", ".search")
"""Ends of the names of work folders, which follow the name of the output folder."""

LOCK = "bertsurgeon-lock"

_HIDDEN = re.compile(r"\.(?P<name>.+)\.bertsurgeon-(?P<purpose>lock|(?:new|old)-[a-z0-9_]{8})", re.DOTALL)
"""Names of lock files, and of what is being written or replaced; ``name`` is that of the folder they belong to."""

_HEAVY = r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|(pytorch|openvino)_model\.(bin|xml)"
_RELEASED_FILES = re.compile(
    rf"(\d+_[A-Z]\w*/)?(config\.json|{_HEAVY})|generation_config\.json|(pre)?processor_config\.json|"
    r"tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja|vocab\.(txt|json)|"
    r"merges\.txt|bpe\.codes|(sentencepiece\.bpe|spm|spiece|tokenizer)\.model|modules\.json|"
    r"config_sentence_transformers\.json|sentence_bert_config\.json|(training_|vocabulary_)?report\.json|"
    r"layer_drop\.json|bertsurgeon_export\.json|model\.onnx([._]data)?"
)
"""Files that 0.1.0, which wrote no record, wrote itself or through other libraries."""

_RELEASED_FOLDERS = re.compile(r"\d+_[A-Z]\w*")
"""Empty folders of 0.1.0: modules of sentence-transformers without files."""

_RELEASED_CALIBRATION = ["calibration.json", "calibration.safetensors"]

_RELEASED_KEYS = {
    "report.json": ({"task", "pruning", "recovery", "models", "environment"},),
    "training_report.json": ({"task", "training", "metrics"}, {"task", "recipe", "metrics"}),
    "vocabulary_report.json": ({"texts", "kept", "of", "parameters"},),
    "layer_drop.json": ({"layers", "of", "encoder_weights"},),
    "calibration.json": ({"format_version", "settings", "curves"},),
    "bertsurgeon_export.json": ({"format_version", "runtime", "precision", "inputs", "outputs"},),
}
"""Keys of the files that only 0.1.0 wrote; for each file, one of these sets."""

_METHODS = ("bertsurgeon", "bertsurgeon-sparse")


def is_hidden(name: str, folder: Path) -> bool:
    """Returns whether a name is that of the lock of a folder, or of something that is being written for it."""
    match = _HIDDEN.fullmatch(name)
    return match is not None and match["name"] == folder.resolve().name


def foreign_file(folder: Path) -> str | None:
    """Returns the first file of a folder that none of our commands wrote, or None.

    Raises:
        OSError: If part of it cannot be read.
    """
    record = read_record(folder)
    if record is not None:
        return unlisted_file(folder, record[1])
    files = list_files(folder)
    if files == _RELEASED_CALIBRATION:
        return None if _has_released_keys(folder, files[0]) else files[0]
    for file in files:
        if not _is_released(folder, file):
            return file
    if not files or any(file in _RELEASED_KEYS for file in files) or _has_our_entry(folder):
        return None
    return files[0]


def _reraise(error: OSError) -> None:
    raise error


def _is_released(folder: Path, file: str) -> bool:
    """Returns whether 0.1.0 may have written a file of a model or an export; a report must have our keys."""
    if _RELEASED_FOLDERS.fullmatch(file):
        return (folder / file).is_dir() and not (folder / file).is_symlink()
    if not _RELEASED_FILES.fullmatch(file):
        return False
    return file not in _RELEASED_KEYS or _has_released_keys(folder, file)


def _has_released_keys(folder: Path, name: str) -> bool:
    """Returns whether a file has the keys that 0.1.0 wrote."""
    content = _read_json(folder / name)
    return isinstance(content, dict) and any(keys <= content.keys() for keys in _RELEASED_KEYS[name])


def _has_our_entry(folder: Path) -> bool:
    """Returns whether the ``config.json`` of a folder is that of a pruned or sparse model."""
    content = _read_json(folder / "config.json")
    entry = content.get("quantization_config") if isinstance(content, dict) else None
    return isinstance(entry, dict) and entry.get("quant_method") in _METHODS


def _read_json(file: Path) -> Any:
    """Returns the content of a JSON file; None if it is missing or damaged."""
    try:
        return read_json(file, None)
    except (OSError, ValueError):
        return None


def unlisted_file(folder: Path, listed: Sequence[str]) -> str | None:
    """Returns the first file of a folder that its record does not list, or None."""
    patterns = [name for name in listed if name.endswith("/")]
    for file in list_files(folder):
        top = f"{file.partition('/')[0]}/" if "/" in file else ""
        if file != RECORD and file not in listed and not any(fnmatchcase(top, pattern) for pattern in patterns):
            return file
    return None


def list_files(folder: Path) -> list[str]:
    """Returns the files of a folder, links and empty folders included, as sorted paths relative to it.

    What is being written inside for the folder itself does not count.
    """
    files = []
    for parent, folders, names in os.walk(folder, onerror=_reraise):
        path = Path(parent)
        if path == folder:
            for entries in (folders, names):
                entries[:] = [name for name in entries if not is_hidden(name, folder)]
        links = [name for name in folders if (path / name).is_symlink()]
        files += [(path / name).relative_to(folder).as_posix() for name in (*names, *links)]
        if not folders and not names and path != folder:
            files.append(path.relative_to(folder).as_posix())
    return sorted(files)


def read_record(folder: Path) -> tuple[str, list[str]] | None:
    """Returns kind and files from the record of a folder; None if there is no record of a version that we know.

    Raises:
        OSError: If it cannot be read, so that its owner is unknown.
    """
    try:
        content = read_json(folder / RECORD)
        kind, files, version = content["kind"], content["files"], content["format_version"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError):
        return None
    is_valid = isinstance(kind, str) and isinstance(files, list) and all(isinstance(name, str) for name in files)
    return (kind, files) if is_valid and version == RECORD_VERSION else None


def released_kind(folder: Path) -> FolderKind:
    """Returns what a folder of 0.1.0 holds."""
    if (folder / EXPORT_MANIFEST).exists():
        return "export"
    return "calibration" if (folder / _RELEASED_CALIBRATION[0]).exists() else "model"


def write_record(folder: Path, kind: FolderKind, files: Sequence[str]) -> None:
    """Writes the record of a folder.

    Args:
        folder: The folder.
        kind: What it holds.
        files: Its files, as :func:`list_files` returns them, or names of folders that end in a slash.
    """
    (folder / RECORD).write_text(record_text(kind, files), encoding="utf-8")


def record_text(kind: str, files: Sequence[str]) -> str:
    """Returns the content of a record."""
    return json.dumps({"format_version": RECORD_VERSION, "kind": kind, "files": list(files)}, indent=1) + "\n"
