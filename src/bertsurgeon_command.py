"""The command ``bertsurgeon``, outside the package: importing that takes seconds, and may be interrupted."""

import os
import signal
import sys
from contextlib import suppress
from importlib.metadata import version
from typing import NoReturn

INTERRUPTED = 130
HUNG_UP = 129
SILENT = {"-q", "--quiet"}
HELP = {"-h", "--help"}
LOADING = "bertsurgeon: loading …"
ERASE = "\r\033[K"
"""Return to the start of a terminal's line, and erase it."""


def main() -> None:
    """Imports the command line, which an interrupt ends with one line, and runs it; prints the version at once."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"bertsurgeon {version('bertsurgeon')}")
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    message = _loading(arguments)
    _write(message)
    from bertsurgeon.cli import main as run

    if message == LOADING:
        _write(ERASE)
    run()  # with its own handlers


def _loading(arguments: list[str]) -> str:
    """The message that stands while the imports last: erased from a terminal, one line of a log."""
    if not arguments or SILENT & set(arguments) or os.environ.get("RANK", "0") != "0":
        return ""
    if _is_terminal():
        return LOADING
    return "" if HELP & set(arguments) else f"{LOADING}\n"


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _write(text: str) -> None:
    """Writes to standard error, whose encoding may lack a character."""
    if text and sys.stderr is not None:
        encoding = sys.stderr.encoding or "utf-8"
        sys.stderr.write(text.encode(encoding, "replace").decode(encoding))
        sys.stderr.flush()


def _stop(number: int, _: object) -> NoReturn:
    """Ends the process at once: an exception in the middle of an import may be swallowed, or leave a traceback."""
    erase = ERASE if _is_terminal() else ""
    with suppress(OSError):  # the terminal may be closed
        os.write(2, f"{erase}Interrupted; nothing was started.\n".encode())
    os._exit(HUNG_UP if number == getattr(signal, "SIGHUP", None) else INTERRUPTED)
