"""oBERT's update against none by damping: the order of magnitude, no update, oBERT and greedy at each.

    python experiments/obert_damping.py --model runs/minilm-sst2 --data-dir ../shared/data/glue --samples 512

The damping λ of F = λI + (1/m) Σ gᵢgᵢᵀ takes the choice towards magnitude's, and the update towards none. Beside the
metric each row has the divergence KL(dense ‖ pruned) on 512 training texts that no gradient came from, so that a
damping is chosen without the development set. Finished rows are kept as JSON and not run again.
"""

from functools import partial
from itertools import product
from typing import Any

from bertsurgeon import PruneConfig
from common import Probe, cached, parse_arguments

SPARSITIES = (0.7, 0.8, 0.9)
DAMPINGS = (1e-7, 1e-6, 1e-5, 1e-4)
UPDATES = ("none", "obert", "greedy")


def main() -> None:
    arguments = parse_arguments(__doc__)
    subject = Probe(arguments.model, arguments.task, arguments.data_dir, arguments.seed)
    place = f"obert-damping/{arguments.task}-{arguments.seed}"
    common: dict[str, Any] = {
        "method": "obert",
        "compensation": "none",
        "samples": arguments.samples,
        "seed": arguments.seed,
    }
    for sparsity in SPARSITIES:
        magnitude = PruneConfig(score="magnitude", sparsity=sparsity, **common)
        cached(f"{place}/magnitude-{sparsity:g}", partial(subject.one_shot, magnitude))
        for damping, update in product(DAMPINGS, UPDATES):
            config = PruneConfig(sparsity=sparsity, fisher_damping=damping, update=update, **common)
            name = f"s{arguments.samples}-{damping:g}-{update}-{sparsity:g}"
            cached(f"{place}/{name}", partial(subject.one_shot, config))


if __name__ == "__main__":
    main()
