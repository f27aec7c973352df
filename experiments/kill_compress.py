"""Is a killed `compress` continued to the same result? SIGKILL at random moments, then the same command again.

    python experiments/kill_compress.py

A toy model, PyTorch, weights as the objective, so that nothing depends on measured times. Every round kills the command
a number of times and then lets it finish; its report must be that of an uninterrupted search, and nothing that was
finished may be made again.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bertsurgeon import save_model
from bertsurgeon.testing import toy_classifier
from lib.common import make_parser, parse_arguments
from lib.results_store import RUNS, ResultsStore

SAME = ("name", "removed", "metrics", "agreement", "quality", "encoder_weights", "file_bytes", "error")
"""What must be equal in both reports, of every candidate."""


def command(folder: Path, output: Path) -> list[str]:
    files = ["--train-file", str(folder / "train.csv"), "--validation-file", str(folder / "validation.csv")]
    options = [
        "--to",
        "pytorch",
        "--objective",
        "size",
        "--length",
        "16",
        "--max-drop",
        "30",
        "--no-recover",
        "--quiet",
    ]
    return [sys.executable, "-m", "bertsurgeon", "compress", str(folder / "dense"), *files, *options, "-o", str(output)]


def prepare(folder: Path) -> None:
    """Writes a toy model and its data."""
    shutil.rmtree(folder, ignore_errors=True)
    model, tokenizer, texts = toy_classifier(texts=400)
    save_model(model, folder / "dense", tokenizer)
    parts = texts.train_test_split(test_size=200, seed=0)
    parts["train"].to_csv(folder / "train.csv")
    parts["test"].to_csv(folder / "validation.csv")


def outcome(output: Path) -> dict[str, Any]:
    """Returns what must be equal, from the report."""
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    candidates = [{name: one[name] for name in SAME} for one in report["candidates"]]
    return {"chosen": report["chosen"], "verdict": report["verdict"]["status"], "candidates": candidates}


def kill_and_repeat(folder: Path, expected: dict[str, Any], seconds: float, kills: int, seed: int) -> dict[str, Any]:
    """Kills the command at random moments, lets it finish, and compares."""
    output = folder / "killed"
    for path in (output, output.with_name("killed.search")):
        shutil.rmtree(path, ignore_errors=True)
    draw, moments, remade = random.Random(seed), [], 0
    finished: dict[Path, int] = {}
    for _ in range(kills):
        # imports take a third of the time; killing those proves nothing
        moment = seconds * draw.uniform(0.35, 1.0)
        process = subprocess.Popen(command(folder, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            moments.append(round(moment, 1))
        else:
            break  # it was faster than the kill
        entries = {path: path.stat().st_mtime_ns for path in output.with_name("killed.search").glob("c*-*")}
        remade += sum(entries.get(path) != modified for path, modified in finished.items())
        finished = entries
    if not output.exists():
        subprocess.run(command(folder, output), check=True, stdout=subprocess.DEVNULL)
    work = output.with_name("killed.search")
    return {
        "moments": moments,
        "same": outcome(output) == expected,
        "remade": remade,
        "calibrations": len(list(work.glob("calibration-*"))),
        "leftovers": len([path for path in work.iterdir() if path.name.startswith(".")]),
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse_arguments(parser)
    results = ResultsStore("kill_compress", arguments)
    folder = RUNS / "kill-compress"
    prepare(folder)
    start = time.perf_counter()
    subprocess.run(command(folder, folder / "whole"), check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    expected = outcome(folder / "whole")
    for number in range(arguments.rounds):
        results.run(
            f"round-{number}",
            lambda number=number: kill_and_repeat(folder, expected, seconds, arguments.kills, number),
            {"kills": arguments.kills, "round": number},
        )


if __name__ == "__main__":
    main()
