"""One run at a time for every output folder, and the removal of what a killed run left beside it.

The lock is a hidden file beside the output folder, ``.OUT.bertsurgeon-lock``, which also covers the work folders
``OUT.training`` and ``OUT.search``; so processes on several machines that share the disk see it, too. It is removed
with the lock. Whatever is named ``.OUT.bertsurgeon-new-XXXXXXXX`` or ``…-old-XXXXXXXX`` was made under the lock, so its
maker is dead when another process holds the lock.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from bertsurgeon import distributed, progress
from bertsurgeon.checkpoint.exchange import cannot_be_renamed, remove_leftovers
from bertsurgeon.checkpoint.folder_record import LOCK, WORK_FOLDERS
from bertsurgeon.errors import CheckpointError
from bertsurgeon.storage import Lock, LockHeldError, find_failure, try_lock

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class _Held:
    """A lock of this process; ``parents`` are the folders that were made for it."""

    lock: Lock
    parents: list[Path]
    thread: int
    count: int = 1


_held: dict[Path, _Held] = {}
_changing = threading.RLock()


@contextmanager
def lock_outputs(*folders: Path) -> Iterator[None]:
    """Keeps other runs out of output folders and their work folders during the ``with`` block.

    What a killed run left beside them is removed first. Of several processes the first one holds the locks. A function
    that is called inside the block may lock the same folders again.

    Raises:
        CheckpointError: If another run holds one of them, or the file of the lock cannot be made.
    """
    with ExitStack() as stack:
        for folder in folders:
            distributed.run_on_main(functools.partial(_acquire, folder))
            stack.callback(_release_on_main, folder)
        yield


def locks_output(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function hold the lock of the folder that its argument ``output`` names, see :func:`lock_outputs`."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        output: Any = signature.bind(*args, **kwargs).arguments["output"]
        with lock_outputs(Path(getattr(output, "folder", output))):
            return function(*args, **kwargs)

    return run


def check_no_run(folder: Path) -> None:
    """Checks that no run writes an output folder which has a lock file; what one left that died is removed.

    Raises:
        CheckpointError: If one does.
    """
    target = _lock_key(folder)
    with _changing:
        if target in _held:
            raise _in_use(folder, "this process")
        try:
            lock = try_lock(_lock_file(target))
        except LockHeldError as error:
            raise _in_use(folder, str(error)) from None
        try:
            remove_leftovers(target)
        finally:
            lock.release()


def not_writable(folder: Path, error: Exception) -> CheckpointError:
    """Returns the error for a folder that cannot be written, with the cause and the way out."""
    failure = find_failure(error, [folder.parent])
    if failure is not None:
        return CheckpointError(
            f"The output folder {folder} cannot be written: {failure.reason}; {failure.remedy}, or choose another "
            "folder."
        )
    reason = getattr(error, "strerror", None) or error
    return CheckpointError(f"The output folder {folder} cannot be written: {reason}.")


def file_not_writable(file: Path, error: Exception) -> CheckpointError:
    """Returns the error for a file that cannot be written, with the cause and the way out."""
    failure = find_failure(error, [file.parent])
    if failure is not None:
        return CheckpointError(f"{file} cannot be written: {failure.reason}; {failure.remedy}, and run again.")
    return CheckpointError(f"{file} cannot be written: {getattr(error, 'strerror', None) or error}.")


def _lock_key(folder: Path) -> Path:
    """Returns the output folder that a folder is, or is the work folder of."""
    target = folder.resolve()
    for end in WORK_FOLDERS:
        name = target.name.removesuffix(end)
        if name and name != target.name:
            return target.with_name(name)
    return target


def _lock_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.{LOCK}")


def _acquire(folder: Path) -> None:
    target = _lock_key(folder)
    if not target.name or (folder.exists() and not folder.is_dir()):
        return  # the checks of the output folder refuse it
    with _changing:
        held = _held.get(target)
        if held is not None:
            if held.thread != threading.get_ident():
                raise _in_use(folder, "another thread of this process")
            held.count += 1
            return
        if _is_below_held(target):
            return
        parents: list[Path] = []
        try:
            lock = _try_lock(folder, target, parents)
            if not lock.is_exclusive:
                progress.note_once(
                    f"The disk of {target.parent} has no locks; do not start a second run with the same output folder."
                )
        except LockHeldError as error:
            _remove_empty(parents)
            raise _in_use(folder, str(error)) from None
        except OSError as error:
            _remove_empty(parents)
            raise not_writable(folder, error) from error
        _held[target] = _Held(lock, parents, threading.get_ident())
        if lock.is_abandoned:
            remove_leftovers(target)


def _is_below_held(target: Path) -> bool:
    """Returns whether a folder is inside one that this thread has locked, or inside its work folder."""
    thread = threading.get_ident()
    return any(held.thread == thread and _contains(key, target) for key, held in _held.items())


def _contains(key: Path, target: Path) -> bool:
    return any(key.with_name(key.name + end) in target.parents for end in ("", *WORK_FOLDERS))


def _try_lock(folder: Path, target: Path, parents: list[Path]) -> Lock:
    """Locks the file beside an output folder; inside it, if it is mounted and the folder above cannot be written.

    Args:
        folder: The output folder, as it was named.
        target: The folder whose lock it is.
        parents: Is given the folders that were made.
    """
    for attempt in range(100):
        try:
            missing = [path for path in target.parents if not path.exists()]
            for path in reversed(missing):
                with suppress(FileExistsError):
                    path.mkdir()
                    parents.append(path)
            try:
                return try_lock(_lock_file(target))
            except PermissionError:
                if not cannot_be_renamed(target):
                    raise
                return try_lock(target / f".{target.name}.{LOCK}")
        except FileNotFoundError:  # another run has just removed the folders that it had made
            if attempt == 99:
                raise
    raise AssertionError


def _in_use(folder: Path, holder: str) -> CheckpointError:
    return CheckpointError(
        f"The output folder {folder} is in use by {holder}; wait until it has ended, or choose another output folder."
    )


def _release_on_main(folder: Path) -> None:
    if not distributed.is_main():
        return
    with _changing:
        target = _lock_key(folder)
        held = _held.get(target)
        if held is None or held.thread != threading.get_ident():
            return
        held.count -= 1
        if held.count == 0:
            del _held[target]
            held.lock.release()
            _remove_empty(held.parents)


def _remove_empty(folders: list[Path]) -> None:
    for folder in reversed(folders):
        with suppress(OSError):  # it holds the output by now
            folder.rmdir()
