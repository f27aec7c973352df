"""Temporary folders with an owner: what a killed process left is removed by the next one.

Each folder ``bertsurgeon-XXXXXXXX`` has a locked file ``.bertsurgeon-XXXXXXXX.lock`` beside it as long as its process
lives. A folder whose lock can be taken has no owner.
"""

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bertsurgeon.storage.locks import LockHeldError, existing_lock, try_lock

_LOCK = re.compile(r"\.(bertsurgeon-[0-9a-f]{8})\.lock")

_root: Path | None = None  # the system's folder, while that of temporary files is ours


def temporary_root() -> Path:
    """Returns the folder of temporary files that the user or the system has chosen (``TMPDIR``)."""
    return _root or Path(tempfile.gettempdir())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Makes a folder for the ``with`` block.

    Raises:
        OSError: If it cannot be made.
    """
    root = Path(tempfile.gettempdir())
    while True:
        name = f"bertsurgeon-{secrets.token_hex(4)}"
        try:
            lock = try_lock(root / f".{name}.lock")
            break
        except LockHeldError:  # a process that looks for abandoned folders was faster
            continue
    folder = root / name
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        lock.release(keep_file=not remove_tree(folder))


def remove_tree(folder: Path) -> bool:
    """Removes a folder, in a second attempt if the first one fails; returns whether it is removed."""
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return True
    return False


@contextmanager
def private_temporary_files() -> Iterator[None]:
    """Puts all temporary files of this process into one temporary folder, those of other libraries included."""
    global _root
    remove_abandoned()
    root, variable = tempfile.gettempdir(), os.environ.get("TMPDIR")
    with temporary_folder() as folder:
        _root, tempfile.tempdir, os.environ["TMPDIR"] = Path(root), str(folder), str(folder)
        try:
            yield
        finally:
            _root, tempfile.tempdir = None, root
            if variable is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = variable


def remove_abandoned() -> None:
    """Removes the temporary folders of processes that died."""
    root = temporary_root()
    with suppress(OSError):
        for entry in list(os.scandir(root)):
            match = _LOCK.fullmatch(entry.name)
            if match is None or entry.is_symlink() or not _is_mine(entry):
                continue
            lock = existing_lock(root / entry.name)
            if lock is not None:
                lock.release(keep_file=not remove_tree(root / match[1]))


def _is_mine(entry: "os.DirEntry[str]") -> bool:
    return not hasattr(os, "getuid") or entry.stat(follow_symlinks=False).st_uid == os.getuid()
