"""Outlier channels of activations, which stay in floating point while all others are multiplied as INT8.

A few neurons of a feed-forward part have activations many times as large as those of the others. One range
for all of them leaves the others a handful of steps. Their columns are multiplied apart, as in LLM.int8() (Dettmers et
al., 2022, arXiv 2208.07339), but they are chosen once, from calibration texts, and are few: the function is the same in
floating point, and the additional product has at most ``MAX_OUTLIERS`` inputs.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, MatrixKey, token_mask
from bertsurgeon.layers import LowRankLinear
from bertsurgeon.tasks import model_inputs

MAX_OUTLIERS = 4
"""Most outlier channels of a matrix."""

OUTLIER_RATIO = 1.5
"""An outlier's largest absolute value is more than this many times that of the fifth largest channel."""

OUTLIERS = "outliers"
"""Name of the additional product inside a matrix."""

Outliers = Mapping[MatrixKey, tuple[int, ...]]
"""Outlier channels of the inputs, by matrix; matrices without any are missing."""


class SplitLinear(nn.Module):
    """A linear layer whose outlier channels are multiplied apart.

    Args:
        source: The layer, whole or of low rank.
        channels: Its outlier channels.
    """

    kept: Tensor
    columns: Tensor

    def __init__(self, source: nn.Linear | LowRankLinear, channels: Sequence[int]) -> None:
        super().__init__()
        self.source = source
        self.outliers = nn.Linear(len(channels), source.out_features, bias=False)
        kept, columns = torch.ones(source.in_features), torch.tensor(channels)
        kept[columns] = 0
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        with torch.no_grad():
            weight = source.weight if isinstance(source, nn.Linear) else source.dense_weight()
            self.outliers.weight.copy_(weight[:, columns])

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        output: Tensor = self.source(x * self.kept) + self.outliers(x.index_select(-1, self.columns))
        return output


@torch.inference_mode()
def find_outliers(model: PreTrainedModel, batches: Sequence[Batch]) -> Outliers:
    """Finds the outlier channels of the last matrices of all sub-layers.

    The first matrices read normalized states, whose scales the quantizer moves into the weights.

    Args:
        model: Dense or pruned, in evaluation mode.
        batches: Calibration batches.
    """
    encoder = Encoder(model)
    largest: dict[MatrixKey, Tensor] = {}
    mask = torch.empty(0, dtype=torch.bool)

    def add(key: MatrixKey, x: Tensor) -> None:
        if x.shape[:-1] == mask.shape:
            values = x[mask].abs().amax(0)
            largest[key] = torch.maximum(largest[key], values) if key in largest else values

    with ExitStack() as stack:
        for layer in range(len(encoder.layers)):
            for roles in encoder.sub_layers.values():
                matrix = encoder.find_matrix(layer, roles[-1])
                if isinstance(matrix, nn.Linear | LowRankLinear):
                    key = (layer, roles[-1])
                    handle = matrix.register_forward_pre_hook(lambda _, inputs, key=key: add(key, inputs[0]))
                    stack.callback(handle.remove)
        for batch in batches:
            mask = token_mask(model, batch)
            model(**model_inputs(batch))
    by_matrix = {key: outlier_channels(values) for key, values in largest.items()}
    return {key: channels for key, channels in by_matrix.items() if channels}


def outlier_channels(largest: Tensor) -> tuple[int, ...]:
    """Returns the channels, at most four, whose largest values exceed the fifth largest by ``OUTLIER_RATIO``.

    If five channels or more are large, the range has to hold them anyway, and less is gained by splitting off four.

    Args:
        largest: Largest absolute value of each channel, shape (channels,).
    """
    values, order = largest.sort(descending=True)
    if len(values) <= MAX_OUTLIERS:
        return ()
    count = int((values[:MAX_OUTLIERS] > OUTLIER_RATIO * values[MAX_OUTLIERS]).sum())
    return tuple(sorted(order[:count].tolist()))


def split_outliers(encoder: Encoder, outliers: Outliers) -> None:
    """Replaces the matrices that have outlier channels, in place.

    Args:
        encoder: Of a copy of the model.
        outliers: Result of :func:`find_outliers`.
    """
    for (layer, role), channels in outliers.items():
        matrix = encoder.matrix(layer, role)
        if isinstance(matrix, nn.Linear | LowRankLinear):
            encoder.replace(layer, role, SplitLinear(matrix, channels))
