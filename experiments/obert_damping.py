"""oBERT's update against none by damping: the order of magnitude, no update, oBERT and greedy at each.

    python experiments/obert_damping.py --model runs/minilm-sst2 --task sst2 --data-dir ../shared/data/glue

The damping λ of F = λI + (1/m) Σ gᵢgᵢᵀ says how far an update may go: without one it is bounded by the weight alone.
Beside the metric each row has the divergence KL(dense ‖ pruned) on 512 training texts that no gradient came from, so
that a damping is chosen without the development set. Finished rows are kept as JSON and not run again.
"""

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from bertsurgeon import PruneConfig, progress
from bertsurgeon.cli.app import quieten_libraries
from common import Probe, cached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the fine-tuned dense model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--sparsities", nargs="*", type=float, default=(0.7, 0.8, 0.9))
    parser.add_argument("--dampings", nargs="*", type=float, default=(1e-7, 1e-6, 1e-5, 1e-4))
    parser.add_argument("--updates", nargs="*", default=("none", "obert", "greedy"))
    parser.add_argument("--rounds", nargs="*", type=int, default=(1,))
    parser.add_argument("--fisher-block-size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    subject = Probe(arguments.model, arguments.task, arguments.data_dir, arguments.seed)

    place = f"obert-damping/{arguments.task}-{arguments.seed}"
    common: dict[str, Any] = {
        "method": "obert",
        "compensation": "none",
        "samples": arguments.samples,
        "seed": arguments.seed,
    }
    common["fisher_block_size"] = arguments.fisher_block_size
    for sparsity in arguments.sparsities:
        magnitude = PruneConfig(score="magnitude", sparsity=sparsity, **common)
        cached(f"{place}/magnitude-{sparsity:g}", partial(subject.one_shot, magnitude))
        for rounds, damping, update in product(arguments.rounds, arguments.dampings, arguments.updates):
            config = PruneConfig(
                sparsity=sparsity, fisher_damping=damping, update=update, recomputations=rounds, **common
            )
            name = f"b{arguments.fisher_block_size}-s{arguments.samples}-{damping:g}-{rounds}-{update}-{sparsity:g}"
            cached(f"{place}/{name}", partial(subject.one_shot, config))


if __name__ == "__main__":
    main()
