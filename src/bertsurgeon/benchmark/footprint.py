"""What a model takes besides time: weights, file size and floating-point operations, and the measuring environment."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import PIXELS
from bertsurgeon.checkpoint import count_kept, get_plan, is_sparse
from bertsurgeon.devices import read_cpuinfo, running_on
from bertsurgeon.errors import OptionError
from bertsurgeon.prediction import evaluating
from bertsurgeon.tasks import max_input_length

WEIGHT_FILES = ("*.safetensors", "*.onnx", "*.onnx.data", "openvino_model.*")
"""Name patterns of the files that hold weights or graphs."""

PICKLED_FILES = "pytorch_model*.bin"
"""Name pattern of the weight files that transformers reads if a folder holds none of the others."""


@dataclass(frozen=True)
class Sizes:
    """Number of weights of a model.

    Attributes:
        encoder_weights: Weights in the matrices of all layers, to which a sparsity refers; non-zero ones only, if the
            model is sparse.
        parameters: All parameters, including embeddings and head.
    """

    encoder_weights: int
    parameters: int


def measure_sizes(model: PreTrainedModel) -> Sizes:
    """Counts the weights of a dense, pruned or sparse model.

    Args:
        model: A model of a supported architecture.

    Raises:
        ModelError: If the architecture is not supported.
    """
    plan = get_plan(model)
    if is_sparse(model):
        encoder_weights = sum(sum(layer.values()) for layer in count_kept(model))
    elif plan is not None:
        encoder_weights = plan.kept
    else:
        encoder_weights = sum(rows * columns for layer in Encoder(model).shapes for rows, columns in layer.values())
    return Sizes(encoder_weights, sum(parameter.numel() for parameter in model.parameters()))


def folder_size(path: str | Path) -> int:
    """Returns the total size of the weight and graph files of a model folder.

    Args:
        path: The folder; its subfolders are not counted.

    Returns:
        Size in bytes; 0 if the folder holds no such file.
    """
    path = Path(path)
    files = [file for pattern in WEIGHT_FILES for file in path.glob(pattern)] or list(path.glob(PICKLED_FILES))
    return sum(file.stat().st_size for file in files)


def count_flops(model: nn.Module, batch_size: int, length: int) -> int:
    """Counts the floating-point operations of the matrix products in one forward pass.

    A multiply-add counts as two operations. Attention runs as plain matrix products, because PyTorch's counter has no
    formula for the fused attention kernel on a CPU.

    Args:
        model: A transformers model; it runs on random token ids.
        batch_size: Texts in the batch.
        length: Tokens of each text. Images have the size of the model's configuration.

    Raises:
        OptionError: If the model does not accept a batch of this shape.
    """
    inputs = random_inputs([model], batch_size, length)
    counter = FlopCounterMode(display=False)
    # on the CPU, where no kernel of our own hides operations from the counter
    with running_on("cpu", model), evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(**inputs)
    return int(counter.get_total_flops())


def fitting_length(models: Iterable[Any], length: int) -> int:
    """Returns ``length``, or the maximum input length of the models if that is smaller.

    Args:
        models: Models with a ``config``.
        length: Requested number of tokens.
    """
    return min(length, *(max_input_length(model.config) or length for model in models))


def random_inputs(models: list[Any], batch_size: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Draws a batch that all models accept: random token ids without padding, or random images.

    Args:
        models: Models with a ``config``; token ids are drawn from the smallest vocabulary.
        batch_size: Texts or images in the batch.
        length: Tokens of each text. Images have the size of the first model's configuration.
        seed: Seed of the token ids or pixels.

    Returns:
        Model inputs on the CPU.

    Raises:
        OptionError: If a size is below one, or ``length`` exceeds the maximum input length of a model.
    """
    configs: list[Any] = [model.config for model in models]
    generator = torch.Generator().manual_seed(seed)
    if hasattr(configs[0], "image_size"):
        size = configs[0].image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        shape = (batch_size, configs[0].num_channels, height, width)
        return {PIXELS: torch.randn(shape, generator=generator)}
    if batch_size < 1 or length < 1:
        raise OptionError(f"A batch of {batch_size} texts with {length} tokens is empty; use at least 1 of each.")
    if (longest := fitting_length(models, length)) < length:
        raise OptionError(
            f"A length of {length} tokens exceeds the model's maximum of {longest}; use at most {longest}."
        )
    vocab_size = min(config.vocab_size for config in configs)
    ids = torch.randint(vocab_size, (batch_size, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def environment() -> dict[str, Any]:
    """Describes the environment of a measurement; nothing in it identifies the machine or its owner.

    Returns:
        ``machine`` (architecture), ``processor``, ``cores``, ``threads``, ``accelerator`` (the name of the GPU; None
        without one), and ``versions`` of the main packages.
    """
    return {
        "machine": platform.machine(),
        "processor": read_cpuinfo("model name"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in ("torch", "transformers", "bertsurgeon")},
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # the package runs from source and is not installed
        return None
