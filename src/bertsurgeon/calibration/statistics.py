"""Statistics of the dense model that importance, curves and compensation need, from one pass over the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon import distributed, progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration.batches import Batch, token_mask
from bertsurgeon.calibration.gradients import (
    backpropagate,
    backward_leaf,
    gradient_hooks,
    per_sample_gradients,
    split_rows,
    summed_loss,
)
from bertsurgeon.calibration.moments import Moments, at_least_single, symmetric_product
from bertsurgeon.plan import Role
from bertsurgeon.tasks import model_inputs

MatrixKey = tuple[int, Role]
"""Layer and role."""

SHARED_INPUT: dict[Role, Role] = {"key": "query", "value": "query", "gate": "intermediate"}
"""Matrices that read the same input as another one, and share its moments and its token weights."""


def input_role(role: Role) -> Role:
    """Returns the matrix whose input moments and token weights a matrix uses: its own, or those of ``SHARED_INPUT``.

    Query, key and value are weighted by the query's token weights, in the moments that the error curves are measured
    with and in compensation, so that a plan is executed with the metric that it was chosen by. Weights of their own
    would triple the products and the memory for the moments of the attention's input.
    """
    return SHARED_INPUT.get(role, role)


@dataclass
class Statistics:
    """Statistics of one pass over the calibration data, by (layer, role).

    Attributes:
        samples: Number of sequences.
        tokens: Number of tokens, padding excluded.
        squared_gradients: Mean over samples of the squared gradient, shape (out, in): the diagonal of the empirical
            Fisher information. 4 bytes per encoder weight.
        block_fisher: Mean over samples of g gᵀ for blocks of consecutive weights of a row, shape
            (out · blocks per row, block, block). 4 · block bytes per encoder weight.
        moments: Moments of the dense model's inputs; matrices that read the same input share one object.
        curvature: Mean over samples of Σ_t δ_t δ_tᵀ over tokens, with δ the loss gradient of a matrix's outputs, shape
            (out, out), fp64; for the matrices before neurons its diagonal, shape (out,). It is the output factor of the
            Kronecker-factored Fisher information (Martens and Grosse, 2015, arXiv 1503.05671): the sensitivity of the
            loss to errors in each direction of the outputs.
        token_weights: Weights of the tokens, one tensor of shape (real tokens,) per batch (:func:`weigh_tokens`), only
            for matrices whose input is not that of another one (:func:`input_role`).
    """

    samples: int = 0
    tokens: int = 0
    squared_gradients: dict[MatrixKey, Tensor] = field(default_factory=dict)
    block_fisher: dict[MatrixKey, Tensor] = field(default_factory=dict)
    moments: dict[MatrixKey, Moments] = field(default_factory=dict)
    curvature: dict[MatrixKey, Tensor] = field(default_factory=dict)
    token_weights: dict[MatrixKey, list[Tensor]] = field(default_factory=dict)


def collect_statistics(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    gradients: bool = True,
    curvature: bool = False,
    block_size: int | None = None,
    moments: bool = False,
    token_weighting: float = 0.0,
    temperature: float = 1.0,
    seed: int = 0,
    bf16: bool = False,
) -> Statistics:
    """Runs the dense model over the calibration data once; several processes share the batches.

    Memory beyond the model and its activations: see :class:`Statistics`, plus some MiB of gradients at a time.

    Args:
        model: The dense model, in evaluation mode; its weights and gradients do not change.
        batches: Padded batches, with or without labels (see
            :func:`bertsurgeon.calibration.gradients.summed_loss`).
        gradients: Collect squared gradients (or Fisher blocks).
        curvature: Collect the second moments of output gradients.
        block_size: Collect Fisher blocks of this many weights instead of the diagonal.
        moments: Collect input moments.
        token_weighting: Share of the moments' weight that is distributed by squared gradients, see
            :func:`weigh_tokens`; requires ``curvature``.
        temperature: Softens the predictions for batches without labels, see
            :func:`bertsurgeon.calibration.gradients.fisher_surrogate`.
        seed: Fixes the draws for batches without labels.
        bf16: Run the model in bfloat16 (autocast); sums are in fp32 or fp64 nevertheless.

    Raises:
        ModelError: If the model's outputs or gradients are not finite.
    """
    distributed.check_enough(batches, "batches of calibration data")
    statistics = Statistics()
    encoder = Encoder(model)
    matrices: dict[MatrixKey, nn.Module] = {
        (layer, role): encoder.matrix(layer, role) for layer in range(len(encoder.layers)) for role in encoder.roles
    }
    generator = torch.Generator()
    mask = torch.empty(0, dtype=torch.bool)  # of the current batch
    weighted = curvature and token_weighting > 0

    def add_moments(key: MatrixKey, x: Tensor, weights: Tensor | None = None) -> None:
        if x.shape[:2] != mask.shape:  # a call that reads positions instead of tokens
            return
        if key not in statistics.moments:
            statistics.moments[key] = Moments(x.shape[-1], paired=False, device=x.device)
        statistics.moments[key].update(x[mask], weights=weights)

    def receive(key: MatrixKey, x: Tensor, delta: Tensor) -> None:
        if x.shape[:2] != mask.shape:
            return
        x, delta = at_least_single(x), at_least_single(delta)
        if curvature:
            _add_curvature(statistics.curvature, key, delta[mask])
        if weighted and key[1] not in SHARED_INPUT:
            weights = weigh_tokens(delta, mask, token_weighting)
            statistics.token_weights.setdefault(key, []).append(weights)
            if moments:
                add_moments(key, x, weights)
        for g in per_sample_gradients(x, delta) if gradients else ():
            if block_size is None:
                _add_squares(statistics.squared_gradients, key, g)
            else:
                _add_blocks(statistics.block_fisher, key, g, block_size)

    handles = [
        module.register_forward_pre_hook(lambda _, inputs, key=key: add_moments(key, inputs[0].detach()))
        for key, module in matrices.items()
        if moments and not weighted and key[1] not in SHARED_INPUT
    ]
    backward = gradients or curvature
    try:
        with (
            backward_leaf(model) as leaf,
            gradient_hooks(matrices, receive) if backward else torch.no_grad(),
        ):
            for number, batch in progress.track(distributed.shard(list(enumerate(batches))), "Calibrating"):
                generator.manual_seed(seed + number)  # seeded per batch, so that sharding does not change the draw
                batch = {name: value.to(model.device) for name, value in batch.items()}
                mask = token_mask(model, batch)
                statistics.samples += len(mask)
                statistics.tokens += int(mask.sum())
                with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                    loss = (
                        summed_loss(model, batch, generator, temperature) if backward else model(**model_inputs(batch))
                    )
                if backward:
                    backpropagate(loss, leaf)
    finally:
        for handle in handles:
            handle.remove()
    _reduce(statistics)
    for layer, role in matrices:
        if moments:
            statistics.moments[layer, role] = statistics.moments[layer, input_role(role)]
    for total in (
        *statistics.squared_gradients.values(),
        *statistics.block_fisher.values(),
        *statistics.curvature.values(),
    ):
        total.div_(statistics.samples)
    return statistics


def _reduce(statistics: Statistics) -> None:
    """Reduces the totals over all processes, before they are divided by the number of samples."""
    counts = torch.tensor([statistics.samples, statistics.tokens])
    distributed.all_reduce(counts)
    statistics.samples, statistics.tokens = map(int, counts)
    for totals in (statistics.squared_gradients, statistics.block_fisher, statistics.curvature):
        for key in sorted(totals):
            distributed.all_reduce(totals[key])
    for key in sorted(statistics.moments):
        statistics.moments[key].reduce()
    for key in sorted(statistics.token_weights):
        statistics.token_weights[key] = distributed.all_gather(statistics.token_weights[key])


def weigh_tokens(delta: Tensor, mask: Tensor, share: float) -> Tensor:
    """Computes weights of tokens; their mean over each sample is 1.

    Args:
        delta: Gradients of a matrix's outputs, shape (samples, tokens, out).
        mask: True for real tokens, shape (samples, tokens).
        share: Share of a sample's weight that is distributed in proportion to the tokens' squared gradients; the rest
            is distributed equally.

    Returns:
        Shape (real tokens,).
    """
    squares = delta.square().sum(-1) * mask
    real = mask.sum(1, keepdim=True)
    shares = squares / squares.sum(1, keepdim=True).clamp_min(torch.finfo(squares.dtype).tiny)
    return (1 - share + share * shares * real)[mask]


def _add_curvature(totals: dict[MatrixKey, Tensor], key: MatrixKey, delta: Tensor) -> None:
    """Adds Σ_t δ_t δ_tᵀ; only its diagonal for neurons, which are many and are removed one by one."""
    second = delta.square().sum(0) if key[1] in ("intermediate", "gate") else symmetric_product(delta, delta)
    if key in totals:
        totals[key] += second
    else:
        totals[key] = second.double()


def _add_squares(totals: dict[MatrixKey, Tensor], key: MatrixKey, g: Tensor) -> None:
    """Adds the squares of per-sample gradients (samples, out, in), one sample at a time to stay in the cache."""
    total = totals.get(key)
    if total is None:
        total = totals[key] = torch.zeros(g.shape[1:], device=g.device)
    for sample in g:
        total.addcmul_(sample, sample)


def _add_blocks(totals: dict[MatrixKey, Tensor], key: MatrixKey, g: Tensor, block_size: int) -> None:
    """Adds g gᵀ of every block of ``block_size`` consecutive weights of a row."""
    blocks = split_rows(g, block_size).transpose(0, 1)
    if key not in totals:
        totals[key] = torch.zeros(len(blocks), block_size, block_size, device=g.device)
    totals[key].baddbmm_(blocks.transpose(1, 2), blocks)
