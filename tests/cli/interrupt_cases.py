"""Signals: a running command cleans up, and before that the process ends; quietly in both cases."""

import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from bertsurgeon.checkpoint import new_folder
from bertsurgeon.cli import interrupts, main
from bertsurgeon.cli.app import _App, guarded


def in_child(program: Callable[[], None], folder: Path, terminal: bool = False) -> tuple[int, str]:
    """Runs a function in a forked process; returns its exit code and what it printed.

    Args:
        program: The function.
        folder: Where it runs and its output is kept.
        terminal: Its output is a terminal, which is closed when the process has begun.
    """
    read, write = pty.openpty() if terminal else os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            os.dup2(write, 1)
            os.dup2(write, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.default_int_handler)
            program()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            os._exit(code)
    os.close(write)
    if terminal:
        os.close(read)
    text = b"" if terminal else b"".join(iter(lambda: os.read(read, 65536), b""))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text.decode()


def command_that(sends: signal.Signals, when: str) -> Callable[[], None]:
    """Returns a program with one command, which is sent a signal while it runs or while its options are read."""

    def run() -> None:
        small = _App()

        def read(value: str) -> str:
            if when == "reading":
                os.kill(os.getpid(), sends)
            return value

        @small.command()
        @guarded
        def write(output: Path = typer.Option(Path("out"), callback=read)) -> None:  # noqa: B008
            with new_folder(output) as folder:
                (folder / "half").touch()
                os.kill(os.getpid(), sends)

        module = sys.modules["bertsurgeon.cli.app"]
        module.app = small  # type: ignore[attr-defined]
        sys.argv = ["bertsurgeon"]
        main()

    return run


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["reading", "running"])
def test_signals(when: str, sent: signal.Signals, tmp_path: Path) -> None:
    code, text = in_child(command_that(sent, when), tmp_path)
    assert code == (129 if sent == signal.SIGHUP else 130)
    expected = "Interrupted; nothing was started.\n" if when == "reading" else "Interrupted; no output was written.\n"
    assert text == expected
    assert list(tmp_path.iterdir()) == []


def test_a_closed_terminal(tmp_path: Path) -> None:
    """Nothing can be printed any more, and nothing is left."""
    code, _ = in_child(command_that(signal.SIGHUP, "running"), tmp_path, terminal=True)
    assert code == 129
    assert list(tmp_path.iterdir()) == []


def test_nohup(tmp_path: Path) -> None:
    """A signal that is ignored stays ignored."""

    def program() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with interrupts.handled():
            os.kill(os.getpid(), signal.SIGHUP)
            os.write(1, b"alive\n")

    assert in_child(program, tmp_path) == (0, "alive\n")
