"""From a pruned or sparse model to a stock Hugging Face model."""

from transformers import PreTrainedModel

from bertsurgeon.checkpoint import detach_sparse, get_plan, is_sparse
from bertsurgeon.errors import ModelError
from bertsurgeon.layers import dense_twin


def to_dense(model: PreTrainedModel) -> PreTrainedModel:
    """Makes the zero-filled dense twin of a pruned or sparse model: a stock model with the same outputs.

    Args:
        model: What :func:`bertsurgeon.prune` returned, or a loaded checkpoint; left as it is.

    Raises:
        ModelError: If the model is dense already, or the stock model lacks a bias that compensation added.
    """
    plan = get_plan(model)
    if plan is not None:
        return dense_twin(model, plan)
    if is_sparse(model):
        return detach_sparse(model)
    raise ModelError("The model is dense already.")
