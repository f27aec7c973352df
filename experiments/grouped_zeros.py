"""oBERT inside what PGB and ``auto`` leave: half of the encoder by structure, then single weights, against oBERT alone.

    python experiments/grouped_zeros.py --model runs/minilm-sst2 --data-dir ../shared/data/glue --samples 512

All in one shot, four rounds of gradients for oBERT, with and without compensation. Shares are of the dense encoder's
weights: 20 % kept after half of them are structure's means that oBERT zeroes three fifths of the rest. Finished rows
are kept as JSON and not run again.
"""

from dataclasses import replace
from functools import cache
from itertools import product

from bertsurgeon import PruneConfig, prune
from common import cached, parse_arguments
from obert import COMPENSATIONS, Subject, load, one_shot

STRUCTURES = ("pgb", "auto", None)
KEPT_BY_STRUCTURE = 0.5
KEPT = (0.3, 0.2, 0.1)
ROUNDS = 4


def main() -> None:
    arguments = parse_arguments(__doc__)
    subject = load(arguments.model, arguments.task, arguments.data_dir)

    @cache
    def structured(method: str) -> Subject:
        config = PruneConfig(method=method, sparsity=1 - KEPT_BY_STRUCTURE, seed=arguments.seed)  # type: ignore[arg-type]
        return replace(subject, model=prune(subject.model, subject.train, config, subject.tokenizer)[0])

    for method in STRUCTURES:
        place = f"grouped_zeros/{arguments.task}-{arguments.seed}/{method or 'none'}"
        share = 1.0 if method is None else KEPT_BY_STRUCTURE
        if method is not None:
            cached(f"{place}-start", lambda m=method: {"metrics": structured(m).score(structured(m).model)})
        for kept, compensation in product(KEPT, COMPENSATIONS):
            config = PruneConfig(
                method="obert",
                compensation=compensation,  # type: ignore[arg-type]
                sparsity=1 - kept / share,
                recomputations=ROUNDS,
                samples=arguments.samples,
                fisher_block_size=32,
                seed=arguments.seed,
            )
            cached(
                f"{place}-{kept:g}{COMPENSATIONS[compensation]}",
                lambda m=method, c=config: one_shot(subject if m is None else structured(m), c),
            )


if __name__ == "__main__":
    main()
