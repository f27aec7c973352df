"""Puts a complete new folder or file in the place of another one, so that a process that dies leaves one of them.

What is being written or replaced has a hidden name beside the output, or inside it if the output cannot be renamed.
"""

import ctypes
import errno
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from bertsurgeon import progress
from bertsurgeon.checkpoint.folder_record import LOCK, WORK_FOLDERS, is_hidden, list_files
from bertsurgeon.errors import CheckpointError

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

_MOVES = ".bertsurgeon_moves.json"
"""File in a folder with replaced entries: what was going to be moved, so that the next run can undo it."""


def hidden_path(target: Path, purpose: Literal["new", "old"], inside: bool = False) -> Path:
    """Returns a new hidden path for an output folder, beside it or inside it."""
    parent = target if inside else target.parent
    return parent / f".{target.name}.bertsurgeon-{purpose}-{secrets.token_hex(4)}"


def cannot_be_renamed(folder: Path) -> bool:
    """Returns whether a folder can be emptied and filled but not be renamed."""
    return folder.is_dir() and (folder.is_mount() or Path.cwd() == folder)


def put_in_place(new: Path, target: Path) -> None:
    """Puts a complete folder in the place of another one, if any, and deletes that; if it cannot, nothing has changed.

    Args:
        new: The new folder, beside the other one, or inside it if that cannot be renamed.
        target: The output folder.

    Raises:
        OSError: If it cannot.
        CheckpointError: Naming the folder with the old files, if these could not be moved back.
    """
    if new.parent == target:
        _move_entries(new, target)
    elif target.exists():
        _exchange(new, target)
    else:
        new.replace(target)
    flush(target.parent)


def flush(path: Path) -> None:
    """Writes a file, or the names in a folder, to the disk.

    Raises:
        OSError: If the disk refuses it.
    """
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_files(folder: Path) -> None:
    """Writes the files of a folder to the disk, before what they replace is deleted."""
    for name in (*list_files(folder), "."):
        if not (folder / name).is_symlink():
            flush(folder / name)


def write_file(file: Path, text: str) -> None:
    """Writes a text file completely or not at all, beside the folder that it goes into.

    Raises:
        OSError: If it cannot be written; an earlier file is as it was.
    """
    folder = file.parent.resolve()
    new = hidden_path(folder, "new", inside=cannot_be_renamed(folder))
    try:
        with new.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(file)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def _exchange(new: Path, target: Path) -> None:
    if _exchange_atomically(new, target):
        _delete_replaced(new)
        return
    aside = hidden_path(target, "old")
    aside.mkdir()
    try:
        target.replace(aside / target.name)  # a process that is killed here leaves what put_back puts back
        new.replace(target)
    except BaseException:
        _move_back([(target, aside / target.name)], aside)
        raise
    _delete_replaced(aside)


def _exchange_atomically(first: Path, second: Path) -> bool:
    """Exchanges two folders by Linux's ``renameat2``; returns False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or an old C library
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):  # the file system has no exchange
        return False
    raise OSError(code, os.strerror(code))


def _move_entries(new: Path, target: Path) -> None:
    """Replaces all entries of a folder by those of a folder inside it; if that fails, they are moved back."""
    before = [entry for entry in target.iterdir() if not is_hidden(entry.name, target)]
    aside = hidden_path(target, "old", inside=True)
    aside.mkdir()
    moves = [(entry, aside / entry.name) for entry in before]
    moves += [(entry, target / entry.name) for entry in new.iterdir()]
    try:
        names = [[str(path.relative_to(target)) for path in move] for move in moves]
        (aside / _MOVES).write_text(json.dumps(names), encoding="utf-8")
        flush(aside / _MOVES)
        for source, destination in moves:
            source.replace(destination)
        (aside / _MOVES).unlink()  # from here on, nothing is moved back
    except BaseException:
        _move_back(moves, aside)
        raise
    _delete_replaced(aside)


def _move_back(moves: Sequence[tuple[Path, Path]], aside: Path) -> None:
    """Undoes moves, as far as they were made, the last one first.

    Raises:
        CheckpointError: Naming the folder with the old files, which is kept, if that fails too.
    """
    try:
        for source, destination in reversed(moves):
            if os.path.lexists(destination) and not os.path.lexists(source):
                destination.replace(source)
        (aside / _MOVES).unlink(missing_ok=True)
        aside.rmdir()
    except OSError as error:
        raise CheckpointError(
            f"Replacing a folder failed, and so did undoing it ({error.strerror}); its old files are safe in {aside}, "
            "move them back yourself."
        ) from error


def _delete_replaced(folder: Path) -> None:
    """Deletes what a complete new folder has replaced; if that fails, the user is told where it is."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        progress.note(f"The replaced files in {folder} cannot be removed ({error.strerror}); remove them yourself.")


def remove_leftovers(target: Path) -> None:
    """Removes what runs that were killed left of an output folder; only the holder of its lock may call this.

    Old files that had been moved aside, and whose replacement was not complete, are moved back first.

    Raises:
        CheckpointError: If that fails.
    """
    for folder in (target, *(target.with_name(target.name + end) for end in WORK_FOLDERS)):
        put_back(folder)
        for parent in (folder.parent, folder):
            if not parent.is_dir() or parent.is_symlink():
                continue
            for entry in sorted(parent.iterdir(), reverse=True):  # "old" before "new": moves are undone first
                if is_hidden(entry.name, folder) and not entry.name.endswith(LOCK):
                    if parent == folder:
                        _undo_moves(folder, entry)
                    _remove(entry)


def put_back(target: Path) -> None:
    """Puts a folder back in its place that a killed process had moved aside and did not replace any more."""
    if target.exists() or target.is_symlink() or not target.parent.is_dir():
        return
    for aside in sorted(target.parent.iterdir()):
        if is_hidden(aside.name, target) and (aside / target.name).is_dir() and "-old-" in aside.name:
            (aside / target.name).replace(target)
            aside.rmdir()
            return


def _undo_moves(target: Path, aside: Path) -> None:
    """Undoes the moves of :func:`_move_entries`, unless all of them were made."""
    try:
        names = json.loads((aside / _MOVES).read_text("utf-8"))
        moves = [(target / source, target / moved) for source, moved in names]
    except (OSError, ValueError, TypeError):
        return  # nothing was moved yet, all of it was, or it is a folder that was being written
    if any(len(path.relative_to(target).parts) > 2 or ".." in path.parts for move in moves for path in move):
        return
    if any(source.parent != target and os.path.lexists(source) for source, _ in moves):
        _move_back(moves, aside)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
