"""Training with the rounding errors of INT8: weights by row, inputs of every product by tensor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.layers import LowRankLinear, round_rows

STEPS = 255


def round_tensor(x: Tensor) -> Tensor:
    """Rounds to 256 values between the smallest and the largest one; gradients pass unchanged."""
    values = x.detach()
    low, high = values.amin(), values.amax()
    step = ((high - low) / STEPS).clamp_min(torch.finfo(x.dtype).tiny)
    return x + (((values - low) / step).round() * step + low - values)


@contextmanager
def int8_rounding(model: PreTrainedModel) -> Iterator[None]:
    """Rounds weights and inputs of the encoder's whole and low-rank matrices while the block runs, in training only."""

    def run(module: nn.Linear | LowRankLinear, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # distillation trains in evaluation mode, without dropout
            return forward(x)
        weight = round_rows(module.weight)
        if isinstance(module, nn.Linear):
            return F.linear(round_tensor(x), weight, module.bias)
        inner = F.linear(round_tensor(x), weight)
        return F.linear(round_tensor(inner), round_rows(module.up), module.bias)

    patched = []
    for layer in Encoder(model).layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear | LowRankLinear):
                module.forward = partial(run, module, module.forward)  # type: ignore[method-assign]
                patched.append(module)
    try:
        yield
    finally:
        for module in patched:
            del module.forward
