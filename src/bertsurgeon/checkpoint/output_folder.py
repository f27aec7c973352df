"""Output folders: complete or absent, and replaced only if one of our commands wrote them.

Every folder that a command writes holds a record that lists its files (:mod:`bertsurgeon.checkpoint.folder_record`).
A new folder is written beside the old one and exchanged with it when it is complete; the old one is deleted last.
"""

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from bertsurgeon import distributed, progress
from bertsurgeon.checkpoint.folder_record import (
    RECORD,
    TRAINING_FILES,
    FolderKind,
    foreign_file,
    list_files,
    read_record,
    unlisted_file,
    write_record,
)
from bertsurgeon.errors import CheckpointError

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def check_output(folder: Path, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Checks, before any work is done, that ``folder`` can be written (by the first process, for all of them).

    Args:
        folder: The output folder.
        overwrite: Accept a folder that one of our commands wrote; any other must be empty or absent.
        inputs: Folders and files that are read and must stay: models, data, calibrations. Hub ids are ignored.

    Raises:
        CheckpointError: If the folder may not be replaced, or cannot be written.
    """
    distributed.run_on_main(lambda: _check_output(folder, overwrite, inputs))


@contextmanager
def new_folder(
    folder: Path, overwrite: bool = False, inputs: Sequence[Path] = (), *, kind: FolderKind = "model"
) -> Iterator[Path]:
    """Yields a folder to write into that becomes ``folder`` only if the ``with`` block succeeds.

    If the block fails, or is interrupted, nothing is left behind and an earlier folder stays as it was. A folder that
    cannot be renamed (a mounted one, or the working directory) is written inside, and its entries are moved.

    Args:
        folder: The output folder; a symbolic link is followed.
        overwrite: Replace a folder that one of our commands wrote.
        inputs: See :func:`check_output`.
        kind: What the folder holds, for its record.

    Raises:
        CheckpointError: See :func:`check_output`; also if the disk is full.
    """
    _check_output(folder, overwrite, inputs)
    target = folder.resolve()
    stays = _cannot_be_renamed(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _hidden_folder(target, "new", inside=stays)
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        yield temporary
        write_record(temporary, kind, list_files(temporary))
        temporary.chmod(0o777 & ~_umask())
        _check_output(folder, overwrite, inputs, ignored=temporary)  # files may have come in the meantime
        _flush(temporary)
        if stays:
            _move_entries(temporary, target)
        elif target.exists():
            _exchange(temporary, target)
        else:
            temporary.replace(target)
    except (OSError, SafetensorError) as error:
        raise _not_writable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def new_work_folder(folder: Path, kind: FolderKind = "training", files: Sequence[str] = TRAINING_FILES) -> None:
    """Makes an empty work folder with a record; an earlier one is removed.

    Args:
        folder: The work folder.
        kind: What it holds: ``training`` or ``search``.
        files: Names of what will be kept in it; names of folders end in a slash.

    Raises:
        CheckpointError: See :func:`check_work_folder`.
    """
    check_work_folder(folder, kind=kind)
    try:
        if folder.exists():
            _remove_recorded(folder)
        folder.mkdir(parents=True)
        write_record(folder, kind, files)
    except OSError as error:
        raise _not_writable(folder, error) from error


def check_work_folder(
    folder: Path, keep: bool = False, inputs: Sequence[Path] = (), kind: FolderKind = "training"
) -> None:
    """Checks that a work folder is absent, or may be removed, and can be written.

    Args:
        folder: Where a training keeps its checkpoints, or a search its candidates.
        keep: The work is continued, and its folder not removed.
        inputs: See :func:`check_output`.
        kind: What it holds: ``training`` or ``search``.

    Raises:
        CheckpointError: If it holds something that no such work of ours wrote, or cannot be written.
    """
    _check_place(folder, inputs)
    if folder.is_dir() and not keep:
        record = read_record(folder)
        foreign = next(iter(sorted(list_files(folder))), None) if record is None else unlisted_file(folder, record[1])
        if (record is not None and record[0] != kind) or foreign is not None:
            raise CheckpointError(
                f"The work folder {folder} holds {foreign or RECORD}, which no {kind} of bertsurgeon left there; "
                "choose another output folder, or remove this one yourself."
            )
    _check_writable(folder)


def holds_training(folder: Path) -> bool:
    """Returns whether a work folder holds an unfinished run: a record of ours, or the checkpoints of 0.1.0."""
    return _has_record(folder, "training") or (
        read_record(folder) is None and any(folder.glob("checkpoint-*/trainer_state.json"))
    )


def holds_search(folder: Path) -> bool:
    """Returns whether a work folder is that of a search."""
    return _has_record(folder, "search")


def _has_record(folder: Path, kind: FolderKind) -> bool:
    record = read_record(folder)
    return record is not None and record[0] == kind


def remove_work_folder(folder: Path, only_if_empty: bool = False) -> None:
    """Removes the work folder of a training that is over; anything that training did not write stays, with a note.

    Args:
        folder: The work folder; it may be absent.
        only_if_empty: Keep a folder that holds more than its record.
    """
    record = read_record(folder)
    if not folder.is_dir() or (only_if_empty and list_files(folder) != [RECORD]):
        return
    if record is None or record[0] != "training" or unlisted_file(folder, record[1]) is not None:
        progress.note(f"{folder} is kept, as it holds files that this training did not write.")
        return
    try:
        _remove_recorded(folder)
    except OSError as error:
        progress.note(f"{folder} cannot be removed ({error.strerror}); remove it yourself.")


def _check_output(folder: Path, overwrite: bool, inputs: Sequence[Path], ignored: Path | None = None) -> None:
    _check_place(folder, inputs)
    try:
        _repair(folder.resolve())
        is_empty = not folder.is_dir() or all(entry.resolve() == ignored for entry in folder.iterdir())
        foreign = None if is_empty else foreign_file(folder, ignored)
    except OSError as error:
        raise _not_writable(folder, error) from error
    if not is_empty:
        if foreign is not None:
            raise CheckpointError(
                f"The output folder {folder} is not empty and holds {foreign}, which bertsurgeon did not write; choose "
                "another folder, or remove this one yourself."
            )
        if not overwrite:
            raise CheckpointError(
                f"The output folder {folder} is not empty; choose another one or pass --overwrite (overwrite=True in "
                "Python)."
            )
    _check_writable(folder)


def _check_place(folder: Path, inputs: Sequence[Path]) -> None:
    """Refuses paths that can never be an output folder, whatever they hold."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; choose another output folder.")
    target = folder.resolve()
    if folder.is_dir() and (target in (Path.home(), Path(target.anchor)) or target in Path.cwd().parents):
        raise CheckpointError(f"The output folder {folder} holds more than a model; choose another one.")
    for path in inputs:
        if not path.exists():
            continue
        source = path.resolve()
        is_part = source in target.parents and target.is_dir() and any(target.iterdir()) and not read_record(target)
        if source == target or target in source.parents or is_part:
            raise CheckpointError(
                f"The output folder {folder} would replace the input {path}; choose another output folder."
            )


