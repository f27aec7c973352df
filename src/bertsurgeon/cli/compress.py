"""``bertsurgeon compress``."""

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.tables import compact_table
from bertsurgeon.compression import CompressConfig
from bertsurgeon.retrieval import RetrievalConfig
from bertsurgeon.runtime import RUNTIME_NAMES
from bertsurgeon.workflows.compress import compress_and_save
from bertsurgeon.workflows.compress import dry_run as plan_only
from bertsurgeon.workflows.hub import check_upload, push_folder
from bertsurgeon.workflows.inputs import DataConfig


@app.command()
@guarded
@opt.expand
def compress(
    *,
    model: opt.Model,
    output: opt.Output,
    data: Annotated[DataConfig, opt.Panel("Data")],
    test_file: Annotated[
        Path | None,
        typer.Option(
            "--test-file",
            help="Texts that the search does not use, on which the chosen model is confirmed; formats as above. "
            "Default: half of the validation data, if it has at least 2,000 texts.",
            rich_help_panel="Data",
        ),
    ] = None,
    config: Annotated[CompressConfig, opt.Panel("Compression")],
    retrieval: Annotated[RetrievalConfig, opt.Panel("Retrieval (--task retrieval)")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan of the search with predictions, and do nothing else.")
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            "--push-to-hub",
            help="Repository USER/NAME on the Hub to upload the output to; as a pull request if it is not yours.",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository on the Hub private.")] = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Finds the fastest model whose loss stays within a bound, and writes it ready to be deployed.

    The dense model, its INT8 export and pruned models are exported and measured in the runtime where they will run. A
    killed search goes on where it was when the same command is run again.
    """
    config = replace(config, seed=seed)
    if dry_run:
        plan = plan_only(model, config, data)
        emit(plan, as_json, lambda console: show_plan(plan, console))
        return
    if push_to_hub is not None:
        check_upload(push_to_hub)
    result = compress_and_save(
        model,
        config,
        data,
        output,
        test_file=test_file,
        retrieval=retrieval,
        overwrite=overwrite,
        command=command_line(),
    )
    report = result.report
    if push_to_hub is not None:
        report = {**report, "pushed": push_folder(output, push_to_hub, private=private)}
    emit(report, as_json, lambda console: show_report(report, output, console))


_FOLDERS = re.compile(r"^(--[\w-]+=|-o)?[/~](?:.*/)?(?=[^/])")
"""The folders of an absolute path, also where it follows its option without a space."""


def command_line() -> str:
    """Returns the command as it was typed, with files by name only: folders may name a person or a machine."""
    return shlex.join(["bertsurgeon", *(_FOLDERS.sub(r"\1", part) for part in sys.argv[1:])])


def show_plan(plan: dict[str, Any], console: Console) -> None:
    """Prints the plan of a search."""
    console.print(f"Plan of the search in {RUNTIME_NAMES[plan['runtime']]}, with predictions:", highlight=False)
    table = compact_table()
    table.add_column("model", no_wrap=True)
    for heading in ("encoder\nweights", "FLOPs", "speed", "memory", "minutes"):
        table.add_column(heading, justify="right")
    for row in plan["candidates"]:
        table.add_row(
            row["name"],
            f"{row['encoder_weights'] / 1e6:.1f} M",
            f"{row['flops'] / 1e9:.2f} G",
            f"{row['speedup']:.1f}x",
            f"{row['memory_bytes'] / 1e6:.0f} MB",
            f"{row['minutes']:.1f}",
        )
    console.print(table)
    total = sum(row["minutes"] for row in plan["candidates"])
    console.print(
        f"Speed is relative to dense in the same precision. About {total:.0f} minutes, and no new model after "
        f"{plan['limit_minutes']:.0f}; the search stops at the first model that exceeds the bound, then narrows it.",
        highlight=False,
    )


def show_report(report: dict[str, Any], folder: Path, console: Console) -> None:
    """Prints the candidates and the verdict."""
    bound = report["bound"]
    metric = bound["metric"]
    table = compact_table()
    table.add_column("")
    table.add_column("model", no_wrap=True)
    for heading in ("speed", "of INT8", "size", metric, "loss", "limit"):
        table.add_column(heading, justify="right")
    table.add_column("bound")
    for row in report["candidates"]:
        marker = "*" if row["name"] == report["chosen"] else ""
        if row["error"] is not None:
            table.add_row(marker, row["name"], "–", "–", "–", "–", "–", "–", "no export")
            continue
        quality = row["quality"]
        value = row["metrics"].get(metric, row["agreement"])
        table.add_row(
            marker,
            row["name"],
            f"{row['speedup']:.2f}x",
            "–" if row["speedup_int8"] is None else f"{row['speedup_int8']:.2f}x",
            f"{row['file_bytes'] / 1e6:.1f} MB",
            f"{value:.1f}",
            f"{quality['loss']:.2f}",
            f"{quality['limit']:.2f}",
            quality["verdict"],
        )
    target = report["target"]
    shape = "your texts" if target["lengths"] == "own texts" else f"{target['batch_size']} × {target['length']} tokens"
    console.print(f"Measured in {RUNTIME_NAMES[target['runtime']]}, {shape}; * is chosen:", highlight=False)
    console.print(table)
    console.print(report["verdict"]["sentence"], highlight=False, soft_wrap=True)
    confirmation = report["confirmation"]
    if confirmation is not None:
        console.print(f"Confirmed on {confirmation['texts']:,} texts that the search did not use.", highlight=False)
    console.print(f"{report['minutes']:.1f} minutes; the search ended because {report['stopped']}.", highlight=False)
    if "pushed" in report:
        console.print(f"Uploaded: {report['pushed']}", highlight=False, soft_wrap=True)
    console.print(f"Saved {folder}: open report.html in it, and read README.md for how to load it.", highlight=False)
