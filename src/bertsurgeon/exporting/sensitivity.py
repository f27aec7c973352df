"""Which sub-layers INT8 hurts most."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch
from bertsurgeon.checkpoint import get_plan
from bertsurgeon.exporting.verify import Arrays, compare, reference
from bertsurgeon.tasks import find_head, model_class_names

LEVELS = 255


def encoder_matrices(model: PreTrainedModel) -> list[tuple[str, ...]]:
    """Names of the matrices of every sub-layer that a dense or pruned model has."""
    encoder = Encoder(model)
    plan = get_plan(model)
    return [
        tuple(encoder.matrix_name(index, role) for role in roles)
        for index in range(len(encoder.layers))
        for sub_layer, roles in encoder.sub_layers.items()
        if plan is None or not plan.layers[index].is_dropped(sub_layer)
    ]


@torch.no_grad()
def rank_sub_layers(
    model: PreTrainedModel, batches: Sequence[Batch], wanted: Sequence[Arrays]
) -> list[tuple[float, tuple[str, ...]]]:
    """Quantizes one sub-layer after the other, in PyTorch, and looks at the model's outputs.

    Args:
        model: In evaluation mode; left as it is.
        batches: To run on.
        wanted: The model's outputs.

    Returns:
        Relative error of the outputs and names of the matrices, the worst first.
    """
    found = []
    head = find_head(model_class_names(model), model.config)
    for names in encoder_matrices(model):
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(_quantized(model.get_submodule(name)))
            answers = reference(model, batches, tuple(wanted[0]))[1]
        found.append((compare(answers, wanted, batches, head).relative_error, names))
    return sorted(found, key=lambda pair: -pair[0])


@contextmanager
def _quantized(matrix: nn.Module) -> Iterator[None]:
    """One matrix with INT8 weights (by row) and INT8 inputs (by tensor)."""
    kept = {name: value.detach().clone() for name, value in matrix.named_parameters() if value.dim() == 2}
    handle = matrix.register_forward_pre_hook(lambda _, inputs: (_round(inputs[0], inputs[0].min(), inputs[0].max()),))
    try:
        for name, value in kept.items():
            largest = value.abs().amax(1, keepdim=True)
            matrix.get_parameter(name).copy_(_round(value, -largest, largest))
        yield
    finally:
        handle.remove()
        for name, value in kept.items():
            matrix.get_parameter(name).copy_(value)


def _round(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    step = ((high - low) / LEVELS).clamp_min(torch.finfo(x.dtype).tiny)
    return ((x - low) / step).round() * step + low
