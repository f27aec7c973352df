"""Permutation × compensation × group counts at half of the encoder, one-shot; then N_perm and G_max.

python experiments/ablation.py --model runs/minilm-sst2 --data-dir ../shared/data/glue
"""

from itertools import product
from typing import Any

from bertsurgeon import Groups, PgbConfig, Sparsity, get_plan
from bertsurgeon.budgets import Budget
from lib.common import make_task_parser, parse_arguments
from lib.models import StatisticsModel, load_with_statistics
from lib.results_store import ResultsStore

GROUPINGS = ("none", "random", "sort", "assign")
COMPENSATIONS = ("none", "independent", "sequential")


def measure(dense: StatisticsModel, config: PgbConfig) -> dict[str, Any]:
    pruned = dense.prune(config)
    plan = get_plan(pruned)
    assert plan is not None
    return {"sparsity": plan.sparsity, "metrics": dense.score(pruned)}


def main() -> None:
    arguments = parse_arguments(make_task_parser(__doc__))
    task = arguments.task
    results = ResultsStore("ablation", arguments)
    dense = load_with_statistics(arguments.model, task, arguments.data_dir, arguments.samples, arguments.seed)

    def run(name: str, budget: Budget, **options: Any) -> None:
        config = PgbConfig(budget, samples=arguments.samples, seed=arguments.seed, **options)
        configuration = {"task": task, "pruning": config.to_dict()}
        results.run(f"{task}/{name}", lambda: measure(dense, config), configuration, arguments.samples)

    results.run(f"{task}/dense", lambda: {"metrics": dense.score(dense.model)}, {"task": task})
    budgets: dict[str, Budget] = {"tau": Sparsity(0.5), "uniform": Groups(2)}
    for (name, budget), grouping, compensation in product(budgets.items(), GROUPINGS, COMPENSATIONS):
        run(f"{name}-{grouping}-{compensation}", budget, grouping=grouping, compensation=compensation)
    for steps in (1, 2, 12):
        run(f"nperm-{steps}", Sparsity(0.5), permutation_steps=steps)
    for sparsity, max_groups in product((0.5, 0.88), (2, 3, 6, 12)):
        run(f"gmax-{sparsity}-{max_groups}", Sparsity(sparsity), max_groups=max_groups)


if __name__ == "__main__":
    main()
