"""oBERT after PGB and ``auto``: half of the encoder is removed by structure, then single weights, against oBERT alone.

    python experiments/grouped_zeros.py --model runs/minilm-sst2 --data-dir ../shared/data/glue --samples 512

All in one shot, four rounds of gradients for oBERT, with and without compensation. Shares are of the dense encoder's
weights: with 20 % kept, half of them are removed by structure, and oBERT zeroes three fifths of the rest.
"""

from dataclasses import replace
from functools import cache
from itertools import product

from bertsurgeon import ObertConfig, Sparsity, prune
from bertsurgeon.methods.obert.config import MaskCompensation
from bertsurgeon.methods.registry import METHODS
from lib.common import make_task_parser, parse_arguments
from lib.models import TaskModel, load_task_model
from lib.results_store import ResultsStore

STRUCTURES = ("pgb", "auto", None)
COMPENSATIONS: dict[MaskCompensation, str] = {"none": "", "sequential": "-refitted"}
"""Endings of the rows' names."""
KEPT_BY_STRUCTURE = 0.5
KEPT = (0.3, 0.2, 0.1)
ROUNDS = 4


def main() -> None:
    arguments = parse_arguments(make_task_parser(__doc__))
    results = ResultsStore("grouped_zeros", arguments)
    dense = load_task_model(arguments.model, arguments.task, arguments.data_dir)

    @cache
    def structured(method: str) -> TaskModel:
        config = METHODS[method].config(Sparsity(1 - KEPT_BY_STRUCTURE), seed=arguments.seed)
        return replace(dense, model=prune(dense.model, config, dense.train, dense.tokenizer)[0])

    for method in STRUCTURES:
        prefix = f"{arguments.task}-{arguments.seed}/{method or 'none'}"
        configuration = {"task": arguments.task, "structure": method or "none"}
        share = 1.0 if method is None else KEPT_BY_STRUCTURE
        if method is not None:
            results.run(
                f"{prefix}-start",
                lambda m=method: {"metrics": structured(m).score(structured(m).model)},
                configuration,
            )
        for kept, compensation in product(KEPT, COMPENSATIONS):
            config = ObertConfig(
                Sparsity(1 - kept / share),
                compensation=compensation,
                recomputations=ROUNDS,
                samples=arguments.samples,
                fisher_block_size=32,
                seed=arguments.seed,
            )
            results.run(
                f"{prefix}-{kept:g}{COMPENSATIONS[compensation]}",
                lambda m=method, c=config: (dense if m is None else structured(m)).one_shot(c),
                {**configuration, "kept": kept, "pruning": config.to_dict()},
            )


if __name__ == "__main__":
    main()
