"""Signals that end a command: quietly, and with what was begun removed.

While the command line is read nothing has been started, and an interrupt ends the process there. A running command gets
a ``KeyboardInterrupt``, as Python's default is. The end of a terminal (SIGHUP) and SIGTERM do the same as Ctrl-C; with
``nohup``, SIGHUP stays ignored.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
HUNG_UP = 129

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

_is_reading = False  # the command line is being read


class HangUpError(KeyboardInterrupt):
    """The terminal was closed."""


class EndedError(BaseException):
    """The process was interrupted before a command began; no library catches it by mistake.

    Attributes:
        exit_code: Exit code of the process.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


@contextmanager
def handled() -> Iterator[None]:
    """Handles the signals in the ``with`` block, which reads the command line and runs a command.

    Raises:
        EndedError: If an interrupt came before a command began.
    """
    global _is_reading
    _is_reading = True
    for number in _signals():
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in _signals():
            signal.signal(number, signal.SIG_DFL)  # the rest is Python's shutdown, which an interrupt may cut off


def begin_command() -> None:
    """Makes interrupts raise ``KeyboardInterrupt`` from here on."""
    global _is_reading
    _is_reading = False


def exit_code(error: KeyboardInterrupt) -> int:
    """Returns the exit code of an interrupted command; after a hang-up nothing can be printed."""
    if not isinstance(error, HangUpError):
        return INTERRUPTED
    close_output()
    return HUNG_UP


def close_output() -> None:
    """Discards all further output: the terminal is closed, and Python would fail to write to it at its end."""
    with suppress(OSError, ValueError):
        sink = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                os.dup2(sink, stream.fileno())


def _signals() -> list[signal.Signals]:
    """Returns the signals of this system that are not ignored, as they are in the background or with ``nohup``."""
    available = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    return [number for number in available if signal.getsignal(number) is not signal.SIG_IGN]


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    hung_up = number == getattr(signal, "SIGHUP", None)
    if _is_reading:
        raise EndedError(HUNG_UP if hung_up else INTERRUPTED)
    raise HangUpError if hung_up else KeyboardInterrupt
