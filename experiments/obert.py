"""oBERT in one shot: the effect of recomputing, updating and compensation at each sparsity, against magnitude.

    python experiments/obert.py --model runs/minilm-sst2 --task sst2 --data-dir ../shared/data/glue

``--sparsities``, ``--rounds``, ``--updates`` and ``--compensations`` select fewer rows.
"""

from functools import partial
from itertools import product
from pathlib import Path

from transformers import set_seed

from bertsurgeon import ObertConfig, Sparsity
from lib.common import make_parser, parse_arguments
from lib.models import load_task_model
from lib.results_store import ResultsStore

SPARSITIES = (0.5, 0.7, 0.8, 0.9)
ROUNDS = (1, 4, 16)
UPDATES = ("obert", "greedy", "none")
COMPENSATIONS = {"none": "", "sequential": "-refitted"}
"""Endings of the rows' names."""


def main() -> None:
    parser = make_parser(__doc__)
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
    arguments = parse_arguments(parser)
    results = ResultsStore("obert", arguments)
    set_seed(arguments.seed)
    dense = load_task_model(arguments.model, arguments.task, arguments.data_dir)
    prefix = f"{arguments.task}-{arguments.seed}"

    def run(name: str, config: ObertConfig) -> None:
        configuration = {"task": arguments.task, "pruning": config.to_dict()}
        results.run(f"{prefix}/{name}", partial(dense.one_shot, config), configuration)

    results.run(f"{prefix}/dense", lambda: {"metrics": dense.score(dense.model)}, {"task": arguments.task})
    common = {"pattern": arguments.pattern, "seed": arguments.seed}
    fisher = {
        name: getattr(arguments, name)
        for name in ("fisher_block_size", "fisher_damping", "fisher_batch_size", "memory_gb", "samples")
    }
    settings = f"{arguments.pattern.replace(':', 'of')}-b{fisher['fisher_block_size']}-l{fisher['fisher_damping']:g}"
    settings += f"-k{fisher['fisher_batch_size']}-s{fisher['samples'] or 'default'}"
    for sparsity, compensation in product(arguments.sparsities, arguments.compensations):
        options = common | {"budget": Sparsity(sparsity), "compensation": compensation}
        ending = f"{sparsity:g}{COMPENSATIONS[compensation]}"
        magnitude = ObertConfig(score="magnitude", **options)
        run(f"{arguments.pattern.replace(':', 'of')}-magnitude-{ending}", magnitude)
        for rounds, update in product(arguments.rounds, arguments.updates):
            config = ObertConfig(update=update, recomputations=rounds, **options, **fisher)
            run(f"{settings}-{update}-{rounds}-{ending}", config)


if __name__ == "__main__":
    main()
