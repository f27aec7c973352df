"""Quantization-aware training for INT8, with ranges that the export uses.

In the forward pass, weights are rounded row by row and inputs to ranges that follow the data (moving averages, as in
Q8BERT: Zafrir et al., 2019, arXiv 1910.06188); in the backward pass, gradients skip the rounding (straight-through).
Afterwards the weights are rounded permanently, and the ranges are stored in the configuration of the model.
"""

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import InputRange, InputRanges, hook_packed, is_sparse, set_ranges
from bertsurgeon.errors import ModelError
from bertsurgeon.layers import round_rows
from bertsurgeon.plan import Role

MAX_QUANTIZED = 255
"""Largest quantized input; the smallest is 0."""


def check_quantizable(model: PreTrainedModel) -> dict[tuple[int, Role], nn.Linear]:
    """Returns the linear layers of the encoder by (layer, role).

    Raises:
        ModelError: If one of them was removed, or replaced by groups or low-rank factors.
    """
    encoder = Encoder(model)
    matrices: dict[tuple[int, Role], nn.Linear] = {}
    for layer in range(len(encoder.layers)):
        for role in encoder.roles:
            matrix = encoder.find_matrix(layer, role)
            if not isinstance(matrix, nn.Linear):
                raise ModelError(
                    f"The {role} of layer {layer} is not a whole matrix, so it cannot be trained for INT8; export the "
                    "model with post-training quantization instead (int8 without this recipe)."
                )
            matrices[layer, role] = matrix
    return matrices


class FakeQuantizedLinear(nn.Linear):
    """A linear layer that rounds its weights and inputs to INT8 while ``rounds`` is True.

    Args:
        source: The layer whose parameters are shared.

    Attributes:
        inputs: torch's module that observes the range of the inputs and rounds them.
        rounds: True if weights and inputs are rounded.
    """

    def __init__(self, source: nn.Linear) -> None:
        # imported late: torch.ao.quantization is being moved to the package torchao
        from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

        nn.Module.__init__(self)
        self.in_features, self.out_features = source.in_features, source.out_features
        self.weight, self.bias = source.weight, source.bias
        self.inputs = FakeQuantize(
            observer=MovingAverageMinMaxObserver,
            quant_min=0,
            quant_max=MAX_QUANTIZED,
            dtype=torch.quint8,
            qscheme=torch.per_tensor_affine,
        ).to(source.weight.device)
        self.rounds = False
        self.train(source.training)

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs of shape (…, in_features) to outputs of shape (…, out_features)."""
        if not self.rounds:
            return F.linear(x, self.weight, self.bias)
        return F.linear(self.inputs(x.float()).to(x.dtype), round_rows(self.weight), self.bias)


class FakeQuantizedEmbedding(nn.Embedding):
    """An embedding that rounds the rows it returns to INT8 while ``rounds`` is True.

    Args:
        source: The embedding whose parameter is shared.

    Attributes:
        rounds: True if rows are rounded.
    """

    def __init__(self, source: nn.Embedding) -> None:
        nn.Module.__init__(self)
        for name in (
            "num_embeddings",
            "embedding_dim",
            "padding_idx",
            "max_norm",
            "norm_type",
            "scale_grad_by_freq",
            "sparse",
        ):
            setattr(self, name, getattr(source, name))
        self.weight = source.weight
        self.rounds = False
        self.train(source.training)

    def forward(self, input: Tensor) -> Tensor:
        """Maps ids of any shape (…) to vectors of shape (…, embedding_dim)."""
        rows: Tensor = super().forward(input)
        return round_rows(rows.flatten(0, -2)).view_as(rows) if self.rounds else rows


class QuantizationAwareTraining(TrainerCallback):
    """Trains a model with the rounding of INT8, from a given step on.

    The matrices of the encoder, their inputs, and the embeddings are rounded, except embeddings tied to a head. Their
    layers are replaced inside a ``with`` block, in which :meth:`finish` is called after the training::

        with QuantizationAwareTraining(model, start=100, freeze=200) as quantizer:
            train(model, config, data, tokenizer, callbacks=[quantizer])
            quantizer.finish()

    Args:
        model: The model that is trained.
        start: First step with rounding.
        freeze: First step at which the ranges of the inputs no longer follow the data.

    Raises:
        ModelError: If a matrix of the encoder was removed or replaced; see :func:`check_quantizable`.
    """

    def __init__(self, model: PreTrainedModel, start: int, freeze: int) -> None:
        self.model = model
        self.start = start
        self.freeze = freeze
        encoder = Encoder(model)
        self.matrices: dict[tuple[int, Role], FakeQuantizedLinear] = {}
        self.embeddings: list[FakeQuantizedEmbedding] = []
        self._sources: dict[str, nn.Module] = {}
        for (layer, role), source in check_quantizable(model).items():
            self.matrices[layer, role] = FakeQuantizedLinear(source)
            self._replace(encoder.matrix_name(layer, role), self.matrices[layer, role])
        tied = set(model.all_tied_weights_keys.values())
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Embedding) and f"{name}.weight" not in tied:
                self.embeddings.append(FakeQuantizedEmbedding(module))
                self._replace(name, self.embeddings[-1])
        if is_sparse(model):
            hook_packed(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore_layers()

    def _replace(self, name: str, module: nn.Module) -> None:
        self._sources[name] = self.model.get_submodule(name)
        self.model.set_submodule(name, module)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Switches the rounding on at ``start`` and the observers off at ``freeze``."""
        for embedding in self.embeddings:
            embedding.rounds = state.global_step >= self.start
        for matrix in self.matrices.values():
            matrix.rounds = state.global_step >= self.start
            matrix.inputs.enable_observer(state.global_step < self.freeze)

    @torch.no_grad()
    def finish(self) -> None:
        """Rounds the weights permanently, restores the layers, and stores the ranges in the model's configuration."""
        ranges: InputRanges = {}
        for key, matrix in self.matrices.items():
            ranges[key] = InputRange(float(matrix.inputs.scale), int(matrix.inputs.zero_point))
        for weight in [module.weight for modules in (self.matrices.values(), self.embeddings) for module in modules]:
            weight.copy_(round_rows(weight))
        self.restore_layers()
        set_ranges(self.model, ranges)

    def restore_layers(self) -> None:
        """Puts the original layers back, with the trained parameters."""
        for name, source in self._sources.items():
            self.model.set_submodule(name, source.train(self.model.training))
