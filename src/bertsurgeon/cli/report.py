"""``bertsurgeon report``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.reporting import write_report_page


@app.command(runs_models=False)
@guarded
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that a command wrote: a model, an export or a calibration.")],
    as_json: opt.Json = False,
) -> None:
    """Writes report.html into a folder that any command wrote, from the JSON report in it.

    The page is one file that needs no network: light and dark, readable on a phone, printable.
    """
    page = write_report_page(folder)

    def show(console: Console) -> None:
        console.print(f"Wrote {page}", highlight=False, soft_wrap=True)

    emit({"page": str(page)}, as_json, show)
