"""Fused matrices: split into one linear layer per role for pruning, and fused again afterwards.

When each role has its own linear layer, the rest of the library is the same for all architectures. The split layers are
children of a module at the path of the fused one, named after their roles, so that nothing around them changes.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bertsurgeon.architectures.encoder import Encoder
from bertsurgeon.architectures.table import Architecture
from bertsurgeon.plan import Role


class SplitLinear(nn.Module):
    """Linear maps of the same input; their outputs are concatenated.

    Args:
        parts: The linear maps by role, in the order of their outputs.
    """

    def __init__(self, parts: dict[Role, nn.Module]) -> None:
        super().__init__()
        for role, part in parts.items():
            self.add_module(role, part)

    @property
    def weight(self) -> Tensor:
        """The weight of the first part, for model code that initializes the fused matrix by this name."""
        return next(self.children()).get_parameter("weight")

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, Σ out_features)."""
        return torch.cat([part(x) for part in self.children()], -1)


def unfuse(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a model with the same outputs in which every matrix is a linear layer of its own.

    Args:
        model: Dense; not changed.

    Returns:
        A copy if matrices are fused, else the model itself.
    """
    encoder = Encoder(model)
    if not any(_fused(encoder.architecture, layer) for layer in encoder.layers):
        return model
    copy = deepcopy(model)
    unfuse_in_place(copy)
    return copy


def unfuse_in_place(model: PreTrainedModel) -> None:
    """Splits the fused matrices of a dense model, which may be on the meta device, in place."""
    encoder = Encoder(model)
    architecture = encoder.architecture
    for layer in encoder.layers:
        for path, module in _fused(architecture, layer).items():
            weight = module.weight.detach().T if isinstance(module, Conv1D) else module.weight.detach()
            bias = None if module.bias is None else module.bias.detach()
            roles = architecture.fused.get(path)
            if roles is None:
                layer.set_submodule(path, _linear(weight, bias))
                continue
            size = len(weight) // len(roles)
            biases = [None] * len(roles) if bias is None else bias.split(size)
            parts = zip(weight.split(size), biases, strict=True)
            layer.set_submodule(path, SplitLinear(dict(zip(roles, (_linear(*part) for part in parts), strict=True))))


def fuse_in_place(model: PreTrainedModel, stock: PreTrainedModel) -> None:
    """Undoes :func:`unfuse_in_place`.

    Args:
        model: Model in which every matrix is a linear layer; changed in place.
        stock: New model of the same class and sizes, on any device; its values do not matter.
    """
    encoder = Encoder(model)
    architecture = encoder.architecture
    layers = zip(encoder.layers, Encoder(stock).layers, strict=True)
    for layer, original in layers:
        for path, module in _fused(architecture, original).items():
            parts = [
                part
                for part in ([*layer.get_submodule(path).children()] or [layer.get_submodule(path)])
                if isinstance(part, nn.Linear)
            ]
            weight = torch.cat([part.weight.detach() for part in parts])
            biases = [part.bias.detach() for part in parts if part.bias is not None]
            fused = deepcopy(module).to_empty(device=weight.device).to(weight.dtype)
            with torch.no_grad():
                fused.weight.copy_(weight.T if isinstance(module, Conv1D) else weight)
                if fused.bias is not None:
                    fused.bias.copy_(torch.cat(biases))
            layer.set_submodule(path, fused)


def _fused(architecture: Architecture, layer: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    """Returns the modules of a layer that are fused or a ``Conv1D``, by path."""
    names = {name for name, _ in layer.named_modules()}
    paths = [path for path in (*architecture.fused, *architecture.matrices.values()) if path in names]
    modules = {path: layer.get_submodule(path) for path in paths}
    return {
        path: module
        for path, module in modules.items()
        if isinstance(module, Conv1D) or (isinstance(module, nn.Linear) and path in architecture.fused)
    }


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Makes a linear layer with a copy of these values."""
    linear: nn.Linear = nn.utils.skip_init(
        nn.Linear, weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear
