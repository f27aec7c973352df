"""Permutation × compensation × group counts at half of the encoder, one-shot; then N_perm and G_max.

python experiments/ablation.py --model runs/minilm-sst2 --data-dir ../shared/data/glue
"""

from itertools import product
from typing import Any

from bertsurgeon import PruneConfig, get_plan
from common import Bench, cached, make_bench, parse_arguments

GROUPINGS = ("none", "random", "sort", "assign")
COMPENSATIONS = ("none", "independent", "sequential")


def run(bench: Bench, config: PruneConfig) -> dict[str, Any]:
    pruned = bench.prune(config)
    plan = get_plan(pruned)
    assert plan is not None
    return {"config": config.to_dict(), "sparsity": plan.sparsity, "metrics": bench.score(pruned)}


def main() -> None:
    arguments = parse_arguments(__doc__)
    bench = make_bench(arguments.model, arguments.task, arguments.data_dir, arguments.samples, arguments.seed)
    folder = f"ablation-{arguments.task}"
    cached(f"{folder}/dense", lambda: {"metrics": bench.score(bench.model)})
    budgets: dict[str, dict[str, Any]] = {"tau": {"sparsity": 0.5}, "uniform": {"groups": 2}}
    common: dict[str, Any] = {"samples": arguments.samples, "seed": arguments.seed}
    for (name, budget), grouping, compensation in product(budgets.items(), GROUPINGS, COMPENSATIONS):
        config = PruneConfig(method="pgb", **budget, **common, grouping=grouping, compensation=compensation)  # type: ignore[arg-type]
        cached(f"{folder}/{name}-{grouping}-{compensation}", lambda config=config: run(bench, config))
    for steps in (1, 2, 12):
        config = PruneConfig(method="pgb", sparsity=0.5, permutation_steps=steps, **common)
        cached(f"{folder}/nperm-{steps}", lambda config=config: run(bench, config))
    for sparsity, max_groups in product((0.5, 0.88), (2, 3, 6, 12)):
        config = PruneConfig(method="pgb", sparsity=sparsity, max_groups=max_groups, **common)
        cached(f"{folder}/gmax-{sparsity}-{max_groups}", lambda config=config: run(bench, config))


if __name__ == "__main__":
    main()
