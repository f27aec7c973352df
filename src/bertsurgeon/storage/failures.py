"""What a lack of disk space, memory or permission is called, whichever library it reached us through.

Python raises an ``OSError`` with a number; torch, safetensors, ONNX and Arrow raise exceptions of their own, some of
which keep no more than a text, and others not even that.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bertsurgeon.errors import BertSurgeonError

Cause = Literal["disk", "quota", "file size", "memory", "files", "device", "permission"]

_BY_NUMBER: dict[int, Cause] = {
    errno.ENOSPC: "disk",
    errno.EDQUOT: "quota",
    errno.EFBIG: "file size",
    errno.ENOMEM: "memory",
    errno.EMFILE: "files",
    errno.ENFILE: "files",
    errno.EIO: "device",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
}

_BY_TEXT: tuple[tuple[Cause, re.Pattern[str]], ...] = (
    ("disk", re.compile(r"no space left|not enough disk space|os error 28\b|disk (is )?full|StorageFull", re.I)),
    ("quota", re.compile(r"disk quota exceeded|os error 122\b", re.I)),
    ("file size", re.compile(r"file too large|os error 27\b", re.I)),
    (
        "memory",
        re.compile(
            r"not enough memory|out of memory|cannot allocate memory|bad_?alloc|failed to (allocate|map segment)|"
            r"unable to allocate|os error 12\b",
            re.I,
        ),
    ),
    ("files", re.compile(r"too many open files|os error 24\b", re.I)),
    ("device", re.compile(r"input/output error|os error 5\b", re.I)),
    ("permission", re.compile(r"permission denied|read-only file system|os error (13|30)\b", re.I)),
)

_WRITER = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos \d+|file write failed|basic_ios", re.I)
"""Texts of C++ libraries whose writing failed for a reason that they do not name."""

_ALLOCATION = re.compile(r"(?:allocat\w*|for)\D{0,20}(\d+(?:\.\d+)?) ?(bytes|[KMGT]i?B)\b", re.I)

_UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

EXHAUSTED: tuple[Cause, ...] = ("disk", "quota", "file size", "memory", "files")
"""Causes that no message of another kind may hide: what a library could not do follows from them."""


@dataclass(frozen=True)
class Failure:
    """Why the machine refused something.

    Attributes:
        cause: What is missing.
        reason: The cause in words, with sizes where they are known; part of a sentence.
        remedy: What helps; part of a sentence.
    """

    cause: Cause
    reason: str
    remedy: str


def find_failure(error: BaseException, folders: Iterable[Path] = ()) -> Failure | None:
    """Looks for a lack of space, memory or permission among the causes of an error.

    Args:
        error: Any error.
        folders: Where files may have been written; if the disk is full, the fullest one is named.

    Returns:
        What was missing; None if the error has another cause.
    """
    for one in _chain(error):
        if isinstance(one, BertSurgeonError):
            continue
        cause = _cause_of(one, folders)
        if cause is not None:
            return _describe(cause, one, folders)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and what caused it."""
    visited: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in visited:
        visited.append(current)
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _cause_of(error: BaseException, folders: Iterable[Path]) -> Cause | None:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno is not None:
        return _BY_NUMBER.get(error.errno)
    if isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):  # these may quote the user's own texts
        return None
    text = str(error)
    for cause, pattern in _BY_TEXT:
        if pattern.search(text):
            return cause
    if _WRITER.search(text):
        return "disk" if _file_size_limit() is None else "file size"
    return None


def _describe(cause: Cause, error: BaseException, folders: Iterable[Path]) -> Failure:
    name = getattr(error, "filename", None)
    at = f" at {name}" if isinstance(name, str) else ""
    match cause:
        case "disk":
            return Failure(cause, f"the disk is full{_space(folders)}", "free some space")
        case "quota":
            return Failure(cause, "your disk quota is used up", "free some space")
        case "file size":
            limit = _file_size_limit()
            size = "" if limit is None else f" of {_size(limit)}"
            return Failure(cause, f"a file exceeds the limit{size} on file sizes (ulimit -f)", "raise the limit")
        case "memory":
            return Failure(
                cause,
                f"there is not enough {_memory_kind(error)}{_allocation(error)}",
                "use a smaller batch or shorter texts, end other programs, or take a machine with more of it",
            )
        case "files":
            return Failure(cause, "too many files are open (ulimit -n)", "raise the limit")
        case "device":
            return Failure(cause, f"the disk reports an input/output error{at}", "check the disk")
        case _:
            reason = getattr(error, "strerror", None) or "Permission denied"
            return Failure(cause, f"{reason[:1].lower()}{reason[1:]}{at}", "change the permissions")


def _memory_kind(error: BaseException) -> str:
    return "memory on the accelerator" if re.search(r"CUDA|MPS|XPU|HIP", str(error)) else "memory"


def _allocation(error: BaseException) -> str:
    """Returns the size of the allocation that failed, if the error names it."""
    match = _ALLOCATION.search(str(error))
    if match is None:
        return ""
    return f": {_size(float(match[1]) * _UNITS[match[2][0].lower()])} could not be allocated"


def _space(folders: Iterable[Path]) -> str:
    """Returns the free space of the fullest of some file systems, as part of a sentence."""
    free: dict[Path, int] = {}
    for folder in folders:
        existing = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), None)
        if existing is not None:
            try:
                free[existing] = shutil.disk_usage(existing).free
            except OSError:
                continue
    if not free:
        return ""
    fullest = min(free, key=lambda path: free[path])
    return f" ({_size(free[fullest])} are free in {fullest})"


def _file_size_limit() -> int | None:
    """Returns the limit of ``ulimit -f`` in bytes; None if there is none."""
    if os.name != "posix":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _size(count: float) -> str:
    """Returns a number of bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"
