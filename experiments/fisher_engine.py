"""What inverse Fisher blocks cost: time and peak memory of one pruning of a BERT-base-sized model, by size of a block.

    python experiments/fisher_engine.py
    python experiments/fisher_engine.py --block-sizes 4 --memory-gb 20 --gradients 1024

Random weights, which is right for time and memory. Every block size has a process of its own. Collecting takes time in
proportion to the number of gradients; scores and updates do not. Finished ones are kept as JSON and not run again.
"""

import argparse
import resource
import time
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from bertsurgeon import progress
from bertsurgeon.architectures import get_architecture
from bertsurgeon.calibration import summed_loss
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.second_order import Pattern, StepOptions, collect_inverses, encoder_weights, masks_of, prune_step
from bertsurgeon.second_order import step as step_module
from common import cached
from performance import HEAD, LENGTH, SIZES, alone

BLOCK_SIZES = (4, 32, 48)
TEXTS = 16
"""Texts of a batch, each with a gradient of its own."""


def peak() -> float:
    """Of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(block_size: int, gradients: int, memory_gb: float, layers: int, width: int) -> dict[str, Any]:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": layers, "num_attention_heads": width // HEAD, "intermediate_size": 4 * width}
    model = AutoModelForSequenceClassification.from_config(BertConfig(hidden_size=width, num_labels=2, **sizes)).eval()
    architecture = get_architecture("bert")
    ids = torch.randint(1000, 30000, (gradients, LENGTH))
    labels = torch.randint(0, 2, (gradients,))
    batches = [
        {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": label}
        for i, label in zip(ids.split(TEXTS), labels.split(TEXTS), strict=True)
    ]
    collecting = 0.0

    def collect(*arguments: Any, **options: Any) -> Any:
        nonlocal collecting
        start = time.perf_counter()
        found = collect_inverses(*arguments, **options)
        collecting += time.perf_counter() - start
        return found

    masks = masks_of(model, architecture)
    start = time.perf_counter()
    collect_inverses(
        model, architecture, batches, masks, [], summed_loss, block_size=block_size, damping=1e-7, batch_size=1
    )
    backward, before = time.perf_counter() - start, peak()
    options = StepOptions(Pattern.parse("unstructured"), block_size=block_size, memory=int(memory_gb * 1e9))
    step_module.collect_inverses = collect  # type: ignore[attr-defined]  # to tell its time from that of the rest
    start = time.perf_counter()
    step = prune_step(model, architecture, batches, 0.5, options)
    seconds = time.perf_counter() - start
    weights = sum(weight.numel() for weight in encoder_weights(model, architecture).values())
    return {
        "block_size": block_size,
        "gradients": step.gradients,
        "tokens": LENGTH,
        "memory_gb": memory_gb,
        "encoder_weights": weights,
        "blocks_gib": 4 * block_size * weights / 2**30,
        "passes": step.passes,
        "precision": step.precision,
        "backward_seconds": backward,
        "collecting_seconds": collecting,
        "solving_seconds": seconds - collecting,
        "peak_without_gib": before,
        "peak_gib": peak(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--block-sizes", nargs="*", type=int, default=BLOCK_SIZES)
    parser.add_argument("--gradients", type=int, default=64)
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--layers", type=int, default=SIZES["base"][0])
    parser.add_argument("--width", type=int, default=SIZES["base"][1])
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    shape = f"{arguments.layers}-{arguments.width}"
    for block_size in arguments.block_sizes:
        cached(
            f"fisher_engine/{shape}-b{block_size}-m{arguments.gradients}-{arguments.memory_gb:g}gb",
            lambda b=block_size: alone(
                measure, b, arguments.gradients, arguments.memory_gb, arguments.layers, arguments.width
            ),
        )


if __name__ == "__main__":
    main()
