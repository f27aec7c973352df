"""Output folders that are there completely or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from bertsurgeon import distributed
from bertsurgeon.errors import CheckpointError


def check_output(folder: Path, overwrite: bool) -> None:
    """Checks, before any work is done, that ``folder`` can be written (by the first process, for all of them).

    Raises:
        CheckpointError: If it exists and ``overwrite`` is not set, or cannot be written.
    """
    distributed.run_on_main(lambda: _check_output(folder, overwrite))


def _check_output(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; choose another output folder.")
    place = folder.resolve()
    if folder.is_dir() and (place in (Path.home(), Path(place.anchor)) or place in Path.cwd().parents):
        raise CheckpointError(f"The output folder {folder} holds more than a model; choose another one.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise CheckpointError(f"The output folder {folder} is not empty; choose another one or pass --overwrite.")
    try:
        parent = folder if _stays(folder) else next(path for path in folder.absolute().parents if path.exists())
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}-"):
            pass
    except OSError as error:
        raise CheckpointError(f"The output folder {folder} cannot be written: {error.strerror}.") from error


@contextmanager
def new_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into that becomes ``folder`` only if the ``with`` block succeeds.

    Whatever goes wrong inside, an interrupt included, nothing is left behind and an earlier folder stays as it was.
    What cannot be renamed, a mounted folder or the working directory, is written inside, and its entries are moved.

    Raises:
        CheckpointError: See :func:`check_output`; also if the disk is full.
    """
    check_output(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder if _stays(folder) else folder.parent
    temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".{folder.name}-"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if place == folder:
            _move_entries(temporary, folder)
        elif folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
            try:
                folder.replace(old / folder.name)
                try:
                    temporary.replace(folder)
                except BaseException:
                    (old / folder.name).replace(folder)
                    raise
            finally:
                shutil.rmtree(old)
        else:
            temporary.replace(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _stays(folder: Path) -> bool:
    """Whether a folder can be emptied and filled but not be renamed."""
    return folder.is_dir() and (folder.is_mount() or Path.cwd() == folder.resolve())


def _move_entries(new: Path, folder: Path) -> None:
    """Replaces all entries of a folder by those of a folder inside it; if that fails, they come back."""
    old = Path(tempfile.mkdtemp(dir=folder, prefix=f".{folder.name}-old-"))
    before = [entry for entry in folder.iterdir() if entry not in (new, old)]
    moves = [(entry, old / entry.name) for entry in before]
    moves += [(entry, folder / entry.name) for entry in new.iterdir()]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            source.replace(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.replace(source)
        raise
    finally:
        shutil.rmtree(old)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
