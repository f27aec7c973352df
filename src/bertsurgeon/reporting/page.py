"""Renders reports as self-contained HTML pages, and writes them beside what they describe."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertsurgeon.checkpoint import add_recorded_file
from bertsurgeon.errors import CheckpointError
from bertsurgeon.reporting.command_pages import Plan, make_page
from bertsurgeon.reporting.reading import check_report, read_report
from bertsurgeon.reporting.structure import read_plan

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT_PAGE = "report.html"
"""Name of the page in a folder."""

_GENERATOR = '<meta name="generator" content="bertsurgeon">'
"""Mark of our pages, by which a user's file of the same name is recognized."""


def render(report: Mapping[str, Any], plan: Plan | None = None) -> str:
    """Renders a report as one HTML page, which needs no other file and no network.

    Args:
        report: Content of a report that a command wrote; ``docs/report.md`` documents that of ``compress``.
        plan: Rows of the model's plan (:func:`plan_rows`), for reports that hold none.

    Returns:
        The page. The same report gives the same bytes.

    Raises:
        CheckpointError: If it is no report, of another version, or lacks something.
    """
    kind, checked = check_report(dict(report))
    page = make_page(kind, checked, plan)
    return environment().get_template("page.html.jinja").render(page=page, generator=_GENERATOR)


def write_report_page(folder: str | Path) -> Path:
    """Writes ``report.html`` into a folder that a command wrote, from the JSON report in it.

    The page is added to the folder's record, so that ``--overwrite`` still replaces the folder.

    Args:
        folder: A folder with a model, an export or a calibration.

    Returns:
        The page.

    Raises:
        CheckpointError: If there is no report, it is damaged or of another version, or the page cannot be written.
    """
    folder = Path(folder)
    _, report = read_report(folder)
    page = render(report, read_plan(folder))
    file = folder / REPORT_PAGE
    try:
        is_foreign = file.exists() and _GENERATOR not in file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}; remove it, and run again.") from error
    if is_foreign:
        raise CheckpointError(f"{file} was not written by bertsurgeon; move it to another folder, and run again.")
    add_recorded_file(folder, REPORT_PAGE, page)
    return file


@cache
def environment() -> "Environment":
    """Returns the environment of the templates; text is escaped in HTML, and left as it is in Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("bertsurgeon.reporting"),
        autoescape=lambda name: name is None or name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
