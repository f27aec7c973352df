"""Quality and speed where models are deployed: pruned, exported, and quantized, each against dense PyTorch in fp32.

    python experiments/deployed.py --data-dir ../shared/data/glue
    python experiments/deployed.py --data-dir ../shared/data/glue --speed

MiniLM on SST-2 and STS-B, one-shot ``auto``; the dense models are those of the study. Speeds are those of SST-2's
models, at 8 x 128 and 1 x 128 tokens, interleaved with dense PyTorch fp32.
"""

from functools import partial
from pathlib import Path
from typing import Any

from bertsurgeon import ExportConfig, evaluate, export, load_model, prune, save_model
from bertsurgeon.benchmark import BenchmarkEntry, open_entry
from lib.common import make_parser, parse_arguments, speedups
from lib.models import StudyModel, load_study_model
from lib.results_store import RUNS, ResultsStore
from lib.speed_models import PRECISIONS

SHARES = (1.0, 0.5, 0.25, 0.12, 0.06)
SHAPES = ((8, 128), (1, 128))


def pruned_folder(dense: StudyModel, task: str, share: float) -> Path:
    """Returns the folder of the dense model, or of the one that ``auto`` pruned to this share."""
    if share == 1.0:
        return dense.folder
    folder = RUNS / "deployed" / f"{task}-{share:g}"
    if not folder.is_dir():
        model, _ = prune(dense.model, dense.config(share), dense.calibration, dense.tokenizer)
        save_model(model, folder, dense.tokenizer)
    return folder


def open_model(
    dense: StudyModel, task: str, share: float, runtime: str, precision: str
) -> tuple[BenchmarkEntry, dict[str, Any]]:
    """Returns the model in its runtime, and the check of its export."""
    folder = pruned_folder(dense, task, share)
    if runtime == "pytorch":
        return open_entry(str(folder) if precision == "fp32" else f"{folder}@{precision}"), {}
    exported = RUNS / "deployed" / f"{task}-{share:g}-{runtime}-{precision}"
    if not exported.is_dir():
        config = ExportConfig(runtime, precision)  # type: ignore[arg-type]
        export(load_model(folder), config, dense.train, dense.tokenizer, output=exported)
    entry = open_entry(str(exported))
    return entry, entry.model.manifest.check


def quality(dense: StudyModel, task: str, share: float, runtime: str, precision: str) -> dict[str, Any]:
    entry, check = open_model(dense, task, share, runtime, precision)
    return {
        "metrics": evaluate(entry.model, dense.data.task, dense.validation, dense.tokenizer),
        "check": check,
        "file_bytes": entry.file_bytes,
    }


def speed(dense: StudyModel, task: str, share: float, runtime: str, precision: str) -> dict[str, Any]:
    model = open_model(dense, task, share, runtime, precision)[0].model
    return {"speedup": speedups(dense.model, model, SHAPES)}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=("sst2", "stsb"))
    parser.add_argument(
        "--speed", action="store_true", help="time the first task's models, instead; needs an idle machine"
    )
    arguments = parse_arguments(parser)
    results = ResultsStore("deployed", arguments)
    measure = speed if arguments.speed else quality
    for task in arguments.tasks[:1] if arguments.speed else arguments.tasks:
        dense = load_study_model(task, 0, arguments.data_dir)
        for share in SHARES:
            for runtime, precision in PRECISIONS:
                name = f"{task}-{share:g}-{runtime}-{precision}"
                configuration = {"task": task, "share": share, "runtime": runtime, "precision": precision}
                results.run(
                    f"speed-{name}" if arguments.speed else name,
                    partial(measure, dense, task, share, runtime, precision),
                    configuration,
                    seed=dense.seed,
                )


if __name__ == "__main__":
    main()
