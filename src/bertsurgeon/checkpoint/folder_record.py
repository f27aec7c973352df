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

EXPORT_MANIFEST = "bertsurgeon_export.json"
"""File that an exported model has, see :mod:`bertsurgeon.runtime.manifest`."""

RECORD = "bertsurgeon_folder.json"
"""Name of the file that lists the files of a folder."""

RECORD_VERSION = 1

FolderKind = Literal["model", "calibration", "export", "training", "search"]

TRAINING_FILES = ("checkpoint-*/", "start/", "recipe.json")
"""What a training keeps in its work folder; a name that ends in a slash is a folder with all that is in it."""

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


def foreign_file(folder: Path, ignored: Path | None = None) -> str | None:
    """Returns the first file of a folder that none of our commands wrote, or None.

    Args:
        folder: The folder.
        ignored: A folder inside it that is not looked at.

    Raises:
        OSError: If part of it cannot be read.
    """
    record = read_record(folder)
    if record is not None:
        return unlisted_file(folder, record[1], ignored)
    files = list_files(folder, ignored)
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
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def unlisted_file(folder: Path, listed: Sequence[str], ignored: Path | None = None) -> str | None:
    """Returns the first file of a folder that its record does not list, or None."""
    patterns = [name for name in listed if name.endswith("/")]
    for file in list_files(folder, ignored):
        top = f"{file.partition('/')[0]}/" if "/" in file else ""
        if file != RECORD and file not in listed and not any(fnmatchcase(top, pattern) for pattern in patterns):
            return file
    return None


def list_files(folder: Path, ignored: Path | None = None) -> list[str]:
    """Returns the files of a folder, links and empty folders included, as sorted paths relative to it."""
    files = []
    for parent, folders, names in os.walk(folder, onerror=_reraise):
        path = Path(parent)
        if ignored is not None and path.resolve() == ignored:
            folders.clear()
            continue
        links = [name for name in folders if (path / name).is_symlink()]
        files += [(path / name).relative_to(folder).as_posix() for name in (*names, *links)]
        if not folders and not names and path != folder:
            files.append(path.relative_to(folder).as_posix())
    return sorted(files)


def read_record(folder: Path) -> tuple[str, list[str]] | None:
    """Returns kind and files from the record of a folder; None if there is no record of a version that we know."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        kind, files, version = content["kind"], content["files"], content["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_valid = isinstance(kind, str) and isinstance(files, list) and all(isinstance(name, str) for name in files)
    return (kind, files) if is_valid and version == RECORD_VERSION else None


def add_recorded_file(folder: Path, name: str, text: str) -> None:
    """Writes a text file into a folder of ours at once, and lists it in the folder's record.

    A folder of 0.1.0, which has no record, is given one; a folder that none of our commands wrote stays without one.

    Args:
        folder: The folder.
        name: Name of the file; it is replaced if it exists.
        text: Its content.

    Raises:
        OSError: If it cannot be written.
    """
    record = read_record(folder)
    has_files = record is None and not (folder / RECORD).exists() and bool(list_files(folder))
    if has_files and foreign_file(folder) is None:
        record = (_released_kind(folder), list_files(folder))
    if record is not None and name not in record[1]:  # first the record: a file that it lists may be absent
        content = {"format_version": RECORD_VERSION, "kind": record[0], "files": sorted([*record[1], name])}
        _replace(folder / RECORD, json.dumps(content, indent=1) + "\n")
    _replace(folder / name, text)


def _released_kind(folder: Path) -> FolderKind:
    """Returns what a folder of 0.1.0 holds."""
    if (folder / EXPORT_MANIFEST).exists():
        return "export"
    return "calibration" if (folder / _RELEASED_CALIBRATION[0]).exists() else "model"


def _replace(file: Path, text: str) -> None:
    """Writes a text file completely or not at all."""
    new = file.with_name(f".{file.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_record(folder: Path, kind: FolderKind, files: Sequence[str]) -> None:
    """Writes the record of a folder.

    Args:
        folder: The folder.
        kind: What it holds.
        files: Its files, as :func:`list_files` returns them, or names of folders that end in a slash.
    """
    content = {"format_version": RECORD_VERSION, "kind": kind, "files": list(files)}
    (folder / RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
