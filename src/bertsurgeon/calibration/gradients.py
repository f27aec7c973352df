"""Per-sample gradients of every matrix, from one batched forward and backward pass.

The gradient of one sample's loss with respect to W is Σ_t δ_t x_tᵀ over its tokens. Hooks keep the inputs x of each
matrix and meet them with the output gradients δ on the way back; the product is made sample by sample, so squares are
taken before anything is averaged over the batch. Padded tokens have δ = 0 (attention masks them, no loss reads them).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration.batches import Batch
from bertsurgeon.errors import ModelError
from bertsurgeon.tasks import Distribution, default_distribution, has_labels, head_of, model_inputs

CHUNK_ELEMENTS = 2**20
"""Entries of per-sample gradients alive at a time: 4 MiB in fp32. Of more, allocators hand out fresh pages each time,
and touching those takes as long as the products."""


def per_sample_gradients(x: Tensor, delta: Tensor) -> Iterator[Tensor]:
    """Yields the samples' gradients in chunks.

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
    """Calls ``receive(key, x, delta)`` for every matrix in each backward pass inside the ``with`` block."""

    def hook(key: Any) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x = inputs[0].detach()
            if output.requires_grad:  # what reads positions alone has no hidden states behind it
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
    """A zero added before the first layer: its gradient runs the whole way back without any weight's gradient."""
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
    """Runs back from a loss to :func:`backward_leaf`, past all hooks.

    Raises:
        ModelError: If the loss is not finite.
    """
    if not torch.isfinite(loss):
        raise ModelError("The model's loss on the calibration data is not finite; check its weights.")
    torch.autograd.grad(loss, leaf)


def summed_loss(model: PreTrainedModel, batch: Batch, generator: torch.Generator) -> Tensor:
    """The sum over the batch of the samples' losses.

    Without labels, a surrogate whose squared gradients are, in expectation, those of the true Fisher information
    instead of the empirical one (see :func:`fisher_surrogate`). Where a model predicts something at every token (the
    next one, for instance), a sample's loss is the sum over its tokens, padding excluded.
    """
    outputs = model(**model_inputs(batch, labels=True))
    if has_labels(batch):
        loss: Tensor = outputs.loss * head_of(model).num_losses(batch)
        return loss
    predictions = head_of(model).predictions(outputs, batch)
    return torch.stack([fisher_surrogate(p.z, generator, p.distribution) for p in predictions]).sum()


def fisher_surrogate(logits: Tensor, generator: torch.Generator, distribution: Distribution | None = None) -> Tensor:
    """Σ u·z over logits z, with a random u whose second moment is the Fisher information of the predictions.

    Where labels y are drawn from the predictions p, the gradient of the loss with respect to the logits is p − e_y with
    second moment diag(p) − ppᵀ. Random signs ε reach the same moment by u = √p ∘ ε − p (√p · ε), without waiting for
    the rare label that teaches something. For a regression (unit variance) u = ε, for classes that are predicted each
    on its own u = √(p (1 − p)) ∘ ε.

    Args:
        logits: Shape (…, classes), or (…, 1) for a regression.
        generator: Draws ε.
        distribution: What the logits are the parameters of; None for a class, or a number where there is a single one.
    """
    signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
    family = distribution or default_distribution(logits)
    return (family.fisher_direction(logits, signs) * logits).sum()
