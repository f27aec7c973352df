"""The application object, and how errors reach the user: one sentence and an exit code."""

import functools
import inspect
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeAlias, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from bertsurgeon import devices, distributed, progress
from bertsurgeon.checkpoint import holds_training
from bertsurgeon.cli import interrupts
from bertsurgeon.errors import BertSurgeonError, OptionError
from bertsurgeon.storage import EXHAUSTED, Failure, find_failure, private_temporary_files, temporary_root

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Callable[..., Any])

Command: TypeAlias = Callable[..., None]


DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where PyTorch runs: cpu, cuda, cuda:1, mps … Default: the accelerator of this machine if it has one, "
        "else the CPU.",
        show_default=False,
    ),
]

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print no progress and no notes; errors, warnings and results remain.",
        show_default=False,
    ),
]


class _App(typer.Typer):
    """An application whose commands accept ``--quiet`` after their name as well as before it, and ``--device``."""

    def command(self, name: str | None = None, *, runs_models: bool = True, **options: Any) -> Callable[[C], C]:
        """Returns a decorator that registers a command, see typer.

        Args:
            name: Name of the command; None for that of the function.
            runs_models: Whether it runs PyTorch models, and so has the option ``--device``.
            **options: For typer.
        """
        register = super().command(name, **options)

        def decorate(command: C) -> C:
            register(_add_common_options(command, runs_models))
            return command

        return decorate


def _add_common_options(command: Callable[..., None], runs_models: bool) -> Command:
    """Adds the option ``--quiet`` to a command, and ``--device`` if it runs models."""

    @functools.wraps(command)
    def run(*args: Any, quiet: bool = False, device: str | None = None, **kwargs: Any) -> None:
        _be_quiet(quiet)
        _guarded(_choose_device)(device)
        command(*args, **kwargs)

    signature = inspect.signature(command, eval_str=True)
    make = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    added = [make("device", default=None, annotation=DeviceName)] if runs_models else []
    added.append(make("quiet", default=False, annotation=Quiet))
    parameters = [*signature.parameters.values(), *added]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _choose_device(name: str | None) -> None:
    """Sets the device of ``--device``; of several processes, one reports that there is none."""
    if name is not None:
        distributed.init()
    devices.set_default_device(name)


def _be_quiet(quiet: bool) -> None:
    if quiet:
        progress.show(False)


app = _App(
    name="bertsurgeon",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"bertsurgeon {version('bertsurgeon')}")
        raise typer.Exit


