"""Locks on files: a process holds one until it releases it or dies, also on file systems that several machines share.

The lock is the kernel's (``flock``), so that the death of its holder releases it; the file names the holder for people.
A file that is there and not locked was left by a process that died, because a release removes it.
"""

import errno
import json
import os
import socket
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

with suppress(ImportError):  # Windows has none
    import fcntl

_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)
"""Errors of file systems without locks."""

_held: set[int] = set()
"""Open files of the locks of this process."""


class LockHeldError(Exception):
    """Another process holds the lock; the message names it, and since when."""


class Lock:
    """A lock that this process holds.

    Attributes:
        file: The file.
        is_abandoned: True if a process that died left the file, so that what it wrote may be there, too.
        is_exclusive: False where the file system has no locks.
    """

    def __init__(self, file: Path, descriptor: int, is_abandoned: bool, is_exclusive: bool) -> None:
        self.file = file
        self.is_abandoned = is_abandoned and is_exclusive
        self.is_exclusive = is_exclusive
        self._descriptor = descriptor
        _held.add(descriptor)

    def release(self, keep_file: bool = False) -> None:
        """Removes the file, then gives up the lock; no one can keep a lock of the removed file.

        Args:
            keep_file: Leave the file, as a process that dies does, so that the next one removes what is left.
        """
        if not keep_file:
            with suppress(OSError):
                self.file.unlink()
        _held.discard(self._descriptor)
        os.close(self._descriptor)


def try_lock(file: Path) -> Lock:
    """Locks a file, which is made if it is absent.

    Args:
        file: The file; its folder must exist.

    Raises:
        LockHeldError: If another process, or another part of this one, holds the lock.
        OSError: If the file cannot be made.
    """
    while True:
        is_new = True
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            is_new = False
            try:
                descriptor = _open_existing(file)
            except FileNotFoundError:  # released in the meantime
                continue
        lock = _lock(file, descriptor, is_new)
        if lock is not None:
            return lock


def existing_lock(file: Path) -> Lock | None:
    """Locks a file that a process left that died; returns None if it is absent, held, or cannot be locked at all."""
    try:
        lock = _lock(file, _open_existing(file), is_new=False)
    except (OSError, LockHeldError):
        return None
    if lock is not None and not lock.is_exclusive:
        _close(lock)
        return None
    return lock


def _close(lock: Lock) -> None:
    _held.discard(lock._descriptor)
    os.close(lock._descriptor)


def _open_existing(file: Path) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_NOFOLLOW)
    except PermissionError:  # another user's: it can be locked, but not be changed
        return os.open(file, os.O_RDONLY | os.O_NOFOLLOW)


def _lock(file: Path, descriptor: int, is_new: bool) -> Lock | None:
    """Locks an open file; returns None if it was removed in the meantime. Without a lock the file is closed."""
    try:
        is_exclusive = _flock(descriptor)
        if not _is_same(file, descriptor):
            os.close(descriptor)
            return None
        with suppress(OSError):  # no space, or another user's file: the lock does not depend on its text
            text = _describe_process().encode()
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise LockHeldError(holder) from None
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(file, descriptor, not is_new, is_exclusive)


def _flock(descriptor: int) -> bool:
    """Locks an open file; returns False where the system has no locks.

    Raises:
        BlockingIOError: If it is locked.
    """
    if "fcntl" not in sys.modules:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def _is_same(file: Path, descriptor: int) -> bool:
    """Returns whether an open file still has its name: a holder that released it has removed it."""
    try:
        return os.path.samestat(os.stat(file, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _describe_process() -> str:
    content = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    return json.dumps(content) + "\n"


def _holder(descriptor: int) -> str:
    """Returns the holder of a lock, from the text in its file."""
    try:
        content = json.loads(os.pread(descriptor, 4096, 0).decode().partition("\n")[0])
        return f"process {int(content['pid'])} on {content['host']!s} since {content['since']!s}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written it yet
        return "another process"


def _close_in_child() -> None:
    """Closes the locks in a forked child, which would otherwise hold them when its parent is dead."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
