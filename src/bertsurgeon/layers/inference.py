"""Fused operations for inference: fewer passes over the activations of a model that is not trained."""

from copy import deepcopy
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import GELUActivation

from bertsurgeon.architectures import Encoder
from bertsurgeon.layers.grouped import GroupedLinear, gather_channels
from bertsurgeon.plan import Role

ACTIVATIONS = ("intermediate_act_fn", "activation", "activation_fn", "act")
"""Attribute names of the activation, in the module that holds the first feed-forward matrix."""

_ATTENTION_INPUTS: tuple[Role, ...] = ("query", "key", "value")


def prepare_for_inference(model: PreTrainedModel) -> PreTrainedModel:
    """Fuses operations of a model so that inference is faster.

    Query, key and value of aligned groups share one gather of their input (on a GPU, the kernel gathers instead). A
    grouped first feed-forward matrix applies the activation itself, inside the kernel if there is one; after any other
    first matrix, a GELU overwrites its input. Parameters and checkpoints do not change, and a prepared model can still
    be trained, copied, saved and exported. :func:`undo_prepare_for_inference` restores the original modules.

    Args:
        model: Dense or pruned; changed in place and returned.
    """
    encoder = Encoder(model)
    for layer in range(len(encoder.layers)):
        if model.device.type == "cpu" and encoder.architecture.position_input is None:
            _share_gather(encoder, layer)
        if "gate" not in encoder.roles:
            _fuse_activation(encoder, layer)
    return model


def undo_prepare_for_inference(model: PreTrainedModel) -> PreTrainedModel:
    """Restores the separate operations that :func:`prepare_for_inference` fused.

    Args:
        model: Prepared or not; changed in place and returned.
    """
    for module in model.modules():
        hooks = module._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, _SharedGather)]:
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
        for name, child in list(module.named_children()):
            if isinstance(child, (_FusedActivation, _InPlaceGELU)):
                setattr(module, name, child.original)
        if isinstance(module, GroupedLinear):
            module.activation = "none"
            module.gathers = module.column_index.tolist() != list(range(module.in_features))
    return model


def without_fused_operations(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a model whose modules compute one operation each, as hooks need it: a copy if it was prepared.

    Args:
        model: Prepared or not; left as it is.
    """
    prepared = any(
        isinstance(module, (_FusedActivation, _InPlaceGELU))
        or any(isinstance(hook, _SharedGather) for hook in module._forward_pre_hooks.values())
        for module in model.modules()
    )
    return undo_prepare_for_inference(deepcopy(model)) if prepared else model


def _share_gather(encoder: Encoder, layer: int) -> None:
    modules = [encoder.find_matrix(layer, role) for role in _ATTENTION_INPUTS]
    matrices = [module for module in modules if isinstance(module, GroupedLinear) and module.gathers]
    if len(matrices) < len(_ATTENTION_INPUTS):
        return
    index = matrices[0].column_index
    if not all(torch.equal(index, matrix.column_index) for matrix in matrices):
        return
    attention = _parent(encoder, layer, "query")
    attention.register_forward_pre_hook(_SharedGather(index, matrices[0].column_chunk), with_kwargs=True)
    for matrix in matrices:
        matrix.gathers = False


def _fuse_activation(encoder: Encoder, layer: int) -> None:
    matrix = encoder.find_matrix(layer, "intermediate")
    if matrix is None:
        return
    parent = _parent(encoder, layer, "intermediate")
    for name in ACTIVATIONS:
        activation = getattr(parent, name, None)
        if not _is_exact_gelu(activation):
            continue
        if isinstance(matrix, GroupedLinear):
            setattr(parent, name, _FusedActivation(activation))
            matrix.activation = "gelu"
        else:
            setattr(parent, name, _InPlaceGELU(activation))


def _parent(encoder: Encoder, layer: int, role: Role) -> nn.Module:
    """Returns the module that holds a matrix."""
    return encoder.layers[layer].get_submodule(encoder.architecture.matrices[role].rpartition(".")[0])


def _is_exact_gelu(module: Any) -> TypeGuard[nn.Module]:
    return isinstance(module, GELUActivation) or (isinstance(module, nn.GELU) and module.approximate == "none")


class _SharedGather:
    """Hook of an attention module that gathers the input of query, key and value once.

    It is a class, not a closure, so that prepared models can be pickled.

    Args:
        index: Channel of the hidden states at each position, shape (channels,).
        chunk: Neighboring channels that are moved together, see :func:`bertsurgeon.layers.gather_channels`.
    """

    def __init__(self, index: Tensor, chunk: int) -> None:
        self.index = index
        self.chunk = chunk

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        gathered = gather_channels(hidden, self.index.to(hidden.device), self.chunk)
        return ((gathered, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": gathered})


class _FusedActivation(nn.Module):
    """Identity in the place of an activation that the grouped matrix before it applies.

    Args:
        original: The activation.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original

    def forward(self, x: Tensor) -> Tensor:
        """Returns the input, shape (…, neurons)."""
        return x


class _InPlaceGELU(nn.Module):
    """A GELU that overwrites its input during inference; no other module reads that input.

    Args:
        original: The activation.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original

    def forward(self, x: Tensor) -> Tensor:
        """Returns the activations, shape (…, neurons); out of place while gradients are recorded or a graph traced."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return F.gelu(x)
        result: Tensor = torch.ops.aten.gelu_(x)
        return result
