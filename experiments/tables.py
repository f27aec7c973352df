"""Reading results and writing Markdown tables."""

import json
from typing import Any

from common import RESULTS


def read(name: str) -> dict[str, Any] | None:
    """A result that :func:`common.cached` kept, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
