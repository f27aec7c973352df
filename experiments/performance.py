"""How long pruning takes and how much memory it needs: a BERT-base-sized model with random weights, 512 × 128 tokens.

    python experiments/performance.py --size base
    python experiments/performance.py --size base --method auto
    python experiments/performance.py --size large --method auto --samples 64
    python experiments/performance.py --scaling
    python experiments/performance.py --model runs/minilm-sst2 --data-dir ../shared/data/glue

Random weights are right for time and memory, never for accuracy. The peak is the whole process's.
"""

import argparse
import resource
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from bertsurgeon import PruneConfig, load_model, progress, prune
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.pruning import PruneReport
from bertsurgeon.tasks import load_task, tokenize
from common import cached

LENGTH = 128
HEAD = 64
SIZES = {"base": (12, 768), "large": (24, 1024)}
"""Layers and width."""
SCALING = (
    *((layers, 384, 128) for layers in (3, 6, 12)),
    *((6, width, 128) for width in (192, 768)),
    *((6, 384, samples) for samples in (64, 256, 512)),
)
"""Layers, width and texts, one varied at a time."""


def measure(report: PruneReport) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"report": report.to_dict(), "total_seconds": sum(report.seconds.values()), "peak_gib": peak}


def options(method: str, grouping: str) -> dict[str, Any]:
    return {"method": method, **({"grouping": grouping} if method == "pgb" else {})}


def prune_random(config: PruneConfig, layers: int, width: int, samples: int) -> dict[str, Any]:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": layers, "num_attention_heads": width // HEAD, "intermediate_size": 4 * width}
    model = AutoModelForSequenceClassification.from_config(BertConfig(hidden_size=width, num_labels=2, **sizes))
    ids = torch.randint(1000, 30000, (samples, LENGTH))
    labels = torch.randint(0, 2, (samples,))
    batches = [
        {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": label}
        for i, label in zip(ids.split(16), labels.split(16), strict=True)
    ]
    return measure(prune(model, batches, replace(config, samples=samples))[1])


def alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Runs it in a process of its own, whose peak of memory is nobody else's."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def prune_folder(folder: str, task: str, data_dir: Path | None, method: str) -> dict[str, Any]:
    tokenizer = load_tokenizer(folder)
    train = tokenize(load_task(task, data_dir).train, tokenizer)
    return measure(prune(load_model(folder), train, PruneConfig(method=method, sparsity=0.5), tokenizer)[1])  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES))
    parser.add_argument("--samples", type=int, default=512, help="texts of 128 tokens, with --size")
    parser.add_argument("--scaling", action="store_true", help="auto, against layers, width and tokens")
    parser.add_argument("--grouping", choices=["sort", "assign"], default="sort")
    parser.add_argument("--method", choices=["pgb", "auto"], default="pgb")
    parser.add_argument("--model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    if arguments.size:
        how = arguments.grouping if arguments.method == "pgb" else "auto"
        config = PruneConfig(sparsity=0.5, **options(arguments.method, arguments.grouping))
        cached(
            f"performance/bert-{arguments.size}-{how}" + ("" if arguments.samples == 512 else f"-{arguments.samples}"),
            lambda: prune_random(config, *SIZES[arguments.size], arguments.samples),
        )
    if arguments.scaling:
        for layers, width, samples in SCALING:
            cached(
                f"performance/scaling-{layers}-{width}-{samples * LENGTH}",
                lambda n=layers, w=width, s=samples: alone(prune_random, PruneConfig(sparsity=0.5), n, w, s),
            )
    if arguments.model:
        cached(
            f"performance/minilm-{arguments.task}" + ("-auto" if arguments.method == "auto" else ""),
            lambda: prune_folder(arguments.model, arguments.task, arguments.data_dir, arguments.method),
        )


if __name__ == "__main__":
    main()
