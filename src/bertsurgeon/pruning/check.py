"""What every method asks of the model it is given."""

from transformers import PreTrainedModel

from bertsurgeon.architectures import get_architecture
from bertsurgeon.checkpoint import check_finite, get_plan, is_sparse
from bertsurgeon.errors import ModelError


def check_dense(model: PreTrainedModel) -> None:
    """Checks that a model is supported, dense and sound.

    Raises:
        ModelError: If it is not.
    """
    if get_plan(model) is not None:
        raise ModelError("The model is pruned already; start from the dense one, or prune on with the method obert.")
    if is_sparse(model):
        raise ModelError("The model is sparse already; only the method obert prunes it further.")
    check_matrices(model)


def check_matrices(model: PreTrainedModel) -> None:
    """Checks that a model is supported and sound; its matrices may hold zeros, or be what a plan left of them.

    Raises:
        ModelError: If it is not.
    """
    architecture = get_architecture(model.config.model_type)
    architecture.check_config(model.config)
    check_finite(model)
    if get_plan(model) is None:
        architecture.shapes(model)
