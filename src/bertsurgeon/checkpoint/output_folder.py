"""Output folders: complete or absent, and replaced only if one of our commands wrote them.

Every folder that a command writes holds a record that lists its files (:mod:`bertsurgeon.checkpoint.folder_record`).
A new folder is written beside the old one and exchanged with it when it is complete; the old one is deleted last
(:mod:`bertsurgeon.checkpoint.exchange`), all under a lock (:mod:`bertsurgeon.checkpoint.output_lock`).
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from bertsurgeon import distributed, progress
from bertsurgeon.checkpoint.exchange import (
    cannot_be_renamed,
    flush_files,
    hidden_path,
    put_back,
    put_in_place,
    write_file,
)
from bertsurgeon.checkpoint.folder_record import (
    LOCK,
    RECORD,
    TRAINING_FILES,
    FolderKind,
    foreign_file,
    list_files,
    read_record,
    record_text,
    released_kind,
    unlisted_file,
    write_record,
)
from bertsurgeon.checkpoint.output_lock import check_no_run, file_not_writable, lock_outputs, not_writable
from bertsurgeon.errors import BertSurgeonError, CheckpointError
from bertsurgeon.storage import find_failure, remove_tree


def check_output(folder: Path, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Checks, before any work is done, that ``folder`` can be written (by the first process, for all of them).

    Args:
        folder: The output folder.
        overwrite: Accept a folder that one of our commands wrote; any other must be empty or absent.
        inputs: Folders and files that are read and must stay: models, data, calibrations. Hub ids are ignored.

    Raises:
        CheckpointError: If the folder may not be replaced, or cannot be written.
    """

    def check() -> None:
        _check_place(folder, inputs)
        with lock_outputs(folder):
            _check_output(folder, overwrite, inputs)

    distributed.run_on_main(check)


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
    with lock_outputs(folder):
        _check_output(folder, overwrite, inputs)
        target = folder.resolve()
        temporary = hidden_path(target, "new", inside=cannot_be_renamed(target))
        try:
            try:
                temporary.mkdir(parents=True)
                yield temporary
                write_record(temporary, kind, list_files(temporary))
                _apply_umask(temporary)
                _check_output(folder, overwrite, inputs)  # files may have come in the meantime
                flush_files(temporary)
                put_in_place(temporary, target)
            except BertSurgeonError:
                raise
            except Exception as error:
                if isinstance(error, OSError) or find_failure(error) is not None:
                    raise not_writable(folder, error) from error
                raise
        finally:
            remove_tree(temporary)


def _apply_umask(folder: Path) -> None:
    """Gives all files and folders the permissions of new ones; safetensors makes files that only their owner reads."""
    mode = (folder / RECORD).stat().st_mode & 0o666
    for name in list_files(folder):
        file = folder / name
        if file.is_file() and not file.is_symlink() and file.stat().st_mode & 0o777 != mode:
            file.chmod(mode)


def add_recorded_file(folder: Path, name: str, text: str) -> None:
    """Writes a text file into a folder of ours at once, and lists it in the folder's record.

    A folder of 0.1.0, which has no record, is given one; a folder that none of our commands wrote stays without one.

    Args:
        folder: The folder.
        name: Name of the file; it is replaced if it exists.
        text: Its content.

    Raises:
        CheckpointError: If it cannot be written, or another run is writing into the folder; the folder is as it was.
    """
    is_ours = (folder / RECORD).exists() or (bool(list_files(folder)) and foreign_file(folder) is None)
    with lock_outputs(folder) if is_ours else nullcontext():
        had_record, before = (folder / RECORD).exists(), None
        try:
            record = read_record(folder)
            if record is None and is_ours and not had_record:
                record = (released_kind(folder), list_files(folder))
            if record is not None and name not in record[1]:  # first the record: a file that it lists may be absent
                before = record_text(*record)
                write_file(folder / RECORD, record_text(record[0], sorted([*record[1], name])))
            write_file(folder / name, text)
        except OSError as error:
            if before is not None and not (folder / name).exists():
                with suppress(OSError):
                    if had_record:
                        write_file(folder / RECORD, before)
                    else:
                        (folder / RECORD).unlink(missing_ok=True)
            raise file_not_writable(folder / name, error) from error


def new_work_folder(folder: Path, kind: FolderKind = "training", files: Sequence[str] = TRAINING_FILES) -> None:
    """Makes an empty work folder with a record; an earlier one is removed.

    Args:
        folder: The work folder.
        kind: What it holds: ``training`` or ``search``.
        files: Names of what will be kept in it; names of folders end in a slash.

    Raises:
        CheckpointError: See :func:`check_work_folder`.
    """
    with lock_outputs(folder):
        check_work_folder(folder, kind=kind)
        target = folder.resolve()
        new = hidden_path(target, "new")
        try:
            if folder.exists():
                _remove_recorded(folder)
            new.mkdir(parents=True)
            write_record(new, kind, files)
            new.replace(target)
        except OSError as error:
            raise not_writable(folder, error) from error
        finally:
            remove_tree(new)


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
        try:
            record = read_record(folder)
            foreign = unlisted_file(folder, [] if record is None else record[1])
            foreign = RECORD if record is None and (folder / RECORD).exists() else foreign
        except OSError as error:
            raise not_writable(folder, error) from error
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


def _check_output(folder: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    _check_place(folder, inputs)
    try:
        put_back(folder.resolve())
        if folder.is_dir():
            _check_unused(folder, list_files(folder))
        files = list_files(folder) if folder.is_dir() else []
        foreign = foreign_file(folder) if files else None
    except OSError as error:
        raise not_writable(folder, error) from error
    if files:
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


def _check_unused(folder: Path, files: Sequence[str]) -> None:
    """Checks that no run writes into a folder inside an output folder; what one left that died is removed."""
    for name in files:
        if name.endswith(f".{LOCK}") and "/" not in name and name.startswith("."):
            check_no_run(folder / name[1:].removesuffix(f".{LOCK}"))


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
    probe = hidden_path(target, "new", inside=cannot_be_renamed(target))
    try:
        while not probe.parent.exists():
            probe = probe.parent.with_name(probe.name)
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise not_writable(folder, error) from error


def _remove_recorded(folder: Path) -> None:
    """Removes a work folder; its record goes last, so that a removal that is cut off can be repeated."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != RECORD:
            entry.unlink()
    (folder / RECORD).unlink(missing_ok=True)
    folder.rmdir()
