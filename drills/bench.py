"""What the drills share: toy data, commands in forked processes, and what must be equal in two folders.

All imports are made once; each run is a fork, so it takes the second that its work takes.
"""

import argparse
import atexit
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "experiments"))

if TYPE_CHECKING:
    from lib.results_store import ResultsStore

RESULTS = ROOT / "drills" / "results"

RECIPE = """
epochs: 2
batch_size: 8
learning_rate: {start: 1.0e-3, end: 1.0e-4}
distillation: {distillation_weight: 0.0}
pruning: {sparsity: 0.5, first_sparsity: 0.2, start: 0, end: 1, every: 0.5, gradients: 16, gradient_batch_size: 8}
"""

TRAINING = ("--epochs", "3", "--batch-size", "8", "--learning-rate", "1e-3")

COMMANDS: dict[str, tuple[str, ...]] = {
    "finetune": ("dense", *TRAINING),
    "prune": ("dense", "--sparsity", "0.5", "--samples", "16", "--recover-epochs", "1", "--batch-size", "8"),
    "recover": ("pruned", "--teacher", "dense", *TRAINING),
    "gradual": ("dense", "--recipe", "recipe.yaml"),
    "calibrate": ("dense", "--samples", "16"),
    "export": ("dense",),
    "compress": (
        *("dense", "--to", "pytorch", "--objective", "size", "--length", "16", "--max-drop", "30"),
        *("--no-recover", "--max-candidates", "3"),
    ),
    "drop-layers": ("dense", "--keep", "1", "--strategy", "importance"),
    "trim-vocabulary": ("dense",),
    "report": ("place/out",),
}
"""The commands that write, with their model and options; paths are relative to the folder of :func:`prepare`."""

IN_PLACE = ("report",)
"""Commands that write into the folder of their model, without data and a seed."""

RESUMABLE = ("finetune", "recover", "gradual")

TIMED = "calibration.safetensors"
"""File whose metadata depend on the times that a run took."""

REPORTS = (
    "report.json",
    "training_report.json",
    "calibration.json",
    "bertsurgeon_export.json",
    "README.md",
    "report.html",
)
"""Files with times and latencies, which differ from run to run; they must be complete."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Makes a parser with the options of all drills."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default=",".join(COMMANDS), help="commands, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "drills", help="where the runs write")
    parser.add_argument("--rerun", help="rows that are done again, by a pattern of their names")
    return parser


def open_store(name: str, arguments: argparse.Namespace) -> "ResultsStore":
    """Opens the results of a drill, as those of experiments are stored."""
    from lib.results_store import ResultsStore

    store = ResultsStore(name, arguments)
    store.path = RESULTS / f"{name}.jsonl"
    return store


def warm_up(exports: bool = True) -> None:
    """Imports what the commands import, so that no fork has to.

    Args:
        exports: Whether models will be exported.
    """
    import datasets
    import sklearn.metrics  # noqa: F401
    import torch
    from transformers import BertForSequenceClassification, Trainer  # noqa: F401

    import bertsurgeon.cli  # noqa: F401

    if exports:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import torch.onnx
    torch.set_num_threads(1)
    datasets.disable_progress_bars()


def prepare(folder: Path) -> None:
    """Writes a toy model, its pruned version and their data."""
    from bertsurgeon import AutoConfig, Sparsity, prune, save_model
    from bertsurgeon.testing import toy_classifier

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model, tokenizer, texts = toy_classifier(texts=96)
    save_model(model, folder / "dense", tokenizer)
    parts = texts.train_test_split(test_size=32, seed=0)
    for name, part in (("train", parts["train"]), ("validation", parts["test"])):
        rows = [f"{row['text']},{row['label']}" for row in part]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    pruned = prune(model, AutoConfig(Sparsity(0.5), samples=16), list(texts["text"][:16]), tokenizer).model
    save_model(pruned, folder / "pruned", tokenizer)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")


def arguments_of(command: str, *options: str, seed: int = 0) -> list[str]:
    """Returns the command line that writes ``place/out``."""
    if command in IN_PLACE:
        return [command, *COMMANDS[command], "-q"]
    data = ("--train-file", "train.csv", "--validation-file", "validation.csv")
    return [command, *COMMANDS[command], *data, "-o", "place/out", "--seed", str(seed), "-q", *options]


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code; minus the signal's number if a signal ended it.
        text: What it printed.
        cpu_seconds: CPU time that it took.
    """

    code: int
    text: str
    cpu_seconds: float