def _check_writable(folder: Path) -> None:
    target = folder.resolve()
    parents = (path for path in target.parents if path.exists())
    try:
        parent = target if _cannot_be_renamed(target) else next(parents)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{target.name}-"):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or error
    return CheckpointError(f"The output folder {folder} cannot be written: {reason}.")


def _hidden_folder(target: Path, purpose: Literal["new", "old"], inside: bool = False) -> Path:
    parent = target if inside else target.parent
    return Path(tempfile.mkdtemp(dir=parent, prefix=f".{target.name}.bertsurgeon-{purpose}-"))


def _repair(target: Path) -> None:
    """Puts a folder back in its place that a killed process had moved aside and did not replace any more."""
    if target.exists() or target.is_symlink():
        return
    for aside in sorted(target.parent.glob(f"{_escape(f'.{target.name}.bertsurgeon-old-')}*/{_escape(target.name)}")):
        aside.replace(target)
        aside.parent.rmdir()
        return


def _escape(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _exchange(new: Path, target: Path) -> None:
    """Puts a complete folder in the place of another one and deletes that; if it cannot, nothing has changed."""
    if _exchange_atomically(new, target):
        _delete_replaced(new)
        return
    aside = _hidden_folder(target, "old")
    try:
        target.replace(aside / target.name)  # a process that is killed here leaves what _repair puts back
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
    before = [entry for entry in target.iterdir() if entry != new]
    aside = _hidden_folder(target, "old", inside=True)
    moves = [(entry, aside / entry.name) for entry in before]
    moves += [(entry, target / entry.name) for entry in new.iterdir()]
    try:
        for source, destination in moves:
            source.replace(destination)
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


def _remove_recorded(folder: Path) -> None:
    """Removes a work folder; its record goes last, so that a removal that is cut off can be repeated."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != RECORD:
            entry.unlink()
    (folder / RECORD).unlink(missing_ok=True)
    folder.rmdir()


def _flush(folder: Path) -> None:
    """Writes the files of a folder to the disk, before the folder that they replace is deleted."""
    if os.name != "posix":
        return
    for name in (*list_files(folder), "."):
        if (folder / name).is_symlink():
            continue
        descriptor = os.open(folder / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cannot_be_renamed(folder: Path) -> bool:
    """Returns whether a folder can be emptied and filled but not be renamed."""
    return folder.is_dir() and (folder.is_mount() or Path.cwd() == folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
