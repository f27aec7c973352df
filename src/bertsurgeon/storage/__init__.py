"""Storage that other rooms write to: locks, temporary folders, and what a lack of space or memory is called."""

from bertsurgeon.storage.failures import EXHAUSTED, Failure, find_failure
from bertsurgeon.storage.locks import Lock, LockHeldError, existing_lock, try_lock
from bertsurgeon.storage.temporary import (
    private_temporary_files,
    remove_abandoned,
    remove_tree,
    temporary_folder,
    temporary_root,
)

__all__ = [
    "EXHAUSTED",
    "Failure",
    "Lock",
    "LockHeldError",
    "existing_lock",
    "find_failure",
    "private_temporary_files",
    "remove_abandoned",
    "remove_tree",
    "temporary_folder",
    "temporary_root",
    "try_lock",
]
