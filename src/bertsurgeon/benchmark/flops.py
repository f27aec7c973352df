"""How many floating-point operations one forward pass takes, and the inputs that measurements run on."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bertsurgeon.calibration import PIXELS
from bertsurgeon.errors import OptionError
from bertsurgeon.prediction import evaluating
from bertsurgeon.tasks import max_input_length


def count_flops(model: nn.Module, batch_size: int, length: int) -> int:
    """Floating-point operations of the matrix products in one forward pass (a multiply-add counts as two).

    The counter has no formula for the fused attention kernel on CPU, so attention runs as plain products.

    Args:
        model: A transformers model; random token ids of its vocabulary are its input.
        batch_size: Texts in the batch.
        length: Tokens of each text; images have as many as the model's configuration says.

    Raises:
        OptionError: If the model cannot take a batch of this shape.
    """
    inputs = random_inputs([model], batch_size, length)
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(**inputs)
    return int(counter.get_total_flops())


def fitting_length(models: Iterable[Any], length: int) -> int:
    """As many tokens as asked for or, if these are fewer, as all ``models`` have positions for."""
    return min(length, *(max_input_length(model.config) or length for model in models))


def random_inputs(models: list[Any], batch_size: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random token ids that all ``models`` know, with an attention mask of ones, or random images, on the CPU.

    Raises:
        OptionError: If a size is below one, or ``length`` exceeds a model's positions.
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
        raise OptionError(f"A length of {length} tokens exceeds the {longest} that the model takes.")
    vocabulary = min(config.vocab_size for config in configs)
    ids = torch.randint(vocabulary, (batch_size, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
