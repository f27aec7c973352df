r"""What `bertsurgeon compress` finds with its defaults: six tasks, two runtimes.

    python experiments/compress.py --data-dir ../shared/data/glue --banking ../shared/data/banking77
    python experiments/compress.py --data-dir ../shared/data/glue --tasks cola sst2 --runtimes onnx

Dense models lie in `runs/TASK-0` (SST-2: `runs/minilm-sst2`), made by `bertsurgeon finetune minilm --bf16`: SST-2 2
epochs, MRPC and STS-B 4, RTE 5, at 5e-5; CoLA 5 at 1e-4; Banking77 3 at 2e-4, as a user's own files:

    bertsurgeon finetune minilm --train-file train.csv --validation-file test.csv --label-column category \
        --epochs 3 --learning-rate 2e-4 --bf16 -o runs/banking77-0

Both runtimes share a work folder, so that a task is calibrated once.
"""

import shutil
from pathlib import Path
from typing import Any

from bertsurgeon import CompressConfig
from bertsurgeon.workflows import DataConfig
from bertsurgeon.workflows.compress import compress_and_save
from lib.common import make_parser, parse_arguments
from lib.results_store import RUNS, ResultsStore

TASKS = ("sst2", "cola", "mrpc", "rte", "stsb", "banking77")
RUNTIMES = ("onnx", "openvino")
KEPT = (
    "name", "kind", "precision", "removed", "recovered", "metrics", "agreement", "quality", "encoder_weights",
    "file_bytes", "latency", "speedup", "speedup_int8", "seconds", "error",
)  # fmt: skip
"""What a row keeps of every candidate."""


def task_data(task: str, data_dir: Path, banking: Path | None) -> DataConfig:
    """Returns the data of a task; Banking77 as a user's own files."""
    if task != "banking77":
        return DataConfig(task, data_dir)
    if banking is None:
        raise SystemExit("Name the folder of Banking77's files: --banking FOLDER")
    return DataConfig(train_file=banking / "train.csv", validation_file=banking / "test.csv", label_column="category")


def dense_folder(task: str, seed: int) -> Path:
    """Returns the folder of a task's dense model."""
    return RUNS / ("minilm-sst2" if task == "sst2" else f"{task}-{seed}")


def run(task: str, runtime: str, data: DataConfig, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Compresses a model, and returns what a row keeps of the report."""
    output = RUNS / "compress" / task
    result = compress_and_save(
        str(folder),
        CompressConfig(runtime=runtime, **options),
        data,
        output,
        overwrite=True,  # type: ignore[arg-type]
    )
    report = result.report
    kept = RUNS / "compress-reports" / f"{task}-{runtime}"
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "report.html", "README.md"):
        shutil.copy(output / name, kept / name)
    names = ("verdict", "bound", "target", "data", "reference", "chosen", "best_shown", "stopped", "confirmation")
    return {
        **{name: report[name] for name in names},
        "candidates": [{name: one[name] for name in KEPT} for one in report["candidates"]],
        "answers": {"agreement": report["answers"]["agreement"]},
        **{name: report[name] for name in ("speed", "invariance", "memory", "seconds", "minutes", "environment")},
        "samples": report["data"]["calibration"],
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--banking", type=Path, default=None)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--runtimes", nargs="*", default=RUNTIMES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse_arguments(parser)
    results = ResultsStore("compress", arguments)
    for runtime in arguments.runtimes:
        for task in arguments.tasks:
            data, folder = task_data(task, arguments.data_dir, arguments.banking), dense_folder(task, arguments.seed)
            configuration = {"task": task, "runtime": runtime, "model": folder.name}
            results.run(
                f"{task}-{runtime}",
                lambda task=task, runtime=runtime, data=data, folder=folder: run(task, runtime, data, folder, {}),
                configuration,
            )


if __name__ == "__main__":
    main()
