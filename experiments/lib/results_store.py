"""The results: one JSON-lines file per experiment (``results/<script>.jsonl``), one row per measurement.

A row has these fields:

- ``name``: identifies the row within its file; rows are sorted by it;
- ``configuration``: what was measured, as plain data; ``samples``: the number of texts that the model was calibrated or
  trained on, null where there were none or the number was not recorded; ``seed``;
- ``result``: the measurement; ``seconds``: how long it took;
- ``environment``: machine, processor, cores, threads and versions;
- ``arguments``, ``commit``, ``dirty``, ``utc_time``: the command line, the commit that ran, whether the code differed
  from it, and when the measurement ended. Rows from before these fields existed have ``committed_in`` instead: the
  commit that brought the result into the repository, which is not necessarily the one that ran.

Adding a row adds one line, and measuring again replaces one line. Files are replaced in one step under a lock, so
neither a crash nor a second process that writes to the same file loses rows.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from bertsurgeon import progress
from bertsurgeon.benchmark import environment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
RUNS = ROOT / "runs"
"""Models and other files that experiments keep; ignored by git."""
NOTE_LENGTH = 500
"""Characters of a result that are printed."""

Row = dict[str, Any]


class ResultsStore:
    """Runs the measurements of one experiment and keeps their rows.

    Args:
        experiment: Name of the script, and of the file in ``results``.
        arguments: Parsed command line. Its ``seed``, if any, is the rows' default seed; rows that match its ``rerun``
            pattern are measured even if they exist.
    """

    def __init__(self, experiment: str, arguments: argparse.Namespace) -> None:
        self.path = results_path(experiment)
        self._seed: int | None = getattr(arguments, "seed", None)
        self._rerun: str | None = getattr(arguments, "rerun", None)
        self._code_version = code_version()  # before any measurement: later commits did not run

    def run(
        self,
        name: str,
        measure: Callable[[], dict[str, Any]],
        configuration: dict[str, Any] | None = None,
        samples: int | None = None,
        seed: int | None = None,
    ) -> dict[str, Any]:
        """Measures a row unless it exists.

        Args:
            name: Name of the row.
            measure: Returns the result. Where the number of samples is known only afterwards, it is the entry
                ``samples``, which is moved into the row.
            configuration: What is measured.
            samples: Number of texts for calibration or training.
            seed: Seed of this row, if it is not that of the command line.

        Returns:
            The result, new or stored.
        """
        stored = load_rows(self.path).get(name)
        if stored is not None and not (self._rerun and fnmatch(name, self._rerun)):
            progress.note(f"{self.path.stem}: {name} exists")
            result: dict[str, Any] = stored["result"]
            return result
        start = time.perf_counter()
        result = measure()
        seconds = time.perf_counter() - start
        samples = result.pop("samples", samples)
        write_row(
            self.path,
            {
                "name": name,
                "configuration": configuration or {},
                "samples": samples,
                "seed": self._seed if seed is None else seed,
                "result": result,
                "seconds": round(seconds, 1),
                "arguments": [without_folder(argument) for argument in sys.argv[1:]],
                **self._code_version,
                "utc_time": datetime.now(UTC).isoformat(timespec="seconds"),
                "environment": environment(),
            },
        )
        progress.note(f"{self.path.stem}: {name}: {str(result)[:NOTE_LENGTH]}")
        return result


def results_path(experiment: str) -> Path:
    """Returns the file of an experiment's rows."""
    return RESULTS / f"{experiment}.jsonl"


def read_rows(experiment: str, prefix: str = "") -> dict[str, Row]:
    """Returns the rows of an experiment whose names start with ``prefix``, by name and sorted by it."""
    return {name: row for name, row in load_rows(results_path(experiment)).items() if name.startswith(prefix)}


def read_row(experiment: str, name: str) -> Row | None:
    """Returns one row, or None."""
    return load_rows(results_path(experiment)).get(name)


def read_result(experiment: str, name: str) -> dict[str, Any] | None:
    """Returns the result of one row, or None."""
    row = read_row(experiment, name)
    return None if row is None else row["result"]


def load_rows(path: Path) -> dict[str, Row]:
    """Returns the rows of a file by name; none if there is no file."""
    if not path.is_file():
        return {}
    status = path.stat()
    return _parse(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _parse(path: Path, modified: int, size: int) -> dict[str, Row]:
    """Returns the parsed file; its time of modification and size are the key of the cache."""
    rows: list[Row] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["name"]: row for row in rows}


def write_row(path: Path, row: Row) -> None:
    """Adds a row to a file, or replaces the one with the same name."""
    RUNS.mkdir(exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(RUNS / f"{path.stem}.jsonl.lock"):
        rows = load_rows(path) | {row["name"]: row}
        temporary = path.with_name(f".{path.name}.new")
        with temporary.open("w", encoding="utf-8") as file:
            for name in sorted(rows):
                file.write(json.dumps(rows[name], ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def code_version() -> dict[str, Any]:
    """Returns the commit, and whether tracked files differ from it; the results themselves do not count.

    Where the code is a copy without its history, the caller names both in ``EXPERIMENT_COMMIT`` (``HASH`` or
    ``HASH-dirty``).
    """
    if named := os.environ.get("EXPERIMENT_COMMIT"):
        return {"commit": named.removesuffix("-dirty"), "dirty": named.endswith("-dirty")}
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)experiments/results")
    except (OSError, subprocess.CalledProcessError):  # not a git checkout
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changes)}


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def without_folder(argument: str) -> str:
    """Returns an argument without the folders of an absolute path, which name the machine or its owner."""
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else argument
