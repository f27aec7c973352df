"""The application object, and how errors reach the user: one sentence and an exit code."""

import errno
import functools
import json
import logging
import signal
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from bertsurgeon import progress
from bertsurgeon.errors import BertSurgeonError

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="bertsurgeon",
    help="Makes fine-tuned BERT-family encoders smaller and faster, and hands back a model for from_pretrained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
output = Console()

BAD_INPUT = 2
INTERRUPTED = 130


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turns the library's errors into one sentence on standard error and exit code 2; an interrupt into 130."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BertSurgeonError as error:
            progress.console.print(f"[bold red]Error:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            progress.console.print(
                "Interrupted; no output was written. Training goes on where it stopped with --resume.", highlight=False
            )
            raise typer.Exit(INTERRUPTED) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            progress.console.print("[bold red]Error:[/] The disk is full; free some space and run again.")
            raise typer.Exit(BAD_INPUT) from error

    return run


def emit(result: dict[str, Any], as_json: bool, show: Callable[[Console], None]) -> None:
    """Prints a command's result: JSON on standard output, or whatever ``show`` prints."""
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        show(output)


def main() -> None:
    """Entry point of the command ``bertsurgeon``."""
    quieten_libraries()
    progress.show()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like an interrupt
    app()


def quieten_libraries() -> None:
    """Leaves the screen to our own progress bars and messages."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch.utils.data")


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
