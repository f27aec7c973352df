"""oBERT in one shot: what recomputing, updating and compensation are worth at each sparsity, against magnitude.

    python experiments/obert.py --model runs/minilm-sst2 --task sst2 --data-dir ../shared/data/glue

Finished rows are kept as JSON and not run again; ``--sparsities``, ``--rounds``, ``--updates`` and ``--compensations``
choose fewer of them.
"""

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import PruneConfig, evaluate, load_model, progress, prune
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.tasks import TaskData, load_task, tokenize
from common import cached

SPARSITIES = (0.5, 0.7, 0.8, 0.9)
ROUNDS = (1, 4, 16)
UPDATES = ("obert", "greedy", "none")
COMPENSATIONS = {"none": "", "sequential": "-refitted"}
"""With what their rows' names end."""


@dataclass
class Subject:
    """A dense model with its task."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    train: Dataset
    validation: Dataset

    def score(self, model: PreTrainedModel) -> dict[str, float]:
        """The task's metrics."""
        return evaluate(model, self.validation, self.tokenizer, self.data.task)


def load(model: str, task: str, data_dir: Path | None) -> Subject:
    network, tokenizer, data = load_model(model), load_tokenizer(model), load_task(task, data_dir)
    return Subject(network, tokenizer, data, *(tokenize(part, tokenizer) for part in (data.train, data.validation)))


def one_shot(subject: Subject, config: PruneConfig) -> dict[str, Any]:
    model, report = prune(subject.model, subject.train, config, subject.tokenizer)
    return {"metrics": subject.score(model), "pruning": report.to_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the fine-tuned dense model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--sparsities", nargs="*", type=float, default=SPARSITIES)
    parser.add_argument("--rounds", nargs="*", type=int, default=ROUNDS)
    parser.add_argument("--updates", nargs="*", default=UPDATES)
    parser.add_argument("--compensations", nargs="*", default=tuple(COMPENSATIONS))
    parser.add_argument("--pattern", default="unstructured")
    parser.add_argument("--fisher-block-size", type=int, default=32)
    parser.add_argument("--fisher-damping", type=float, default=1e-7)
    parser.add_argument("--fisher-batch-size", type=int, default=1)
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    set_seed(arguments.seed)
    subject = load(arguments.model, arguments.task, arguments.data_dir)
    place = f"obert/{arguments.task}-{arguments.seed}"
    cached(f"{place}/dense", lambda: {"metrics": subject.score(subject.model)})
    common = {"method": "obert", "pattern": arguments.pattern, "seed": arguments.seed}
    fisher = {
        name: getattr(arguments, name)
        for name in ("fisher_block_size", "fisher_damping", "fisher_batch_size", "memory_gb", "samples")
    }
    settings = f"{arguments.pattern.replace(':', 'of')}-b{fisher['fisher_block_size']}-l{fisher['fisher_damping']:g}"
    settings += f"-k{fisher['fisher_batch_size']}-s{fisher['samples'] or 'default'}"
    for sparsity, compensation in product(arguments.sparsities, arguments.compensations):
        options = common | {"sparsity": sparsity, "compensation": compensation}
        end = f"{sparsity:g}{COMPENSATIONS[compensation]}"
        magnitude = PruneConfig(score="magnitude", **options)
        name = f"{place}/{arguments.pattern.replace(':', 'of')}-magnitude-{end}"
        cached(name, lambda c=magnitude: one_shot(subject, c))
        for rounds, update in product(arguments.rounds, arguments.updates):
            config = PruneConfig(update=update, recomputations=rounds, **options, **fisher)
            cached(f"{place}/{settings}-{update}-{rounds}-{end}", lambda c=config: one_shot(subject, c))


if __name__ == "__main__":
    main()
