"""Time and peak memory of one pruning with inverse Fisher blocks, by their size, at the size of BERT-base.

    python experiments/fisher_engine.py
    python experiments/fisher_engine.py --block-sizes 4 --memory-gb 20 --gradients 1024

Weights are random, which does not change time and memory. Every block size runs in a new process. The time of
collecting is proportional to the number of gradients; that of scores and updates does not depend on it.
"""

import time
from functools import partial
from typing import Any

import torch

from bertsurgeon.calibration import summed_loss
from bertsurgeon.layers.masks import encoder_weights, masks_of
from bertsurgeon.methods.obert import step as step_module
from bertsurgeon.methods.obert.collect import collect_inverses
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.step import StepConfig, prune_step
from lib.common import (
    BERT_SIZES,
    LENGTH,
    make_parser,
    parse_arguments,
    peak_memory_gib,
    random_batches,
    random_bert,
    run_in_subprocess,
)
from lib.results_store import ResultsStore

BLOCK_SIZES = (4, 32, 48)


def measure(block_size: int, gradients: int, memory_gb: float, layers: int, width: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = random_bert(layers, width)
    batches = random_batches(gradients)
    collecting = 0.0

    def collect(*arguments: Any, **options: Any) -> Any:
        nonlocal collecting
        start = time.perf_counter()
        inverses = collect_inverses(*arguments, **options)
        collecting += time.perf_counter() - start
        return inverses

    masks = masks_of(model)
    start = time.perf_counter()
    collect_inverses(model, batches, masks, [], summed_loss, block_size=block_size, damping=1e-7, batch_size=1)
    backward, peak_without = time.perf_counter() - start, peak_memory_gib()
    options = StepConfig(Pattern.parse("unstructured"), block_size=block_size, memory=int(memory_gb * 1e9))
    step_module.collect_inverses = collect  # to time it apart from the rest
    start = time.perf_counter()
    step = prune_step(model, batches, 0.5, options)
    seconds = time.perf_counter() - start
    weights = sum(weight.numel() for weight in encoder_weights(model).values())
    return {
        "samples": step.gradients,
        "encoder_weights": weights,
        "blocks_gib": 4 * block_size * weights / 2**30,
        "passes": step.passes,
        "precision": step.precision,
        "backward_seconds": backward,
        "collecting_seconds": collecting,
        "solving_seconds": seconds - collecting,
        "peak_without_gib": peak_without,
        "peak_gib": peak_memory_gib(),
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--block-sizes", nargs="*", type=int, default=BLOCK_SIZES)
    parser.add_argument("--gradients", type=int, default=64)
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--layers", type=int, default=BERT_SIZES["base"][0])
    parser.add_argument("--width", type=int, default=BERT_SIZES["base"][1])
    arguments = parse_arguments(parser)
    results = ResultsStore("fisher_engine", arguments)
    shape = f"{arguments.layers}-{arguments.width}"
    for block_size in arguments.block_sizes:
        configuration = {
            "layers": arguments.layers,
            "width": arguments.width,
            "block_size": block_size,
            "gradients": arguments.gradients,
            "tokens": LENGTH,
            "memory_gb": arguments.memory_gb,
        }
        options = (block_size, arguments.gradients, arguments.memory_gb, arguments.layers, arguments.width)
        results.run(
            f"{shape}-b{block_size}-m{arguments.gradients}-{arguments.memory_gb:g}gb",
            partial(run_in_subprocess, measure, *options),
            configuration,
            seed=0,
        )


if __name__ == "__main__":
    main()
