"""Per-sample gradients of every matrix, from one batched forward and backward pass, and their blocks.

The gradient of one sample's loss with respect to W is Σ_t δ_t x_tᵀ over its tokens. Hooks store the inputs x of each
matrix in the forward pass and multiply them by the output gradients δ in the backward pass, sample by sample, so that
squares are taken before averaging over the batch. Padded tokens have δ = 0 (attention masks them, no loss reads them).

Blocks of consecutive weights of a row are the unit of a block-diagonal Fisher information. A block never spans two
rows: if its size does not divide a row, the last block of the row is padded with zeros.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration.batches import Batch, check_labels
from bertsurgeon.errors import ModelError
from bertsurgeon.tasks import Distribution, default_distribution, has_labels, head_of, model_inputs

CHUNK_ELEMENTS = 2**20
"""Entries of per-sample gradients that exist at a time: 4 MiB in fp32. For larger tensors, allocators return new pages
each time, and the page faults take as long as the products."""


def per_sample_gradients(x: Tensor, delta: Tensor) -> Iterator[Tensor]:
    """Yields per-sample gradients in chunks of samples.

    Args:
        x: Inputs, shape (samples, tokens, in).
        delta: Gradients of the summed loss with respect to the outputs, shape (samples, tokens, out).

    Yields:
        Shape (samples in the chunk, out, in).
    """
    chunk = max(1, CHUNK_ELEMENTS // (x.shape[-1] * delta.shape[-1]))
    for start in range(0, len(x), chunk):
        yield torch.bmm(delta[start : start + chunk].transpose(1, 2), x[start : start + chunk])


@contextmanager
def gradient_hooks(matrices: dict[Any, nn.Module], receive: Callable[[Any, Tensor, Tensor], None]) -> Iterator[None]:
    """Calls ``receive(key, x, delta)`` for every matrix in each backward pass inside the ``with`` block.

    Args:
        matrices: The modules by key.
        receive: Takes the key, the inputs x, shape (samples, tokens, in), and the gradients δ of the outputs, shape
            (samples, tokens, out).
    """

    def hook(key: Any) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x = inputs[0].detach()
            if output.requires_grad:  # False for a call that reads positions only
                output.register_hook(lambda delta: receive(key, x, delta))

        return keep

    handles = [module.register_forward_hook(hook(key)) for key, module in matrices.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def backward_leaf(model: PreTrainedModel) -> Iterator[Tensor]:
    """Adds a zero to the input of the first layer; its gradient needs no weight's gradient."""
    leaf = torch.zeros((), dtype=model.dtype, device=model.device, requires_grad=True)

    def add(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (args[0] + leaf, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + leaf}

    handle = Encoder(model).layers[0].register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield leaf
    finally:
        handle.remove()


def backpropagate(loss: Tensor, leaf: Tensor) -> None:
    """Runs the backward pass from a loss to :func:`backward_leaf`, through all hooks.

    Raises:
        ModelError: If the loss is not finite.
    """
    if not torch.isfinite(loss):
        raise ModelError("The loss of the model on the calibration data is not finite; check the model's weights.")
    torch.autograd.grad(loss, leaf)


def summed_loss(model: PreTrainedModel, batch: Batch, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
    """Computes the sum over the batch of the samples' losses.

    Without labels it is a surrogate whose squared gradients are, in expectation, those of the true Fisher information
    instead of the empirical one (see :func:`fisher_surrogate`). If a model predicts something at every token (the next
    one, for instance), a sample's loss is the sum over its tokens, padding excluded.

    Args:
        model: The model.
        batch: Padded batch on the device of the model.
        generator: Draws the signs of the surrogate.
        temperature: Softens the predictions in the surrogate.

    Raises:
        DataError: If there are labels that do not fit the model's head.
    """
    check_labels(model, batch)
    outputs = model(**model_inputs(batch, labels=True))
    if has_labels(batch):
        loss: Tensor = outputs.loss * head_of(model).num_losses(batch)
        return loss
    predictions = head_of(model).predictions(outputs, batch)
    return torch.stack([fisher_surrogate(p.z, generator, p.distribution, temperature) for p in predictions]).sum()


def fisher_surrogate(
    logits: Tensor, generator: torch.Generator, distribution: Distribution | None = None, temperature: float = 1.0
) -> Tensor:
    """Computes Σ u·z over logits z, with a random u whose second moment is the Fisher information of the predictions.

    If labels y are drawn from the predictions p, the gradient of the loss with respect to the logits is p − e_y, with
    second moment diag(p) − ppᵀ. Any root of this matrix times random signs ε has the same second moment and a lower
    variance, as it does not depend on rare labels (:class:`bertsurgeon.tasks.distributions.Categorical`). For a
    regression (unit variance) u = ε; for classes that are predicted independently u = √(p (1 − p)) ∘ ε.

    A fine-tuned model is sure of most texts that it was trained on: p (1 − p) is close to zero, and the mean over texts
    is that of the few others. With a temperature T, p are the predictions from z / T, as in distillation (Hinton et
    al., 2015, arXiv 1503.02531), and more texts count.

    Args:
        logits: Shape (…, classes), or (…, 1) for a regression.
        generator: Draws ε.
        distribution: Distribution of which the logits are the parameters; None for a class, or for a number if there is
            a single logit.
        temperature: T, at least 1.
    """
    signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
    family = distribution or default_distribution(logits)
    return (family.fisher_direction(logits / temperature, signs) * logits).sum()


def split_rows(matrix: Tensor, block_size: int) -> Tensor:
    """Splits rows into blocks: shape (…, rows, columns) becomes (…, rows · blocks per row, block_size)."""
    padded = F.pad(matrix, (0, -matrix.shape[-1] % block_size))
    return padded.reshape(*matrix.shape[:-2], -1, block_size)


def join_rows(blocks: Tensor, rows: int, columns: int) -> Tensor:
    """Undoes :func:`split_rows`: shape (rows · blocks per row, block_size) becomes (rows, columns)."""
    return blocks.reshape(rows, -1)[:, :columns]


def blocks_per_row(columns: int, block_size: int) -> int:
    """Returns the number of blocks of a row, including a padded one."""
    return -(-columns // block_size)
