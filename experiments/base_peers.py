r"""Retraining-free methods from papers and `auto`, on the dense models of the base-size study, with the same budgets.

    python experiments/base_peers.py --data-dir ../shared/data/glue --tasks cola

All have the calibration texts of `auto` (those of its default: 24,576 tokens or more): Kwon et al. with their labels,
the others without. K-prune measures knowledge on a part of them, at each of 24 sub-layers again, and gets the best of
three balances, by the squared difference of its outputs from the dense ones on the calibration texts. Nothing is
trained afterwards.
Rows are `TASK/METHOD-SHARE`; SHARE of the encoder's weights is kept.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from base_study import SHARES as STUDY_SHARES
from base_study import BaseTask, add_options, open_task, prune_auto
from bertsurgeon.calibration import Batch, make_batches
from bertsurgeon.tasks import model_inputs
from lib.common import make_parser, parse_arguments
from lib.results_store import ResultsStore
from peers.drone import prune_by_data_aware_rank
from peers.k_prune import BALANCES, prune_by_knowledge
from peers.kwon import prune_by_fisher
from peers.magnitude import prune_by_magnitude

SHARES = (0.6, 0.5, 0.4, 0.25, 0.12)
BATCH_SIZE = 32
MEASURED = 8
"""Every so many batches of the calibration texts one is used to measure knowledge, at every sub-layer again."""

Pruned = tuple[PreTrainedModel, float]


def labeled_batches(task: BaseTask) -> list[Batch]:
    return make_batches(task.training, task.tokenizer, None, BATCH_SIZE, task.seed, model=task.dense)


def unlabeled_batches(task: BaseTask) -> list[Batch]:
    return [model_inputs(batch) for batch in labeled_batches(task)]


@torch.no_grad()
def output_error(task: BaseTask, model: PreTrainedModel, batches: list[Batch]) -> float:
    """Returns the sum of the squared differences of the outputs on calibration texts."""
    errors = [(model(**batch).logits - task.dense(**batch).logits).square().sum() for batch in batches]
    return float(sum(errors))


def k_prune(task: BaseTask, share: float) -> Pruned:
    batches = unlabeled_batches(task)
    measured = batches[::MEASURED]
    made = [prune_by_knowledge(task.dense, share, batches, measured, balance, task.seed) for balance in BALANCES]
    return min(made, key=lambda one: output_error(task, one[0], batches))


METHODS: dict[str, Callable[[BaseTask, float], Pruned]] = {
    "kwon": lambda task, share: prune_by_fisher(task.dense, share, labeled_batches(task)),
    "k-prune": k_prune,
    "drone": lambda task, share: prune_by_data_aware_rank(task.dense, share, unlabeled_batches(task)),
    "magnitude": lambda task, share: prune_by_magnitude(task.dense, share),
}


def measure(task: BaseTask, method: str, share: float) -> dict[str, Any]:
    start = time.perf_counter()
    model, kept = METHODS[method](task, share)
    seconds = time.perf_counter() - start
    scores = task.score(model)
    # the model is dense with zeros, so its own sizes mean nothing
    return {"metrics": scores["metrics"], "agreement": scores["agreement"], "kept": kept, "pruning_seconds": seconds}


def measure_auto(task: BaseTask, share: float) -> dict[str, Any]:
    model, measured = prune_auto(task, share)
    return {**task.score(model), **measured}


def rows_of(
    task: BaseTask, methods: list[str], shares: list[float]
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for share in shares:
        if share not in STUDY_SHARES:
            yield f"auto-{share:g}", partial(measure_auto, task, share)
        for method in methods:
            yield f"{method}-{share:g}", partial(measure, task, method, share)


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--shares", nargs="*", type=float, default=list(SHARES))
    arguments = parse_arguments(parser)
    for name in arguments.tasks:
        task = open_task(name, arguments)
        results = ResultsStore("base_peers", arguments)
        for row, make in rows_of(task, arguments.methods, arguments.shares):
            results.run(f"{name}/{row}", make, {"task": name, "encoder": arguments.encoder.name})


if __name__ == "__main__":
    main()
