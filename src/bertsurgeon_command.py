"""The command ``bertsurgeon``, outside the package: importing that takes seconds, and may be interrupted."""

import os
import signal
import sys
from importlib.metadata import version
from typing import NoReturn

INTERRUPTED = 130
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
    handles_interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handles_interrupts:
        signal.signal(signal.SIGINT, _stop)
    message = _loading(arguments)
    _write(message)
    from bertsurgeon.cli import main as run

    if message == LOADING:
        _write(ERASE)
    if handles_interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


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


def _stop(*_: object) -> NoReturn:
    """Ends the process at once: an exception in the middle of an import may be swallowed, or leave a traceback."""
    erase = ERASE if _is_terminal() else ""
    os.write(2, f"{erase}Interrupted; nothing was started.\n".encode())
    os._exit(INTERRUPTED)
