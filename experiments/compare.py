"""PGB against its peers on one task: one-shot and recovered, with the same recovery for all.

    python experiments/compare.py --model runs/minilm-sst2 --data-dir ../shared/data/glue

An interrupted recovery continues from its last checkpoint; ``--only`` selects rows.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bertsurgeon import PgbConfig, Sparsity, TrainingConfig, train
from bertsurgeon.benchmark import compare_latency, count_flops, measure_sizes
from lib.common import make_parser, parse_arguments
from lib.models import StatisticsModel, load_with_statistics
from lib.results_store import RUNS, ResultsStore
from lib.torch_pruning_peer import prune_with_torch_pruning

SAMPLES = 1024
PGB: dict[str, dict[str, Any]] = {
    "pgb-50": {"budget": Sparsity(0.5)},
    "pgb-assign-50": {"budget": Sparsity(0.5), "grouping": "assign"},
    "pgb-magnitude-50": {"budget": Sparsity(0.5), "importance": "magnitude"},
    "pgb-no-permutation-50": {"budget": Sparsity(0.5), "grouping": "none"},
    "pgb-88": {"budget": Sparsity(0.88)},
    "pgb-magnitude-88": {"budget": Sparsity(0.88), "importance": "magnitude"},
    "pgb-no-permutation-88": {"budget": Sparsity(0.88), "grouping": "none"},
}
STARTS = ("dense", "torch-pruning-50", *PGB)
EPOCHS = {
    "pgb-50-recovered": 1,
    "pgb-88-recovered": 3,
    "torch-pruning-50-recovered": 1,
    "pgb-magnitude-50-recovered": 1,
    "pgb-no-permutation-50-recovered": 1,
}
"""Epochs of the recovered rows, which start from the rows without ``-recovered``."""


def make_start(dense: StatisticsModel, name: str) -> PreTrainedModel:
    """Returns the model of a one-shot row."""
    if name == "dense":
        return dense.model
    if name == "torch-pruning-50":
        return prune_with_torch_pruning(dense.model, dict(dense.batches[0]))  # type: ignore[arg-type]
    return dense.prune(PgbConfig(**PGB[name]))


def describe(dense: StatisticsModel, model: PreTrainedModel) -> dict[str, Any]:
    """Returns quality, size and FLOPs."""
    return {
        "metrics": dense.score(model),
        "kept_share": measure_sizes(model).encoder_weights / measure_sizes(dense.model).encoder_weights,
        "flops_share": count_flops(model, 1, 128) / count_flops(dense.model, 1, 128),
    }


def measure_start(dense: StatisticsModel, name: str) -> dict[str, Any]:
    """Describes a one-shot row, with its speedup over the dense model in PyTorch; runs are interleaved."""
    model = make_start(dense, name)
    result = describe(dense, model)
    for batch_size in (1, 8):
        latency = compare_latency({"dense": dense.model, "this": model}, batch_size, length=128, runs=20)
        result[f"pytorch_speedup_{batch_size}x128"] = latency["dense"].p50_ms / latency["this"].p50_ms
    return result


def measure_recovered(dense: StatisticsModel, name: str, start: str, options: TrainingConfig) -> dict[str, Any]:
    """Recovers a one-shot row and describes it; its shapes, and so its speed, stay those of the start."""
    model = make_start(dense, start)
    train(
        model,
        options,
        dense.train,
        dense.tokenizer,
        teacher=dense.model,
        work_dir=RUNS / "compare" / f"{dense.data.task.name}-{name}",
        resume=True,
        description=f"Recovering {name}",
    )
    return describe(dense, model)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--only", nargs="*", help="rows to run (default: all)")
    arguments = parse_arguments(parser)
    task = arguments.task
    results = ResultsStore("compare", arguments)
    dense = load_with_statistics(arguments.model, task, arguments.data_dir, SAMPLES, seed=0)
    for name in arguments.only or [*STARTS, *EPOCHS]:
        start = name.removesuffix("-recovered")
        samples = SAMPLES if start in PGB else None
        configuration: dict[str, Any] = {
            "task": task,
            "pruning": PgbConfig(**PGB[start]).to_dict() if start in PGB else None,
        }
        if name in EPOCHS:
            options = TrainingConfig(epochs=EPOCHS[name], batch_size=64, learning_rate=1e-4)
            configuration |= {"start": start, "training": asdict(options)}
            measure = partial(measure_recovered, dense, name, start, options)
        else:
            measure = partial(measure_start, dense, name)
        results.run(f"{task}/{name}", measure, configuration, samples, seed=0)


if __name__ == "__main__":
    main()
