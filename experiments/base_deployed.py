r"""Quality and speed of the very same models: those that the base-size study kept, by runtime and precision.

    python experiments/base_deployed.py --data-dir ../shared/data/glue --tasks cola
    python experiments/base_deployed.py --data-dir ../shared/data/glue --tasks cola --speed

INT8 is calibrated on training texts. With `--speed`, all models of a runtime and precision are timed in turns with the
dense model in PyTorch fp32, at 8 x 128 and 1 x 128 tokens; this needs an idle machine. Rows are
`TASK/MODEL/RUNTIME-PRECISION` and `TASK/speed/RUNTIME-PRECISION-SHAPE`; a model has the name of its row in the study.
"""

from fnmatch import fnmatch
from functools import partial
from typing import Any

from base_study import BaseTask, add_options, open_task
from bertsurgeon import ExportConfig, evaluate, export, load_model
from bertsurgeon.benchmark import BenchmarkEntry, open_entry, random_inputs, time_batches
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.evaluation import compare
from lib.common import make_parser, parse_arguments
from lib.results_store import RUNS, ResultsStore
from lib.speed_models import PRECISIONS

SHAPES = ((8, 128), (1, 128))
REFERENCE = "dense PyTorch fp32"
"""Timed with all others."""
OTHER_ENCODERS = ("minilm",)
"""Models with a tokenizer of their own, which are not compared with the dense model text by text."""


def open_row(task: BaseTask, row: str, runtime: str, precision: str) -> BenchmarkEntry:
    """Returns a model in a runtime, exported once, and again if the model has been made again."""
    folder = task.folder_of(row)
    if runtime == "pytorch":
        return open_entry(str(folder) if precision == "fp32" else f"{folder}@{precision}")
    exported = RUNS / "base-exported" / folder.parent.name / f"{row}-{runtime}-{precision}"
    if not exported.is_dir() or exported.stat().st_mtime < (folder / "config.json").stat().st_mtime:
        config = ExportConfig(runtime, precision, tolerance=float("inf"))  # type: ignore[arg-type]
        tokenizer = load_tokenizer(folder)
        export(
            load_model(folder),
            config,
            task.encode(task.data.train, tokenizer),
            tokenizer,
            output=exported,
            overwrite=True,
        )
    return open_entry(str(exported))


def quality(task: BaseTask, row: str, runtime: str, precision: str) -> dict[str, Any]:
    entry = open_row(task, row, runtime, precision)
    tokenizer = load_tokenizer(task.folder_of(row))
    rows = task.encode(task.data.validation, tokenizer)
    result: dict[str, Any] = {
        "metrics": evaluate(entry.model, task.task, rows, tokenizer),
        "file_bytes": entry.file_bytes,
        "encoder_weights": entry.encoder_weights,
    }
    if row not in OTHER_ENCODERS:
        result["agreement"] = compare(task.dense, entry.model, rows, tokenizer)
    return result


def speed(task: BaseTask, rows: list[str], runtime: str, precision: str, shape: tuple[int, int]) -> dict[str, Any]:
    opened = {row: open_row(task, row, runtime, precision) for row in rows}
    opened[REFERENCE] = open_row(task, "dense", "pytorch", "fp32")
    models = {name: entry.model for name, entry in opened.items()}
    batches = [random_inputs(list(models.values()), *shape)]
    latencies = time_batches(models, batches, runs=20, seconds=120)
    reference = latencies[REFERENCE].p50_ms
    return {
        "models": {
            name: {"speedup_to_reference": reference / latency.p50_ms, **vars(latency)}
            for name, latency in latencies.items()
        }
    }


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--rows", nargs="*", default=["*"], help="patterns of the study's rows")
    parser.add_argument("--precisions", nargs="*", default=["*"], help="patterns such as 'openvino-*'")
    parser.add_argument("--speed", action="store_true", help="time the models instead; needs an idle machine")
    arguments = parse_arguments(parser)
    precisions = [
        pair for pair in PRECISIONS if any(fnmatch("-".join(pair), pattern) for pattern in arguments.precisions)
    ]
    for name in arguments.tasks:
        task = open_task(name, arguments)
        results = ResultsStore("base_deployed", arguments)
        kept = sorted(folder.name for folder in task.folder.parent.iterdir() if (folder / "config.json").is_file())
        rows = [row for row in kept if any(fnmatch(row, pattern) for pattern in arguments.rows)]
        for runtime, precision in precisions:
            configuration = {"task": name, "runtime": runtime, "precision": precision}
            if arguments.speed:
                for shape in SHAPES:
                    label = f"{name}/speed/{runtime}-{precision}-{shape[0]}x{shape[1]}"
                    measure = partial(speed, task, rows, runtime, precision, shape)
                    results.run(label, measure, {**configuration, "batch_size": shape[0], "length": shape[1]})
                continue
            for row in rows:
                label = f"{name}/{row}/{runtime}-{precision}"
                results.run(label, partial(quality, task, row, runtime, precision), {**configuration, "model": row})


if __name__ == "__main__":
    main()