def run(
    folder: Path,
    arguments: Sequence[str],
    kill_after: float | None = None,
    before: Callable[[], None] | None = None,
) -> Ended:
    """Runs a command in a fork of this process.

    Args:
        folder: The working directory; temporary files go into ``temporary`` in it.
        arguments: The command line.
        kill_after: Kill it after this many seconds of CPU time.
        before: Called in the fork before the command.
    """
    log, temporary = folder / "log", folder / "temporary"
    for made in (temporary, folder / "place"):
        made.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        _run_in_child(folder, arguments, log, temporary, before)
    limit = None if kill_after is None else kill_after
    used = 0.0
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        used = _cpu_seconds(child) or used
        if limit is not None and used >= limit:
            os.kill(child, signal.SIGKILL)
            limit = None
        time.sleep(0.004)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), used)


def _run_in_child(
    folder: Path, arguments: Sequence[str], log: Path, temporary: Path, before: Callable[[], None] | None
) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        with log.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        tempfile.tempdir, os.environ["TMPDIR"] = None, str(temporary)
        sys.argv = ["bertsurgeon", *arguments]
        random.seed()  # names of temporary files
        if before is not None:
            before()
        from bertsurgeon.cli import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exact(folder: Path) -> dict[str, str] | None:
    """Returns the hash of every file of a folder; None if there is no folder."""
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stable(folder: Path) -> dict[str, Any] | None:
    """Returns what two runs of a command have in common: hashes of all files, of reports the keys."""
    hashes: dict[str, Any] | None = exact(folder)
    for name in REPORTS:
        if hashes is not None and name in hashes:
            text = (folder / name).read_text(encoding="utf-8")
            hashes[name] = sorted(_keys(json.loads(text))) if name.endswith(".json") else bool(text)
    if hashes is not None and TIMED in hashes:
        hashes[TIMED] = _without_metadata((folder / TIMED).read_bytes())
    return hashes


def _without_metadata(content: bytes) -> str:
    """Returns the hash of a safetensors file without its metadata, which hold a digest of the times beside it."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + content[start:]).hexdigest()


def _keys(value: Any, prefix: str = "") -> set[str]:
    if isinstance(value, dict):
        return {key for name, one in value.items() for key in (f"{prefix}{name}", *_keys(one, f"{prefix}{name}."))}
    return set()


def leftovers(folder: Path, command: str) -> list[str]:
    """Returns what is beside the output after a run, other than the output; and temporary files."""
    expected = {"out", "out.search"} if command == "compress" else {"out"}
    beside = sorted(path.name for path in (folder / "place").iterdir() if path.name not in expected)
    work = folder / "place" / "out.search"
    hidden = sorted(f"out.search/{path.name}" for path in work.glob(".*")) if work.is_dir() else []
    return [*beside, *hidden, *sorted(f"temporary/{path.name}" for path in (folder / "temporary").iterdir())]


def make_old_output(folder: Path, command: str) -> Path:
    """Writes an old output of another seed, and keeps it; commands that write in place get that of ``prune``."""
    clear(folder, None)
    complete(folder, arguments_of("prune" if command in IN_PLACE else command, seed=1))
    return keep(folder, f"{command}-old")


def complete(folder: Path, arguments: Sequence[str]) -> Ended:
    """Runs a command that must succeed."""
    ended = run(folder, arguments)
    assert ended.code == 0, ended.text
    return ended


def clear(folder: Path, old: Path | None) -> None:
    """Empties the place of the output, and puts an old output there."""
    for name in ("place", "temporary"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    if old is not None:
        shutil.copytree(old, folder / "place" / "out")


def keep(folder: Path, name: str) -> Path:
    """Keeps a copy of the output under another name."""
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "place" / "out", target)
    return target
