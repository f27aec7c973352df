"""The command ``bertsurgeon``, outside the package: importing that takes seconds, and may be interrupted."""

import os
import signal
from typing import NoReturn

INTERRUPTED = 130


def main() -> None:
    """Imports the command line, which an interrupt ends with one line, and runs it."""
    handles_interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handles_interrupts:
        signal.signal(signal.SIGINT, _stop)
    from bertsurgeon.cli import main as run

    if handles_interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _stop(*_: object) -> NoReturn:
    """Ends the process at once: an exception in the middle of an import may be swallowed, or leave a traceback."""
    os.write(2, b"Interrupted; nothing was started.\n")
    os._exit(INTERRUPTED)
