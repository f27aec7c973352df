"""Writes the tables of ``docs/trust.md`` from the results of the drills.

python drills/make_docs.py
python drills/make_docs.py --check
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from bench import COMMANDS, RESULTS, ROOT

PAGE = ROOT / "docs" / "trust.md"


def kills() -> str:
    """Returns the table of kills, with one row per command and a total."""
    columns = ("kills", "lost", "half", "different", "leftovers", "tracebacks")
    rows = read("kills")
    lines = [
        "| command | kills | lost | half-written | another result afterwards | left behind | tracebacks |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    total = dict.fromkeys(columns, 0)
    for command in COMMANDS:
        results = [row["result"] for row in rows if row["configuration"]["command"] == command]
        if not results:
            continue
        sums = {name: sum(result[name] for result in results) for name in columns}
        total = {name: total[name] + sums[name] for name in columns}
        lines.append("| " + " | ".join([f"`{command}`", *map(str, sums.values())]) + " |")
    lines.append("| " + " | ".join(f"**{cell}**" for cell in ("all", *total.values())) + " |")
    return "\n".join(lines)


CALLS = {"open": "`open`", "mkdir": "`mkdir`", "rename": "`rename`", "exchange": "exchange", "fsync": "`fsync`"}
"""Headings of the columns with failing calls."""


def anomalies() -> str:
    """Returns the table of failing calls, with one row per command and a total."""
    rows = read("anomalies")
    if not rows:
        return "No run of this drill is recorded yet."
    calls = {**CALLS, "size": "file size"}
    lines = [
        f"| command | {' | '.join(calls.values())} | broken promises |",
        f"|---|{'---:|' * (len(calls) + 1)}",
    ]
    total = dict.fromkeys((*calls, "errors", "faults"), 0)
    for command in COMMANDS:
        of_command = [row for row in rows if row["configuration"]["command"] == command]
        if not of_command:
            continue
        cells, faults = [], sum(len(row["result"]["faults"]) for row in of_command)
        for call in calls:
            results = [row["result"] for row in of_command if row["configuration"]["call"] == call]
            runs, errors = (sum(result[key] for result in results) for key in ("runs", "errors"))
            cells.append(f"{runs} ({errors})")
            total[call] += runs
            total["errors"] += errors
        total["faults"] += faults
        steps = {row["configuration"]["step"] for row in of_command} - {1}
        every = f", every {max(steps)}th" if steps else ""
        lines.append(f"| `{command}`{every} | {' | '.join(cells)} | {faults} |")
    runs = sum(total[call] for call in calls)
    cells = [str(total[call]) for call in calls]
    lines.append(f"| **all {runs:,} ({total['errors']:,})** | {' | '.join(cells)} | **{total['faults']}** |")
    return "\n".join(lines)


TABLES: tuple[Callable[[], str], ...] = (kills, anomalies)


def read(name: str) -> list[dict[str, Any]]:
    """Returns the rows of a drill."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def fill(text: str) -> str:
    """Returns the page with its tables generated again."""
    for make_table in TABLES:
        name, content = make_table.__name__, make_table()
        pattern = rf"(<!-- {name}: generated[^>]*-->\n).*?(<!-- end {name} -->)"
        text, count = re.subn(
            pattern, lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text, flags=re.S
        )
        if count != 1:
            raise ValueError(f"{PAGE.name} has {count} sections {name} instead of one.")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is out of date")
    arguments = parser.parse_args()
    current = PAGE.read_text(encoding="utf-8")
    updated = fill(current)
    if arguments.check and updated != current:
        sys.exit(f"docs/{PAGE.name} is out of date: run python drills/make_docs.py.")
    if not arguments.check:
        PAGE.write_text(updated, encoding="utf-8")


if __name__ == "__main__":
    main()
