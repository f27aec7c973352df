"""A pruned model as graphs like it: the same function, from operations that every runtime has.

Grouped layers become slices and plain products; permutations that follow one another across an element-wise activation
become one; padding is masked by adding to the attention scores.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import get_plan
from bertsurgeon.layers import GroupedLinear, chunk_of, gather_channels, make_linear
from bertsurgeon.plan import Dense, sub_layer_of

MASKED = float(torch.finfo(torch.bfloat16).min)
"""Added to the score of a padded token; the lowest number that bfloat16 and float32 both hold."""


class SlicedLinear(nn.Module):
    """A grouped layer as one gather (if any), one product per group, one concatenation and one gather (if any).

    Args:
        source: The layer; outputs in no group become rows of zeros of the first group.
        gathers: Bring the inputs into the order of the groups.
        scatters: Bring the outputs back into their own order.
    """

    columns: Tensor
    rows: Tensor

    def __init__(self, source: GroupedLinear, gathers: bool = True, scatters: bool = True) -> None:
        super().__init__()
        groups = list(zip(source.structure.row_groups, source.structure.column_groups, strict=True))
        seen = {row for rows, _ in groups for row in rows}
        constant = tuple(row for row in range(source.out_features) if row not in seen)
        dense = source.dense_weight()
        self.input_order = [channel for _, columns in groups for channel in columns]
        self.output_order = [channel for rows, _ in groups for channel in rows]
        self.output_order[len(groups[0][0]) : len(groups[0][0])] = constant
        self.in_features = source.in_features
        self.widths = [len(columns) for _, columns in groups]
        products = []
        for number, (rows, columns) in enumerate(groups):
            stored = [*rows, *constant] if number == 0 else list(rows)
            product = nn.Linear(len(columns), len(stored), bias=source.bias is not None)
            with torch.no_grad():
                product.weight.copy_(dense[stored][:, list(columns)])
                if source.bias is not None:
                    product.bias.copy_(source.bias[stored])
            products.append(product)
        self.products = nn.ModuleList(products)
        self.gathers = gathers and self.input_order != list(range(source.in_features))
        self.scatters = scatters and self.output_order != list(range(source.out_features))
        self.register_buffer("columns", torch.tensor(self.input_order), persistent=False)
        self.register_buffer("rows", torch.tensor(self.output_order).argsort(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        chunk = self._input_chunk() if self.gathers else 1
        if self.gathers and chunk == 1:
            x = x.index_select(-1, self.columns)
        start, outputs = 0, []
        for product, width in zip(self.products, self.widths, strict=True):
            if chunk > 1:  # each group copies what it reads, once
                part = gather_channels(x, self.columns[start : start + width], chunk)
            else:
                part = x[..., start : start + width]
            outputs.append(product(part))
            start += width
        output = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        if not self.scatters:
            return output
        chunk = chunk_of(np.argsort(self.output_order), len(self.output_order))
        return gather_channels(output, self.rows, chunk) if chunk > 1 else output.index_select(-1, self.rows)

    def _input_chunk(self) -> int:
        """Neighbouring inputs that stay together and go to one group."""
        chunk = chunk_of(self.input_order, self.in_features)
        while any(width % chunk for width in self.widths):
            chunk //= 2
        return chunk


def has_groups(model: PreTrainedModel) -> bool:
    """Whether a model has grouped layers."""
    return any(isinstance(module, GroupedLinear) for module in model.modules())


def lower(model: PreTrainedModel, fill_groups: bool = False) -> PreTrainedModel:
    """A copy of a dense or pruned model for tracing: in evaluation mode, with plain attention and sliced groups.

    Args:
        model: Left as it is.
        fill_groups: Write grouped layers as dense products with zeros, where gathers cost more than they save.
    """
    lowered = deepcopy(model)
    nn.Module.float(nn.Module.cpu(lowered)).eval()  # transformers forbids both for models that know of a quantizer
    lowered.set_attn_implementation("eager")
    plan = get_plan(model)
    if plan is None:
        return lowered
    encoder = Encoder(lowered)
    for index, layer in enumerate(plan.layers):
        roles = [role for role in layer.matrices if not layer.is_dropped(sub_layer_of(role))]
        sliced: dict[str, SlicedLinear] = {}
        for role in roles:
            matrix = encoder.matrix(index, role)
            if isinstance(matrix, GroupedLinear):
                if fill_groups:
                    filled = make_linear(Dense(), matrix.dense_weight(), matrix.bias)
                    encoder.replace(index, role, filled)
                else:
                    sliced[role] = SlicedLinear(matrix)
                    encoder.replace(index, role, sliced[role])
        if {"intermediate", "output"} <= sliced.keys() and "gate" not in layer.matrices:
            _join(sliced["intermediate"], sliced["output"])
    return lowered


def _join(first: SlicedLinear, second: SlicedLinear) -> None:
    """Makes two permutations one: back from the first layer's groups, and into the second one's."""
    order = first.rows[second.columns]
    first.scatters = False
    second.columns, second.input_order = order, order.tolist()
    second.gathers = second.input_order != list(range(len(order)))


class Graph(nn.Module):
    """What is traced: named tensors in, a tuple of named tensors out.

    Args:
        model: A lowered model.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
    """

    def __init__(self, model: PreTrainedModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        encoder = Encoder(model)
        architecture = encoder.architecture
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.decoder = architecture.decoder
        self.extra = {"use_cache": False} if architecture.decoder else {}
        if architecture.masks == "additive" and "attention_mask" in inputs:
            # below the head, which may want the mask as it comes, to pool over tokens for instance
            encoder.base.register_forward_pre_hook(self._add_masks, with_kwargs=True)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs for inputs of shape (batch, tokens), or for images."""
        named: dict[str, Any] = dict(zip(self.inputs, tensors, strict=True))
        found = self.model(**named, **self.extra, return_dict=True)
        return tuple(found[name] for name in self.outputs)

    def _add_masks(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = additive_masks(kwargs["attention_mask"], self.model.config, self.decoder)
        return args, {**kwargs, "attention_mask": mask}


def additive_masks(mask: Tensor, config: PretrainedConfig, causal: bool) -> Tensor | dict[str, Tensor]:
    """What is added to attention scores: zero where a token is seen, ``MASKED`` elsewhere.

    Args:
        mask: 1 for real tokens, shape (batch, tokens).
        config: Of the model; its layers may see a window only.
        causal: Tokens see those before them.

    Returns:
        Shape (batch, 1, 1, tokens), or (batch, 1, tokens, tokens) where it differs by token; by the layers' type where
        these have types.
    """
    padding = (1.0 - mask[:, None, None, :].to(torch.float32)) * MASKED
    positions = torch.arange(mask.shape[1], device=mask.device)
    back = positions[:, None] - positions[None, :]

    def hide(hidden: Tensor) -> Tensor:
        return torch.minimum(padding, hidden.to(torch.float32)[None, None] * MASKED)

    window: int | None = getattr(config, "sliding_window", None)
    full = hide(back < 0) if causal else padding
    windowed = full
    if window is not None:
        windowed = hide((back < 0) | (back >= window)) if causal else hide(back.abs() > window)
    types: list[str] | None = getattr(config, "layer_types", None)
    if types is None:
        return windowed
    masks = {"full_attention": full, "sliding_attention": windowed}
    return {name: masks[name] for name in dict.fromkeys(types)}
