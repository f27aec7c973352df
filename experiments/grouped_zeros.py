"""oBERT inside what PGB and ``auto`` leave: half of the encoder by structure, then single weights, against oBERT alone.

    python experiments/grouped_zeros.py --model runs/minilm-sst2 --data-dir ../shared/data/glue --samples 512

All in one shot, four rounds of gradients for oBERT. Shares are of the dense encoder's weights: 20 % kept after half of
them are structure's means that oBERT zeroes three fifths of the rest. Finished rows are kept as JSON and not run again.
"""

import argparse
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from bertsurgeon import PruneConfig, progress, prune
from bertsurgeon.cli.app import quieten_libraries
from common import cached
from obert import Subject, load

STRUCTURES = ("pgb", "auto", None)
KEPT_BY_STRUCTURE = 0.5
KEPT = (0.3, 0.2, 0.1)
ROUNDS = 4


def structured(subject: Subject, method: str | None, seed: int) -> PreTrainedModel:
    """What a method leaves of the dense model at ``KEPT_BY_STRUCTURE``; the dense model for none."""
    if method is None:
        return subject.model
    config = PruneConfig(method=method, sparsity=1 - KEPT_BY_STRUCTURE, seed=seed)  # type: ignore[arg-type]
    return prune(subject.model, subject.train, config, subject.tokenizer)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the fine-tuned dense model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    set_seed(arguments.seed)
    subject = load(arguments.model, arguments.task, arguments.data_dir)
    for method in STRUCTURES:
        start = structured(subject, method, arguments.seed)
        share = 1.0 if method is None else KEPT_BY_STRUCTURE

        def thinned(kept: float, start: PreTrainedModel = start, share: float = share) -> dict[str, Any]:
            config = PruneConfig(
                method="obert",
                sparsity=1 - kept / share,
                recomputations=ROUNDS,
                samples=arguments.samples,
                fisher_block_size=32,
                seed=arguments.seed,
            )
            model, report = prune(start, subject.train, config, subject.tokenizer)
            return {"kept": kept, "metrics": subject.score(model), "pruning": report.to_dict()}

        place = f"grouped_zeros/{arguments.task}-{arguments.seed}/{method or 'none'}"
        if method is not None:
            cached(f"{place}-start", lambda m=start: {"metrics": subject.score(m)})
        for kept in KEPT:
            cached(f"{place}-{kept:g}", lambda k=kept, f=thinned: f(k))


if __name__ == "__main__":
    main()
