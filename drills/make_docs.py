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


def anomalies() -> str:
    """Returns the table of failing calls, with one row per command."""
    if not read("anomalies"):
        return "No run of this drill is recorded yet."
    lines = ["| command | call and error | runs | of these refused | broken promises |", "|---|---|---:|---:|---:|"]
    for command in COMMANDS:
        for row in read("anomalies"):
            configuration, result = row["configuration"], row["result"]
            if configuration["command"] == command:
                call = "file size" if configuration["call"] == "size" else f"`{configuration['call']}`"
                every = f", every {configuration['step']}th" if configuration["step"] > 1 else ""
                cells = [f"`{command}`", f"{call}, {configuration['error']}{every}", result["runs"], result["errors"]]
                lines.append("| " + " | ".join(map(str, [*cells, len(result["faults"])])) + " |")
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
