"""Writes docs/cli.md: every command and option, from the configuration classes that the command line is made from.

Run it after an option was added or changed (a test compares the page with the command line):

    python docs/generate_cli.py
"""

from pathlib import Path
from typing import Any

from typer.main import get_command

from bertsurgeon.cli import app

PAGE = Path(__file__).parent / "cli.md"

DATA = "Data"
"""Panel of the options that most commands share; the page lists them once."""

COMMON = {"--help", "--quiet"}
"""Options of every command, which the page names once."""

HEADER = """# The command line

All commands and options, as `bertsurgeon COMMAND --help` prints them; `python docs/generate_cli.py` writes this page.
`bertsurgeon --version` prints the version. Every command accepts `--quiet` (`-q`): no progress and no notes, while
errors, warnings and results remain. Where standard error is no terminal (a log file, CI), a step of more than
5 seconds prints a plain line about every 30 seconds instead of a bar. Bad input ends with one sentence and exit code 2,
an interrupt with 130. Most options are fields of a class of the [Python API](api.md).
"""


def make_page() -> str:
    """Returns the page, in Markdown."""
    data = {
        each.opts[0]: each for command in commands().values() for each in options_of(command) if _panel(each) == DATA
    }
    sections = [_section(name, command, data) for name, command in commands().items()]
    return "\n".join([HEADER, *sections, "## Data", "", *_table("Data", list(data.values()))])


def commands() -> dict[str, Any]:
    """Returns the commands by name, as click objects."""
    group: Any = get_command(app)
    return dict(group.commands)


def options_of(command: Any) -> list[Any]:
    """Returns the options of a command without those that all have."""
    return [each for each in command.params if each.param_type_name == "option" and not COMMON & set(each.opts)]


def _section(name: str, command: Any, data: dict[str, Any]) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    usage = " ".join(["bertsurgeon", name, *(_metavar(each) for each in arguments), "[OPTIONS]"])
    lines = [f"## `{usage}`", "", _paragraphs(command.help or ""), ""]
    for argument in arguments:
        lines += [f"`{_metavar(argument)}`: {getattr(argument, 'help', '') or ''}", ""]
    panels: dict[str, list[Any]] = {}
    for option in options_of(command):
        panels.setdefault(_panel(option), []).append(option)
    for panel, members in panels.items():
        if panel != DATA:
            lines += _table(panel, members)
            continue
        missing = [f"`{flag}`" for flag in data if flag not in {each.opts[0] for each in members}]
        exceptions = f", without {', '.join(missing)}" if missing else ""
        lines += [f"And the [data options](#data){exceptions}.", ""]
    return "\n".join(lines)


def _panel(option: Any) -> str:
    return getattr(option, "rich_help_panel", None) or "General"


def _table(title: str, options: list[Any]) -> list[str]:
    rows = [f"| {_flags(each)} | {_default(each)} | {_cell(each.help or '')} |" for each in options]
    return [f"| {title} | default | |", "|---|---|---|", *rows, ""]


def _metavar(argument: Any) -> str:
    name = (argument.name or "").upper()
    return f"{name} …" if argument.nargs == -1 else name


def _flags(option: Any) -> str:
    return ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))


def _default(option: Any) -> str:
    if option.required:
        return "required"
    default: Any = option.default() if callable(option.default) else option.default
    if default is None or default is False or not option.show_default:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