@app.callback()
def common(
    quiet: Quiet = False,
    print_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Makes fine-tuned BERT-family encoders smaller and faster, and hands back a model for from_pretrained."""
    _be_quiet(quiet)


output = Console(markup=False, emoji=False)  # file names may look like markup

BAD_INPUT = 2


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turns the library's errors into one sentence on standard error and exit code 2; an interrupt into 130.

    The command runs in a single process; several are refused.
    """

    def single(*args: P.args, **kwargs: P.kwargs) -> R:
        if distributed.launched_world_size() > 1:
            distributed.init()
            name = getattr(command, "__name__", "this command").replace("_", "-")
            raise OptionError(f"'{name}' runs in a single process; start it without torchrun or accelerate launch.")
        return command(*args, **kwargs)

    return _guarded(functools.wraps(command)(single))


def guarded_together(command: Callable[P, R]) -> Callable[P, R]:
    """Turns errors into one sentence, for a command that several processes run together.

    ``torchrun`` or ``accelerate launch`` start the processes; the first one prints.
    """

    def together(*args: P.args, **kwargs: P.kwargs) -> R:
        distributed.init()
        progress.show(progress.is_shown() and distributed.is_main())
        result = command(*args, **kwargs)
        distributed.shutdown()
        return result

    return _guarded(functools.wraps(command)(together))


def _guarded(command: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        interrupts.begin_command()
        before = _modification_times(kwargs)
        try:
            return command(*args, **kwargs)
        except BertSurgeonError as error:
            _print_error(_sentence(error, kwargs))
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            unchanged = _modification_times(kwargs) == before
            outcome = "no output was written" if unchanged else "finished output is kept"
            resume = " Pass --resume to continue the training." if "resume" in kwargs else ""
            _print_last(f"Interrupted; {outcome}.{resume}")
            raise typer.Exit(interrupts.exit_code(error)) from error
        except Exception as error:
            failure = find_failure(error, _written_folders(kwargs))
            if failure is not None:
                _print_error(_describe(failure) + _way_to_resume(kwargs))
                raise typer.Exit(BAD_INPUT) from error
            if distributed.is_first_to_fail():
                raise
            raise typer.Exit(1) from error  # another process failed first, and reports the cause

    return run


def _sentence(error: BertSurgeonError, options: Mapping[str, Any]) -> str:
    """Returns an error's message; if the disk or the memory was exhausted, which many libraries misreport, that."""
    failure = find_failure(error, _written_folders(options))
    if failure is None or failure.cause not in EXHAUSTED:
        return str(error)
    message = str(error) if failure.reason.split(" (")[0] in str(error) else _describe(failure)
    return message + _way_to_resume(options)


def _describe(failure: Failure) -> str:
    return f"{failure.reason[:1].upper()}{failure.reason[1:]}; {failure.remedy}, and run again."


def _way_to_resume(options: Mapping[str, Any]) -> str:
    """Returns how to continue, if an unfinished training is there."""
    output = options.get("output")
    if "resume" not in options or not isinstance(output, Path) or not output.name:
        return ""
    is_unfinished = holds_training(output.with_name(f"{output.name}.training"))
    return " Pass --resume to continue the training." if is_unfinished else ""


def _written_folders(options: Mapping[str, Any]) -> list[Path]:
    """Returns the folders in which a command writes files."""
    output = options.get("output")
    return [*([output] if isinstance(output, Path) else []), temporary_root()]


def _modification_times(options: Mapping[str, Any]) -> dict[Path, int]:
    """Modification times of a command's output folder and of its entries."""
    folder = options.get("output")
    times: dict[Path, int] = {}
    if isinstance(folder, Path):
        for path in (folder, *folder.glob("*")):
            with suppress(OSError):  # it does not exist, or cannot be read
                times[path] = path.stat().st_mtime_ns
    return times


def _print_error(sentence: str) -> None:
    _print_last(Text.assemble(("Error:", "bold red"), f" {sentence}"))


def _print_last(message: str | Text) -> None:
    """Prints the last line of a command, unless another process failed first and reports the cause."""
    if not distributed.is_first_to_fail():
        return
    with suppress(OSError):  # the terminal may be closed
        progress.console.print(message, highlight=False, soft_wrap=True)


def emit(result: dict[str, Any], as_json: bool, show: Callable[[Console], None]) -> None:
    """Prints a command's result, in the first process only.

    Args:
        result: Plain data, printed as JSON if ``as_json`` is set.
        as_json: Print JSON on standard output.
        show: Prints the result for people otherwise.
    """
    if not distributed.is_main():
        return
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        show(output)


def main() -> None:
    """Entry point of the command ``bertsurgeon``."""
    silence_libraries()
    progress.show()
    try:
        with interrupts.handled(), _temporary_files():
            app()
    except interrupts.EndedError as ended:
        with suppress(OSError):
            progress.console.print("Interrupted; nothing was started.", highlight=False)
        if ended.exit_code == interrupts.HUNG_UP:
            interrupts.close_output()
        sys.exit(ended.exit_code)


@contextmanager
def _temporary_files() -> Iterator[None]:
    """Keeps the temporary files of all libraries in one folder, which the next run removes if this one dies."""
    with ExitStack() as stack:
        with suppress(OSError):  # a full or read-only disk: the commands that need it report it
            stack.enter_context(private_temporary_files())
        yield


def silence_libraries() -> None:
    """Turns off the progress bars and messages of other libraries."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch.utils.data")
