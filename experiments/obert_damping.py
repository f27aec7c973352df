"""oBERT by damping: magnitude, and no update, oBERT's and the greedy one at each damping.

    python experiments/obert_damping.py --model runs/minilm-sst2 --data-dir ../shared/data/glue --samples 512

The larger the damping λ of F = λI + (1/m) Σ gᵢgᵢᵀ, the closer the selection is to that of magnitude, and the update to
none. Besides the metric, each row has the divergence KL(dense ‖ pruned) on 512 training texts that are not used for
gradients, so that a damping is chosen without the development set.
"""

from functools import partial
from itertools import product
from typing import Any

from bertsurgeon import ObertConfig, Sparsity
from bertsurgeon.methods.obert.step import Update
from lib.common import make_task_parser, parse_arguments
from lib.models import Probe
from lib.results_store import ResultsStore

SPARSITIES = (0.7, 0.8, 0.9)
DAMPINGS = (1e-7, 1e-6, 1e-5, 1e-4)
UPDATES: tuple[Update, ...] = ("none", "obert", "greedy")


def main() -> None:
    arguments = parse_arguments(make_task_parser(__doc__))
    results = ResultsStore("obert_damping", arguments)
    probe = Probe(arguments.model, arguments.task, arguments.data_dir, arguments.seed)
    prefix = f"{arguments.task}-{arguments.seed}"

    def run(name: str, config: ObertConfig) -> None:
        configuration = {"task": arguments.task, "pruning": config.to_dict()}
        results.run(f"{prefix}/{name}", partial(probe.one_shot, config), configuration)

    common: dict[str, Any] = {
        "compensation": "none",
        "samples": arguments.samples,
        "seed": arguments.seed,
    }
    for sparsity in SPARSITIES:
        magnitude = ObertConfig(Sparsity(sparsity), score="magnitude", **common)
        run(f"magnitude-{sparsity:g}", magnitude)
        for damping, update in product(DAMPINGS, UPDATES):
            config = ObertConfig(Sparsity(sparsity), fisher_damping=damping, update=update, **common)
            run(f"s{arguments.samples}-{damping:g}-{update}-{sparsity:g}", config)


if __name__ == "__main__":
    main()
