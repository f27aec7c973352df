"""oBERT in one shot: how far it goes at each sparsity, what recomputing and updating are worth, against magnitude.

    python experiments/obert.py --model runs/minilm-sst2 --task sst2 --data-dir ../shared/data/glue

Finished rows are kept as JSON and not run again; ``--sparsities``, ``--rounds`` and ``--updates`` choose fewer of them.
"""

import argparse
from dataclasses import dataclass
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
    for sparsity in arguments.sparsities:
        magnitude = PruneConfig(sparsity=sparsity, score="magnitude", **common)
        name = f"{place}/{arguments.pattern.replace(':', 'of')}-magnitude-{sparsity:g}"
        cached(name, lambda c=magnitude: one_shot(subject, c))
        for rounds in arguments.rounds:
            for update in arguments.updates:
                config = PruneConfig(sparsity=sparsity, update=update, recomputations=rounds, **common, **fisher)
                cached(f"{place}/{settings}-{update}-{rounds}-{sparsity:g}", lambda c=config: one_shot(subject, c))


if __name__ == "__main__":
    main()
