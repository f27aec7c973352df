"""The start of the command: the version at once, a message while the imports last, and ``--quiet``."""

import io
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

import bertsurgeon_command
from bertsurgeon import progress
from bertsurgeon.cli.app import _App, app, common


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_the_version_needs_no_torch() -> None:
    program = """
import sys
import bertsurgeon_command
sys.argv = ["bertsurgeon", "--version"]
bertsurgeon_command.main()
assert not {"torch", "transformers", "bertsurgeon"} & set(sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    expected = f"bertsurgeon {version('bertsurgeon')}\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, expected, "")
    assert CliRunner().invoke(app, ["--version"]).stdout == expected


@pytest.mark.parametrize(
    ("arguments", "in_terminal", "in_log"),
    [
        ("prune model", "bertsurgeon: loading …", "bertsurgeon: loading …\n"),
        ("prune --help", "bertsurgeon: loading …", ""),
        ("prune model -q", "", ""),
        ("--quiet prune model", "", ""),
        ("", "", ""),
    ],
)
def test_the_first_message(arguments: str, in_terminal: str, in_log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for stream, message in ((Terminal(), in_terminal), (io.StringIO(), in_log)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert bertsurgeon_command._loading(arguments.split()) == message
    monkeypatch.setenv("RANK", "1")
    assert bertsurgeon_command._loading(arguments.split()) == ""


@pytest.mark.parametrize("arguments", [["-q", "speak"], ["speak", "--quiet"], ["speak"]])
def test_quiet_before_and_after_the_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    small = _App()
    small.callback()(common)

    @small.command()
    def speak() -> None:
        progress.note("a note")
        progress.warn("a warning")
        typer.echo("a result")

    progress.show()
    try:
        result = CliRunner().invoke(small, arguments)
    finally:
        progress.show(False)
    assert result.stdout == "a result\n"
    assert result.stderr.splitlines() == (["a note", "a warning"] if arguments == ["speak"] else [])


def test_every_command_accepts_quiet() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert any("--quiet" in each.opts for each in command.params), name
