"""How large a model is."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import count_kept, get_plan, is_sparse

PATTERNS = ("*.safetensors", "*.onnx", "*.onnx.data", "openvino_model.*")
"""Names of the files that hold weights or graphs."""

PICKLED = "pytorch_model*.bin"
"""Those that are read where there are no others."""


def folder_size(path: Path) -> int:
    """Bytes of all files with weights or graphs directly in the folder ``path``."""
    found = [file for pattern in PATTERNS for file in path.glob(pattern)] or list(path.glob(PICKLED))
    return sum(file.stat().st_size for file in found)


@dataclass(frozen=True)
class Sizes:
    """How large a model is.

    Attributes:
        encoder_weights: Weights in the matrices of every layer (what a sparsity refers to), of a sparse model those
            that are not zero.
        parameters: All parameters, embeddings and head included.
    """

    encoder_weights: int
    parameters: int


def measure_sizes(model: PreTrainedModel) -> Sizes:
    """Counts a dense, pruned or sparse model's weights."""
    plan = get_plan(model)
    if is_sparse(model):
        encoder = sum(sum(layer.values()) for layer in count_kept(model))
    elif plan is not None:
        encoder = plan.kept
    else:
        encoder = sum(rows * columns for layer in Encoder(model).shapes for rows, columns in layer.values())
    return Sizes(encoder, sum(parameter.numel() for parameter in model.parameters()))
