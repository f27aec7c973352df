"""A text classification task that every machine has: which package was this docstring written for?

The texts are the first paragraphs of docstrings in the source files of the standard library, torch, numpy and
transformers, read without importing anything. The packages' own names are cut from the texts, so that a model
has to learn style and vocabulary; duplicates are dropped. Whole files go either to training or to validation,
by their path inside the package alone, so that no seed trains on another seed's validation files.
"""

import importlib.util
import os
import random
import re
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.table import TASKS

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
    """Collects the docstring task.

    Args:
        per_class: Texts wanted for each of the four packages; a package with fewer gives what it has.
        seed: Fixes which files are read and the order of the rows.

    Returns:
        Training and validation part (about 5 : 1), columns ``text`` and ``label``.

    Raises:
        DataError: If a package has no readable source files.
    """
    parts: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
    seen: set[str] = set()
    validation = -(-per_class // 6)
    for label, package in enumerate(TASKS["docstrings"].labels):
        wanted = {False: per_class - validation, True: validation}
        found = len(seen)
        for text, held_out in _texts(package, seed):
            if wanted[held_out] and text not in seen:
                wanted[held_out] -= 1
                seen.add(text)
                parts[held_out].append((text, label))
            if not any(wanted.values()):
                break
        if len(seen) == found:
            raise DataError(f"No docstrings were found in the package {package!r}; choose another task.")
    datasets = []
    for held_out in (False, True):
        rows = parts[held_out]
        random.Random(seed).shuffle(rows)
        datasets.append(Dataset.from_dict({"text": [r[0] for r in rows], "label": [r[1] for r in rows]}))
    return datasets[0], datasets[1]


def _texts(package: str, seed: int) -> Iterator[tuple[str, bool]]:
    """The package's texts, file by file in the seed's order, and whether each belongs to validation."""
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
    """Paths of the source files below ``root``, relative to it, sorted."""
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
