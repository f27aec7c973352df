"""``bertsurgeon verify``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bertsurgeon import progress
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import BAD_INPUT, app, emit, guarded
from bertsurgeon.workflows.verify import verify as verify_folder


@app.command(runs_models=False)
@guarded
def verify(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder that a command wrote: a model, an export, a calibration, or a compress output."),
    ],
    as_json: opt.Json = False,
) -> None:
    """Checks that a folder is complete and as it was written: its files, every tensor and graph, its configuration.

    Exits with 0 if nothing is wrong, otherwise with 2 and one sentence for each fault. Nothing is computed or changed.
    """
    result = verify_folder(folder)

    def show(console: Console) -> None:
        for note in result.notes:
            console.print(f"Note: {note}", highlight=False, soft_wrap=True)
        if result.is_intact:
            files = "" if result.files is None else f", {result.files:,} files are there"
            console.print(
                f"{folder} is intact ({', '.join(result.holds)}): {result.checked:,} tensors and graphs are as they "
                f"were written{files}.",
                highlight=False,
                soft_wrap=True,
            )

    emit(result.to_dict(), as_json, show)
    for fault in result.faults:
        progress.console.print(f"Error: {fault}", highlight=False, soft_wrap=True, markup=False)
    if not result.is_intact:
        raise typer.Exit(BAD_INPUT)
