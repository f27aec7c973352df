"""Peak memory and processor time until hostile files are refused: the ten that take most, as JSON and a table.

    python attacks/measure.py --write

Every file of ``large_numbers``, ``nested_json``, ``recipes``, ``headers`` and ``compressed_weights`` is read in a
process of its own, a copy of one in which everything is imported and a model has been loaded.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
from bertsurgeon import load_model
from fuzz.run import quiet
from tables import write_table

ATTACKS = ("large_numbers", "nested_json", "recipes", "headers", "compressed_weights")
RESULTS = Path(__file__).with_name("worst.json")
SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write worst.json and the table of the docs")
    arguments = parser.parse_args()
    quiet()
    with TemporaryDirectory() as folder:
        load_model(common.dense(Path(folder) / "warm"))
        load_model(common.pruned(Path(folder) / "warm-pruned"))
    measured: list[dict[str, Any]] = []
    original = common.refused
    for name in ATTACKS:
        module = import_module(name)
        module.refused = lambda what, action, name=name: _measure(name, what, action, measured, original)  # type: ignore[attr-defined]
        with TemporaryDirectory() as folder:
            module.attack(Path(folder))
    measured.sort(key=lambda row: -row["megabytes"])
    worst = measured[:SHOWN]
    slowest = max(row["seconds"] for row in measured)
    rows = [["hostile file", "memory, MB", "processor time, s"]]
    rows += [[row["file"], f"{row['megabytes']:.0f}", f"{row['seconds']:.2f}"] for row in worst]
    rows.append([f"**all {len(measured)}, at most**", f"{worst[0]['megabytes']:.0f}", f"{slowest:.2f}"])
    print("\n".join(" | ".join(row) for row in rows))
    if arguments.write:
        RESULTS.write_text(json.dumps({"files": len(measured), "slowest": slowest, "worst": worst}, indent=1) + "\n")
        write_table("worst", "attacks/measure.py --write", rows)


def _measure(
    name: str, what: str, action: Callable[[], object], measured: list[dict[str, Any]], refused: Callable[..., str]
) -> str:
    """Runs an action in a copy of this process; records its peak of memory beyond what the copy began with."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        before, start = _resident(), time.process_time()
        try:
            line = refused(what, action)
        except BaseException as error:
            line = f"FAIL {what}: {error!r}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result = {"line": line, "megabytes": max(0.0, peak - before), "seconds": time.process_time() - start}
        os.write(write_end, json.dumps(result).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        result = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert not result["line"].startswith("FAIL"), result["line"]
    measured.append({"file": f"{name}: {what}", "megabytes": result["megabytes"], "seconds": result["seconds"]})
    return str(result["line"])


def _resident() -> float:
    """Returns the memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
