"""Does a command that writes keep the old folder, and say why in one sentence, whatever the disk refuses?

    python drills/anomalies.py

The n-th ``open``, ``mkdir``, ``rename``, exchange of two folders (``renameat2``) and ``fsync`` of a command below its
own folders fails, with no space (ENOSPC), an input/output error (EIO) or a missing permission (EACCES), for n = 1, 2,
3 … until the run succeeds. Then
files may grow to 512, 1024, 2048 … bytes only (``ulimit -f``), which reaches the writes of C++ and Rust as well. After
each run the output must be the old folder or the new one, nothing else may be left, and the error is one sentence.
"""

import errno
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
from bertsurgeon.checkpoint import exchange

ERRORS = ("ENOSPC", "EIO", "EACCES")
CALLS = ("open", "mkdir", "rename", "exchange", "fsync")
SMALLEST, MAX_BYTES = 2**9, 2**22
"""Limits on file sizes; the first one lets the error be printed into a file."""

_EVENTS = {"open": "open", "os.mkdir": "mkdir", "os.rename": "rename"}


class Fault:
    """Makes the n-th call of one kind fail; the counter and the place are those of one process.

    Args:
        call: ``open``, ``mkdir``, ``rename``, ``exchange`` or ``fsync``.
        number: Which call fails, from 1; 0 for none.
        error: Name of the error.
        folder: Only calls below this folder count.
    """

    def __init__(self, call: str, number: int, error: str, folder: Path) -> None:
        self.call, self.number, self.folder = call, number, str(folder.resolve()) + os.sep
        self.error = getattr(errno, error)
        self.count = 0
        self.is_active = True
        self._fsync, self._exchange = os.fsync, exchange._exchange_atomically

    def install(self) -> None:
        """Installs the fault; an audit hook sees what C code of Python does, too, and stays for the process."""
        sys.addaudithook(self._audit)
        os.fsync = self._fail_fsync  # type: ignore[assignment]
        exchange._exchange_atomically = self._fail_exchange  # no audit hook sees a call through ctypes

    def remove(self) -> None:
        """Makes all calls succeed again."""
        self.is_active = False
        os.fsync, exchange._exchange_atomically = self._fsync, self._exchange

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_active and _EVENTS.get(event) == self.call and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(self.folder):
                self._hit(path)

    def _fail_fsync(self, descriptor: int) -> None:
        if self.call == "fsync":
            self._hit(None)
        self._fsync(descriptor)

    def _fail_exchange(self, first: Path, second: Path) -> bool:
        if self.call == "exchange":
            self._hit(str(second))
        return self._exchange(first, second)

    def _hit(self, path: str | None) -> None:
        self.count += 1
        if self.count == self.number:
            raise OSError(self.error, os.strerror(self.error), path)


def limit_files(count: int) -> None:
    """Lets no file grow beyond a number of bytes, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def judge(folder: Path, command: str, ended: bench.Ended, old: dict[str, str] | None, new: dict[str, Any]) -> list[str]:
    """Returns what is wrong after a run; an empty list if nothing is.

    Args:
        folder: The working directory of the drill.
        command: The command.
        ended: How it ended.
        old: Hashes of the old output; None if there was none.
        new: What a complete new output has in common with every other one.
    """
    out = folder / "place" / "out"
    if ended.code == 0:
        faults = [] if bench.stable(out) == new else ["success, but the output is not the new folder"]
    else:
        faults = [] if ended.code == 2 else [f"exit code {ended.code}"]
        if bench.exact(out) != old:
            try:
                is_new = bench.stable(out) == new
            except ValueError:
                is_new = False
            faults += [] if is_new else ["neither the old folder nor the new one"]
        if not one_sentence(ended.text):
            faults.append(f"no sentence: {ended.text[-600:]}")
    work = "out.training" if command in bench.RESUMABLE else "out.search"
    faults += [f"left {name}" for name in bench.leftovers(folder, command) if name != work]
    return faults


def one_sentence(text: str) -> bool:
    """Returns whether a command ended with one error in words, and no traceback."""
    errors = re.findall(r"^Error: \S.*", text, re.MULTILINE)
    return len(errors) == 1 and "Traceback" not in text and "Exception ignored" not in text


def loop(folder: Path, command: str, kind: str, error: str, step: int, limit: int) -> dict[str, Any]:
    """Runs a command with the n-th call failing, until it succeeds without a failure.

    Args:
        folder: The working directory.
        command: The command.
        kind: The call that fails, or ``size`` for a limit on file sizes.
        error: Name of the error.
        step: Every ``step``-th n is tried.
        limit: Largest number of runs.

    Returns:
        The number of runs, how many of them ended in an error, and the faults.
    """
    old = bench.make_old_output(folder, command)
    bench.clear(folder, old if command in bench.IN_PLACE else None)
    bench.complete(folder, bench.arguments_of(command))
    new = bench.stable(folder / "place" / "out")
    assert new is not None
    old_files = bench.exact(old)
    number = SMALLEST if kind == "size" else 1
    runs, errors, faults = 0, 0, list[str]()
    while runs < limit:
        bench.clear(folder, old)
        before = _before(kind, number, error, folder)
        overwrite = () if command in bench.IN_PLACE else ("--overwrite",)
        ended = bench.run(folder, bench.arguments_of(command, *overwrite), before=before)
        runs += 1
        errors += ended.code != 0
        faults += [f"{number}: {fault}" for fault in judge(folder, command, ended, old_files, new)]
        is_hit = (folder / "hit").exists()
        if ended.code == 0 and (number > MAX_BYTES if kind == "size" else not is_hit):
            break
        number = number * 2 if kind == "size" else number + step
    return {"runs": runs, "errors": errors, "faults": faults}


def _before(kind: str, number: int, error: str, folder: Path) -> Callable[[], None]:
    (folder / "hit").unlink(missing_ok=True)

    def install() -> None:
        if kind == "size":
            limit_files(number)
            return
        fault = Fault(kind, number, error, folder)
        hit = fault._hit

        def note(path: str | None) -> None:
            if path is not None and path.endswith(("/log", "/hit")):
                return
            try:
                hit(path)
            except OSError:
                fault.is_active = False
                os.close(os.open(folder / "hit", os.O_CREAT | os.O_WRONLY))
                raise

        fault._hit = note  # type: ignore[method-assign]
        fault.install()

    return install


def main() -> None:
    parser = bench.make_parser(__doc__)
    parser.add_argument("--step", type=int, default=1, help="every n-th call is made to fail")
    parser.add_argument("--limit", type=int, default=1000, help="largest number of runs per call and error")
    arguments = parser.parse_args()
    bench.warm_up()
    store = bench.open_store("anomalies", arguments)
    folder = arguments.folder.resolve() / "anomalies"
    bench.prepare(folder)
    faults = 0
    for command in arguments.commands.split(","):
        for kind, error in [("size", "EFBIG"), *((call, error) for call in CALLS for error in ERRORS)]:
            result = store.run(
                f"{command}-{kind}-{error}",
                lambda command=command, kind=kind, error=error: loop(
                    folder, command, kind, error, arguments.step, arguments.limit
                ),
                {"command": command, "call": kind, "error": error, "step": arguments.step},
            )
            faults += len(result["faults"])
    if faults:
        sys.exit(f"{faults} runs broke a promise; see {store.path.relative_to(bench.ROOT)}.")


if __name__ == "__main__":
    main()
