"""What a lack of space, memory or permission is called, through whatever library it comes."""

import errno
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bertsurgeon.errors import CheckpointError, DataError, ExportError
from bertsurgeon.storage import find_failure


def raised(error: BaseException, cause: BaseException) -> BaseException:
    """Returns an error as it is when it was raised from another one."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk", "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk", "the disk is full"),
        (OSError("Not enough disk space. Needed: 5 GB"), "disk", "the disk is full"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
            "disk",
            "the disk is full",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota", "quota"),
        (OSError(errno.EFBIG, "File too large"), "file size", "ulimit -f"),
        (MemoryError(), "memory", "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000 bytes."),
            "memory",
            "not enough memory: 4.0 GB could not be allocated",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB"),
            "memory",
            "not enough memory on the accelerator: 21.0 MB",
        ),
        (ImportError("libx.so: failed to map segment from shared object"), "memory", "not enough memory"),
        (OSError(errno.EMFILE, "Too many open files"), "files", "ulimit -n"),
        (OSError(errno.EIO, "Input/output error", "a/b"), "device", "at a/b"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "permission", "permission denied at a/b"),
        (OSError(errno.EROFS, "Read-only file system"), "permission", "read-only file system"),
    ],
)
def test_causes(error: Exception, cause: str, words: str) -> None:
    for given in (error, raised(ExportError("onnxscript is not installed"), error)):
        failure = find_failure(given)
        assert failure is not None
        assert failure.cause == cause
        assert words in failure.reason
        assert failure.remedy
        assert "\n" not in failure.reason + failure.remedy


@pytest.mark.parametrize(
    "error",
    [
        DataError("train.csv: the text 'no space left on device' has no label"),
        ValueError("out of memory is no label"),
        KeyError("permission denied"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.csv"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
    ids=repr,
)
def test_other_errors(error: Exception) -> None:
    """Texts of users may contain the words, and errors with a number have their own meaning."""
    assert find_failure(error) is None
    assert find_failure(raised(CheckpointError("broken"), error)) is None


def test_the_fullest_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {tmp_path: 1_234_567, Path("/"): 9_876_543_210}
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free[path]}))
    failure = find_failure(OSError(errno.ENOSPC, ""), [Path("/"), tmp_path / "absent" / "out"])
    assert failure is not None
    assert failure.reason == f"the disk is full (1.2 MB are free in {tmp_path})"


TENSORS = {"weights": torch.zeros(4096)}


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(bytes(2048)),
        lambda file: torch.save(TENSORS, file),
        lambda file: save_file(TENSORS, file),
    ],
    ids=["python", "torch", "safetensors"],
)
def test_a_real_limit(write: Callable[[Path], Any], tmp_path: Path) -> None:
    """What the libraries raise when a file may not grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(Exception) as error:  # noqa: PT011  # each library has its own
            write(tmp_path / "file")
        failure = find_failure(error.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failure is not None
    assert failure.cause == "file size"
    assert "1.0 kB" in failure.reason


def test_a_real_allocation() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**48)
    failure = find_failure(error.value)
    assert failure is not None
    assert "could not be allocated" in failure.reason
    assert failure.cause == "memory"
