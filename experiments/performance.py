"""Time and memory of pruning: a model of BERT-base's size with random weights, 512 × 128 tokens.

    python experiments/performance.py --size base
    python experiments/performance.py --size base --method auto
    python experiments/performance.py --size large --method auto --samples 64
    python experiments/performance.py --scaling
    python experiments/performance.py --model runs/minilm-sst2 --data-dir ../shared/data/glue

Random weights do not change time and memory. The peak is that of the whole process.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bertsurgeon import AutoConfig, PruneConfig, PruneReport, Sparsity, load_model, prune
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.methods.registry import METHODS
from bertsurgeon.tasks import load_task, tokenize
from lib.common import (
    BERT_SIZES,
    LENGTH,
    make_parser,
    parse_arguments,
    peak_memory_gib,
    random_batches,
    random_bert,
    run_in_subprocess,
    summarize_report,
)
from lib.results_store import ResultsStore

SCALING = (
    *((layers, 384, 128) for layers in (3, 6, 12)),
    *((6, width, 128) for width in (192, 768)),
    *((6, 384, samples) for samples in (64, 256, 512)),
)
"""Layers, width and texts, one varied at a time."""


def measure(report: PruneReport) -> dict[str, Any]:
    return {
        "samples": report.samples,
        "report": summarize_report(report),
        "total_seconds": sum(report.seconds.values()),
        "peak_gib": peak_memory_gib(),
    }


def prune_random(config: PruneConfig, layers: int, width: int, samples: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = random_bert(layers, width)
    return measure(prune(model, replace(config, samples=samples), random_batches(samples))[1])


def prune_folder(config: PruneConfig, folder: str, task: str, data_dir: Path | None) -> dict[str, Any]:
    tokenizer = load_tokenizer(folder)
    train = tokenize(load_task(task, data_dir).train, tokenizer)
    return measure(prune(load_model(folder), config, train, tokenizer)[1])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--size", choices=list(BERT_SIZES))
    parser.add_argument("--samples", type=int, default=512, help="texts of 128 tokens, with --size")
    parser.add_argument("--scaling", action="store_true", help="auto, against layers, width and tokens")
    parser.add_argument("--grouping", choices=["sort", "assign"], default="sort")
    parser.add_argument("--method", choices=["pgb", "auto"], default="pgb")
    parser.add_argument("--model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path)
    arguments = parse_arguments(parser)
    results = ResultsStore("performance", arguments)
    if arguments.size:
        layers, width = BERT_SIZES[arguments.size]
        samples = arguments.samples
        grouping = {"grouping": arguments.grouping} if arguments.method == "pgb" else {}
        config = METHODS[arguments.method].config(Sparsity(0.5), **grouping)
        name = f"bert-{arguments.size}-{grouping.get('grouping', 'auto')}"
        results.run(
            name if samples == 512 else f"{name}-{samples}",
            lambda: prune_random(config, layers, width, samples),
            {"layers": layers, "width": width, "tokens": samples * LENGTH, "pruning": config.to_dict()},
            seed=0,
        )
    if arguments.scaling:
        config = AutoConfig(Sparsity(0.5))
        for layers, width, samples in SCALING:
            tokens = samples * LENGTH
            results.run(
                f"scaling-{layers}-{width}-{tokens}",
                partial(run_in_subprocess, prune_random, config, layers, width, samples),
                {"layers": layers, "width": width, "tokens": tokens, "pruning": config.to_dict()},
                seed=0,
            )
    if arguments.model:
        config = METHODS[arguments.method].config(Sparsity(0.5))
        results.run(
            f"minilm-{arguments.task}" + ("-auto" if arguments.method == "auto" else ""),
            lambda: prune_folder(config, arguments.model, arguments.task, arguments.data_dir),
            {"task": arguments.task, "pruning": config.to_dict()},
            seed=0,
        )


if __name__ == "__main__":
    main()
