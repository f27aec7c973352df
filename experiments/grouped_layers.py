"""Ways to compute an aligned grouped projection in PyTorch, timed against the dense one (BERT-base's shape, 8 x 128).

    python experiments/grouped_layers.py

Query, key and value of one attention share the gathered input; each implementation returns the same three tensors.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lib.common import make_parser, parse_arguments
from lib.results_store import ResultsStore

HIDDEN = 768
CHUNK = 32
"""Neighboring channels that are in the same group."""
RUNS = 60

Implementation = Callable[[Tensor], tuple[Tensor, ...]]


def implementations(groups: int) -> dict[str, Implementation]:
    """Returns functions of an input of shape (batch, tokens, hidden)."""
    width = HIDDEN // groups
    generator = torch.Generator().manual_seed(0)
    dense = [torch.randn(HIDDEN, HIDDEN, generator=generator) for _ in range(3)]
    biases = [torch.randn(HIDDEN, generator=generator) for _ in range(3)]
    blocks = [[weight[g * width : (g + 1) * width, :width].contiguous() for g in range(groups)] for weight in dense]
    fused = [torch.cat([weights[g] for weights in blocks]) for g in range(groups)]
    fused_bias = [torch.cat([bias[g * width : (g + 1) * width] for bias in biases]) for g in range(groups)]
    stacked = [torch.stack(weights).transpose(1, 2).contiguous() for weights in blocks]
    chunks = torch.randperm(HIDDEN // CHUNK, generator=generator)
    order = (CHUNK * chunks.unsqueeze(1) + torch.arange(CHUNK)).flatten()

    def gathered(x: Tensor) -> Tensor:
        return x.gather(-1, order.expand(*x.shape[:-1], -1))

    def loop(x: Tensor) -> tuple[Tensor, ...]:
        """Computes as ``GroupedLinear`` does: each matrix gathers, multiplies group by group and concatenates."""
        outputs = []
        for weights, bias in zip(blocks, biases, strict=True):
            parts = gathered(x).split(width, -1)
            outputs.append(torch.cat([F.linear(p, w) for p, w in zip(parts, weights, strict=True)], -1) + bias)
        return tuple(outputs)

    def one_gather(x: Tensor) -> tuple[Tensor, ...]:
        parts = gathered(x).split(width, -1)
        return tuple(
            torch.cat([F.linear(p, w) for p, w in zip(parts, weights, strict=True)], -1) + bias
            for weights, bias in zip(blocks, biases, strict=True)
        )

    def one_product(x: Tensor) -> tuple[Tensor, ...]:
        """Computes one product per group for all three matrices, then one concatenation per matrix."""
        products = [
            F.linear(part, weight, bias).split(width, -1)
            for part, weight, bias in zip(gathered(x).split(width, -1), fused, fused_bias, strict=True)
        ]
        return tuple(torch.cat([product[i] for product in products], -1) for i in range(3))

    def chunked(x: Tensor) -> Tensor:
        """Returns the gathered input, copied in chunks of neighboring channels."""
        return x.view(*x.shape[:-1], -1, CHUNK).index_select(-2, chunks).flatten(-2)

    def written_in_place(x: Tensor, gather: Callable[[Tensor], Tensor] = gathered) -> tuple[Tensor, ...]:
        """Writes each product to its part of the output, without concatenation."""
        flat = gather(x).reshape(-1, HIDDEN)
        outputs = []
        for weights, bias in zip(blocks, biases, strict=True):
            out = x.new_empty(len(flat), HIDDEN)
            for g, weight in enumerate(weights):
                part = slice(g * width, (g + 1) * width)
                torch.addmm(bias[part], flat[:, part], weight.t(), out=out[:, part])
            outputs.append(out.reshape(*x.shape[:-1], HIDDEN))
        return tuple(outputs)

    def batched(x: Tensor) -> tuple[Tensor, ...]:
        """Computes one batched product per matrix over the groups, whose output is strided into place."""
        flat = gathered(x).reshape(-1, groups, width).transpose(0, 1)
        outputs = []
        for weights, bias in zip(stacked, biases, strict=True):
            out = x.new_empty(flat.shape[1], groups, width)
            torch.bmm(flat, weights, out=out.transpose(0, 1))
            outputs.append(out.reshape(*x.shape[:-1], HIDDEN) + bias)
        return tuple(outputs)

    def reference(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.linear(x, weight, bias) for weight, bias in zip(dense, biases, strict=True))

    return {
        "dense": reference,
        "loop": loop,
        "one gather": one_gather,
        "one product per group": one_product,
        "written in place": written_in_place,
        "written in place, neighbors copied together": lambda x: written_in_place(x, chunked),
        "batched": batched,
        "one product per group, compiled": torch.compile(one_product, dynamic=True),
        "one gather, compiled": torch.compile(one_gather, dynamic=True),
        "dense, compiled": torch.compile(reference, dynamic=True),
    }


@torch.inference_mode()
def measure(groups: int, batch_size: int, length: int) -> dict[str, float]:
    x = torch.randn(batch_size, length, HIDDEN)
    candidates = implementations(groups)
    expected = candidates["loop"](x)
    for name, implementation in candidates.items():
        if "dense" not in name:
            assert all(torch.allclose(a, b, atol=1e-2) for a, b in zip(implementation(x), expected, strict=True)), name
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(RUNS + 5):
        for name, implementation in candidates.items():
            start = time.perf_counter()
            implementation(x)
            if run >= 5:
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values)) for name, values in times.items()}


def main() -> None:
    results = ResultsStore("grouped_layers", parse_arguments(make_parser(__doc__)))
    for groups in (2, 4):
        for batch_size, length in ((8, 128), (1, 128), (1, 16)):
            results.run(
                f"{groups}-{batch_size}x{length}",
                lambda g=groups, b=batch_size, n=length: {"milliseconds": measure(g, b, n)},
                {"groups": groups, "batch_size": batch_size, "length": length},
                seed=0,
            )


if __name__ == "__main__":
    main()
