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
    check_matrices(model)
    if is_sparse(model):
        raise ModelError("The model is sparse already; only the method obert prunes it further.")


def check_matrices(model: PreTrainedModel) -> None:
    """Checks that a model is supported and sound, and has all its matrices; these may hold zeros.

    Raises:
        ModelError: If it is not.
    """
    architecture = get_architecture(model.config.model_type)
    architecture.check_config(model.config)
    if get_plan(model) is not None:
        raise ModelError("The model is pruned already; start from the dense one.")
    check_finite(model)
    architecture.shapes(model)
