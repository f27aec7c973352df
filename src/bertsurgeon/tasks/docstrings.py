"""The task ``docstrings``: which package does a docstring belong to? Its data is on every machine with Python.

The texts are the first paragraphs of docstrings in the source files of the standard library, torch, numpy and
transformers, read without importing anything. The packages' names are removed from the texts, so that a model has to
learn style and vocabulary; duplicates are dropped. A file belongs to training or to validation by its path inside the
package alone, so that no seed trains on another seed's validation files.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.table import TASKS

if TYPE_CHECKING:
    from datasets import Dataset

_NAMES = re.compile(r"\b(torch|pytorch|numpy|np|transformers|hugging\s?face|python)\b\.?", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_EXCLUDED = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"})
# The first paragraph of a triple-quoted string that opens a file or follows the colon of a def or class.
# Parsing the files properly finds nearly the same paragraphs and takes ten times as long.
_FIRST_PARAGRAPH = re.compile(
    r"""(?:\A(?:\s|\#[^\n]*\n)*|:[ \t]*(?:\#[^\n]*)?\n\s*)[rR]?(\"{3}|'{3})\s*(?!\1)(.*?)(?:\n[ \t]*\n|\1)""",
    re.DOTALL,
)


def read_docstrings(per_class: int = 2000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Collects the texts of the task.

    Args:
        per_class: Maximum number of texts for each of the four packages.
        seed: Seed of the sample of files and of the order of the rows.

    Returns:
        Training and validation part (about 5 : 1), with columns ``text`` and ``label``.

    Raises:
        DataError: If a package has no readable source files.
    """
    from datasets import Dataset

    parts: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
    texts: set[str] = set()
    validation = -(-per_class // 6)
    for label, package in enumerate(TASKS["docstrings"].labels):
        remaining = {False: per_class - validation, True: validation}
        count_before = len(texts)
        for text, held_out in _texts(package, seed):
            if remaining[held_out] and text not in texts:
                remaining[held_out] -= 1
                texts.add(text)
                parts[held_out].append((text, label))
            if not any(remaining.values()):
                break
        if len(texts) == count_before:
            raise DataError(f"No docstrings were found in the package {package!r}; choose another task.")
    datasets = []
    for held_out in (False, True):
        rows = parts[held_out]
        random.Random(seed).shuffle(rows)
        datasets.append(Dataset.from_dict({"text": [r[0] for r in rows], "label": [r[1] for r in rows]}))
    return datasets[0], datasets[1]


def _texts(package: str, seed: int) -> Iterator[tuple[str, bool]]:
    """Yields a package's texts, file by file in random order, and whether each belongs to validation."""
    root = _root(package)
    if root is None:
        return
    files = _source_files(root)
    random.Random(seed).shuffle(files)
    for file in files:
        held_out = zlib.crc32(f"{package}/{file}".encode()) % 6 == 0
        for text in _first_paragraphs(root / file):
            yield text, held_out


def _root(package: str) -> Path | None:
    if package == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _source_files(root: Path) -> list[str]:
    """Returns the sorted paths of the source files below ``root``, relative to it."""
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _EXCLUDED]
        relative = Path(folder).relative_to(root)
        files += [(relative / name).as_posix() for name in names if name.endswith(".py")]
    return sorted(files)


def _first_paragraphs(path: Path) -> Iterator[str]:
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for match in _FIRST_PARAGRAPH.finditer(source):
        text = _SPACE.sub(" ", _NAMES.sub(" ", match[2])).strip()
        if 20 <= len(text) <= 400:
            yield text
