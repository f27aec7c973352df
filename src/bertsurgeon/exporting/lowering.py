"""Lowering: a pruned model rewritten as the same function of operations that every runtime supports.

Grouped layers become slices and plain products; consecutive permutations around an element-wise activation are merged;
padding is masked by an addition to the attention scores.
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
from bertsurgeon.exporting.outliers import Outliers, split_outliers
from bertsurgeon.layers import GroupedLinear, chunk_of, gather_channels, make_linear, undo_prepare_for_inference
from bertsurgeon.plan import Dense, sub_layer_of

MASKED = float(torch.finfo(torch.bfloat16).min)
"""Value added to the attention score of a padded token: the lowest number that bfloat16 and fp32 both represent."""


class SlicedLinear(nn.Module):
    """A grouped layer as a gather (if needed), one product per group, a concatenation and a gather (if needed).

    Args:
        source: The grouped layer; outputs in no group become rows of zeros of the first group.
        gathers: Reorder the inputs by group.
        scatters: Restore the original order of the outputs.
    """

    columns: Tensor
    rows: Tensor

    def __init__(self, source: GroupedLinear, gathers: bool = True, scatters: bool = True) -> None:
        super().__init__()
        groups = list(zip(source.structure.row_groups, source.structure.column_groups, strict=True))
        grouped_rows = {row for rows, _ in groups for row in rows}
        constant_rows = tuple(row for row in range(source.out_features) if row not in grouped_rows)
        dense = source.dense_weight()
        self.input_order = [channel for _, columns in groups for channel in columns]
        self.output_order = [channel for rows, _ in groups for channel in rows]
        self.output_order[len(groups[0][0]) : len(groups[0][0])] = constant_rows
        self.in_features = source.in_features
        self.widths = [len(columns) for _, columns in groups]
        products = []
        for number, (rows, columns) in enumerate(groups):
            product_rows = [*rows, *constant_rows] if number == 0 else list(rows)
            product = nn.Linear(len(columns), len(product_rows), bias=source.bias is not None)
            with torch.no_grad():
                product.weight.copy_(dense[product_rows][:, list(columns)])
                if source.bias is not None:
                    product.bias.copy_(source.bias[product_rows])
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
            if chunk > 1:  # one copy per group instead of a gather of all inputs
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
        """Returns the number of neighboring inputs that are moved together, to the same group."""
        chunk = chunk_of(self.input_order, self.in_features)
        while any(width % chunk for width in self.widths):
            chunk //= 2
        return chunk


def has_groups(model: PreTrainedModel) -> bool:
    """Returns whether a model has grouped layers."""
    return any(isinstance(module, GroupedLinear) for module in model.modules())


def lower(model: PreTrainedModel, fill_groups: bool = False, outliers: Outliers | None = None) -> PreTrainedModel:
    """Copies a model for tracing: in evaluation mode, on the CPU, with eager attention and sliced groups.

    Args:
        model: Dense or pruned, also after :func:`bertsurgeon.prepare_for_inference`; left as it is.
        fill_groups: Write grouped layers as zero-filled dense products instead of slices.
        outliers: Outlier channels that are multiplied apart (:mod:`bertsurgeon.exporting.outliers`).

    Returns:
        The copy, in fp32.
    """
    lowered = undo_prepare_for_inference(deepcopy(model))
    nn.Module.float(nn.Module.cpu(lowered)).eval()  # transformers forbids both methods for quantized models
    lowered.set_attn_implementation("eager")
    plan, encoder = get_plan(model), Encoder(lowered)
    split_outliers(encoder, outliers or {})
    if plan is None:
        return lowered
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
    """Merges the permutations between two layers: out of the first one's groups, and into those of the second."""
    order = first.rows[second.columns]
    first.scatters = False
    second.columns, second.input_order = order, order.tolist()
    second.gathers = second.input_order != list(range(len(order)))


class Graph(nn.Module):
    """Module to be traced, with positional tensors as inputs and a tuple of tensors as outputs.

    Args:
        model: A lowered model.
        inputs: Names of its inputs, in their order.
        outputs: Names of its outputs, in their order.
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
            # below the head, which may need the original mask, for instance to pool over tokens
            encoder.base.register_forward_pre_hook(self._add_masks, with_kwargs=True)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs.

        Args:
            tensors: Token ids and masks of shape (batch, tokens), or images.
        """
        named: dict[str, Any] = dict(zip(self.inputs, tensors, strict=True))
        result = self.model(**named, **self.extra, return_dict=True)
        return tuple(result[name] for name in self.outputs)

    def _add_masks(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = additive_masks(kwargs["attention_mask"], self.model.config, self.decoder)
        return args, {**kwargs, "attention_mask": mask}


def additive_masks(mask: Tensor, config: PretrainedConfig, causal: bool) -> Tensor | dict[str, Tensor]:
    """Computes masks that are added to the attention scores: 0 for visible tokens, ``MASKED`` for all others.

    Args:
        mask: 1 for real tokens, 0 for padding; shape (batch, tokens).
        config: Configuration of the model, which may limit attention to a sliding window.
        causal: Tokens attend to themselves and to earlier tokens only.

    Returns:
        Shape (batch, 1, 1, tokens), or (batch, 1, tokens, tokens) if the mask differs by query token. Models with
        several types of layers get a dictionary by type.
    """
    padding = (1.0 - mask[:, None, None, :].to(torch.float32)) * MASKED
    positions = torch.arange(mask.shape[1], device=mask.device)
    distance = positions[:, None] - positions[None, :]

    def hide(hidden: Tensor) -> Tensor:
        return torch.minimum(padding, hidden.to(torch.float32)[None, None] * MASKED)

    window: int | None = getattr(config, "sliding_window", None)
    full = hide(distance < 0) if causal else padding
    windowed = full
    if window is not None:
        windowed = hide((distance < 0) | (distance >= window)) if causal else hide(distance.abs() > window)
    types: list[str] | None = getattr(config, "layer_types", None)
    if types is None:
        return windowed
    masks = {"full_attention": full, "sliding_attention": windowed}
    return {name: masks[name] for name in dict.fromkeys(types)}
