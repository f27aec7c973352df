"""PGB against its peers on one task: one-shot and recovered, the same recovery for everyone.

    python experiments/compare.py --model runs/minilm-sst2 --data-dir ../shared/data/glue

Finished rows are kept as JSON and not run again, and an interrupted recovery goes on from its last checkpoint; one row
alone can be asked for with ``--only``.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from bertsurgeon import PruneConfig, TrainingOptions, progress, train
from bertsurgeon.benchmark import compare_latency, count_flops, measure_sizes
from bertsurgeon.cli.app import quieten_libraries
from common import Bench, cached, make_bench
from torch_pruning_peer import prune_with_torch_pruning

RUNS = Path(__file__).parent.parent / "runs" / "compare"


def describe(bench: Bench, model: PreTrainedModel, speed: bool = True) -> dict[str, Any]:
    """Quality, size, FLOPs, and speed against the dense model in PyTorch, measured side by side.

    Recovery changes no shape, so the speed of a recovered row is that of its one-shot start.
    """
    result: dict[str, Any] = {
        "metrics": bench.score(model),
        "kept_share": measure_sizes(model).encoder_weights / measure_sizes(bench.model).encoder_weights,
        "flops_share": count_flops(model, 1, 128) / count_flops(bench.model, 1, 128),
    }
    if speed:
        for batch_size in (1, 8):
            latency = compare_latency({"dense": bench.model, "this": model}, batch_size, length=128, runs=20)
            result[f"pytorch_speedup_{batch_size}x128"] = latency["dense"].p50_ms / latency["this"].p50_ms
    return result


def recovered(bench: Bench, name: str, model: PreTrainedModel, options: TrainingOptions) -> dict[str, Any]:
    train(
        model,
        bench.train,
        bench.tokenizer,
        options,
        RUNS / f"{bench.data.task.name}-{name}",
        teacher=bench.model,
        resume=True,
        description=f"Recovering {name}",
    )
    return {"training": asdict(options), "start": name.removesuffix("-recovered"), **describe(bench, model, False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--only", nargs="*", help="rows to run (default: all)")
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    torch.manual_seed(0)
    bench = make_bench(arguments.model, arguments.task, arguments.data_dir, samples=1024, seed=0)
    half, eighth = {"sparsity": 0.5}, {"sparsity": 0.88}

    def pgb(**options: Any) -> Callable[[], PreTrainedModel]:
        return lambda: bench.prune(PruneConfig(method="pgb", **options))

    starts: dict[str, Callable[[], PreTrainedModel]] = {
        "dense": lambda: bench.model,
        "pgb-50": pgb(**half),
        "pgb-assign-50": pgb(**half, grouping="assign"),
        "pgb-magnitude-50": pgb(**half, importance="magnitude"),
        "pgb-no-permutation-50": pgb(**half, grouping="none"),
        "torch-pruning-50": lambda: prune_with_torch_pruning(bench.model, dict(bench.batches[0])),
        "pgb-88": pgb(**eighth),
        "pgb-magnitude-88": pgb(**eighth, importance="magnitude"),
        "pgb-no-permutation-88": pgb(**eighth, grouping="none"),
    }
    one, three = (TrainingOptions(epochs=epochs, batch_size=64, learning_rate=1e-4) for epochs in (1, 3))
    recoveries = {
        "pgb-50-recovered": ("pgb-50", one),
        "pgb-88-recovered": ("pgb-88", three),
        "torch-pruning-50-recovered": ("torch-pruning-50", one),
        "pgb-magnitude-50-recovered": ("pgb-magnitude-50", one),
        "pgb-no-permutation-50-recovered": ("pgb-no-permutation-50", one),
    }
    wanted = arguments.only or [*starts, *recoveries]
    for name in wanted:
        row = f"compare-{arguments.task}/{name}"
        if name in starts:
            cached(row, lambda name=name: describe(bench, starts[name]()))
        else:
            start, options = recoveries[name]
            cached(row, lambda n=name, s=start, o=options: recovered(bench, n, starts[s](), o))


if __name__ == "__main__":
    main()
