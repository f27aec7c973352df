"""How long pruning takes and how much memory it needs: a BERT-base-sized model with random weights, 512 × 128 tokens.

    python experiments/performance.py --size base
    python experiments/performance.py --size base --method auto
    python experiments/performance.py --model runs/minilm-sst2 --data-dir ../shared/data/glue

Random weights are right for time and memory, never for accuracy. The peak is the whole process's.
"""

import argparse
import resource
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


def measure(report: PruneReport) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"report": report.to_dict(), "total_seconds": sum(report.seconds.values()), "peak_gib": peak}


def options(method: str, grouping: str) -> dict[str, Any]:
    return {"method": method, **({"grouping": grouping} if method == "pgb" else {})}


def prune_base(method: str, grouping: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig(num_labels=2))
    ids = torch.randint(1000, 30000, (512, 128))
    labels = torch.randint(0, 2, (512,))
    batches = [
        {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": label}
        for i, label in zip(ids.split(16), labels.split(16), strict=True)
    ]
    config = PruneConfig(sparsity=0.5, samples=512, **options(method, grouping))
    return measure(prune(model, batches, config)[1])


def prune_folder(folder: str, task: str, data_dir: Path | None, method: str) -> dict[str, Any]:
    tokenizer = load_tokenizer(folder)
    train = tokenize(load_task(task, data_dir).train, tokenizer)
    return measure(prune(load_model(folder), train, PruneConfig(method=method, sparsity=0.5), tokenizer)[1])  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["base"])
    parser.add_argument("--grouping", choices=["sort", "assign"], default="sort")
    parser.add_argument("--method", choices=["pgb", "auto"], default="pgb")
    parser.add_argument("--model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    if arguments.size == "base":
        how = arguments.grouping if arguments.method == "pgb" else "auto"
        cached(f"performance/bert-base-{how}", lambda: prune_base(arguments.method, arguments.grouping))
    if arguments.model:
        cached(
            f"performance/minilm-{arguments.task}" + ("-auto" if arguments.method == "auto" else ""),
            lambda: prune_folder(arguments.model, arguments.task, arguments.data_dir, arguments.method),
        )


if __name__ == "__main__":
    main()
