"""Fuzzes everything that is read from files, writes the counts as JSON, and the table of docs/trust-files.md.

    python attacks/fuzz/run.py --cases 100000

Every case is made from the seed and its number alone, so that a failure is repeated by ``--only TARGET --first NUMBER
--cases 1``.
"""

import argparse
import json
import logging
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "attacks"))

from fuzz.targets import OTHER, REFUSED, SAME, Target, make_targets  # noqa: E402
from tables import write_table  # noqa: E402

RESULTS = Path(__file__).with_name("results")
"""Folder with the results of each seed."""

CPU_SECONDS = 20
"""Most processor time of a case."""

PARTS = 100
"""Parts in which the cases of a target are run, in turn with those of the others."""

SECONDS: dict[str, float] = {}
"""Processor time of each target."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="number of cases, shared by the targets")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="name of a target")
    parser.add_argument("--write", action="store_true", help="write the results and the table of the docs")
    arguments = parser.parse_args()
    start = time.process_time()
    counts, failures = fuzz(arguments.cases, arguments.seed, arguments.first, arguments.only)
    total = sum(sum(count.values()) for count in counts.values())
    for target, seconds in SECONDS.items():
        print(f"  {target}: {1000 * seconds / sum(counts[target].values()):.1f} ms of processor time per case")
    print(f"{total:,} cases, {len(failures)} failures, {time.process_time() - start:.0f} s of processor time")
    for target, outcomes in counts.items():
        print(f"  {target}: {dict(outcomes)}")
    for failure in failures[:20]:
        print(failure["target"], failure["number"], failure["error"])
    if arguments.write:
        write(counts, failures, arguments.seed)
    raise SystemExit(1 if failures else 0)


def fuzz(
    cases: int, seed: int, first: int = 0, only: str | None = None
) -> tuple[dict[str, Counter[str]], list[dict[str, Any]]]:
    """Runs cases; returns the counts of outcomes by target, and the failures."""
    quiet()
    signal.signal(signal.SIGPROF, _too_long)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failures: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        targets = make_targets(Path(folder))
        chosen = {name: target for name, target in targets.items() if only in (None, name)}
        weights = sum(target.weight for target in chosen.values())
        shares = {name: max(1, -(-cases * target.weight // weights)) for name, target in chosen.items()}
        try:
            for part in range(PARTS):  # so that an interrupt leaves counts of all targets
                for name, target in chosen.items():
                    numbers = range(first + shares[name] * part // PARTS, first + shares[name] * (part + 1) // PARTS)
                    _run(name, target, numbers, seed, counts[name], failures)
        except KeyboardInterrupt:
            print("Interrupted; what was counted is kept.", file=sys.stderr)
    return dict(counts), failures


def _run(
    name: str, target: Target, numbers: range, seed: int, counts: Counter[str], failures: list[dict[str, Any]]
) -> None:
    """Runs the cases of some numbers of one target."""
    begin = time.process_time()
    for number in numbers:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            counts[target.case(Random(f"{seed} {name} {number}"))] += 1
        except Exception as error:
            counts["failed"] += 1
            lines = traceback.format_exc().splitlines()
            text = f"{type(error).__name__}: {error}"[:300]
            failures.append({"target": name, "number": number, "error": text, "where": lines[-8:]})
            print(name, number, text, file=sys.stderr, flush=True)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    SECONDS[name] = SECONDS.get(name, 0.0) + time.process_time() - begin


def quiet() -> None:
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.disable(logging.CRITICAL)


def write(counts: dict[str, Counter[str]], failures: list[dict[str, Any]], seed: int) -> None:
    """Writes the results of one seed, and the table with the sums of all seeds."""
    content = {"seed": seed, "targets": counts, "failures": failures}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"seed-{seed}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for file in sorted(RESULTS.glob("seed-*.json")):
        for name, outcomes in json.loads(file.read_text(encoding="utf-8"))["targets"].items():
            sums[name].update(outcomes)
            sums["**all**"].update(outcomes)
    columns = (REFUSED, SAME, OTHER, "failed")
    rows = [["what is read", "cases", *columns]]
    for name in sorted(sums, key=lambda name: (name == "**all**", name)):
        outcomes = sums[name]
        rows.append([name, *(f"{number:,}" for number in (outcomes.total(), *(outcomes[c] for c in columns)))])
    write_table("fuzz", "attacks/fuzz/run.py --write", rows)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {CPU_SECONDS} seconds of processor time")


if __name__ == "__main__":
    main()
