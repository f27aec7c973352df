"""Quantization-aware training: a model learns to live with INT8 before it is exported.

Weights are rounded row by row, inputs by ranges that follow the data (moving averages, as in Q8BERT: Zafrir et al.,
2019, arXiv 1910.06188), and gradients pass as if nothing were rounded. In the end the weights are rounded for good, and
the ranges stand in the configuration, where the export finds them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import InputRange, InputRanges, hook_packed, is_sparse, set_ranges
from bertsurgeon.errors import ModelError
from bertsurgeon.layers import round_rows
from bertsurgeon.plan import Role

TOP = 255
"""Inputs become bytes from 0 to this."""


def check_quantizable(model: PreTrainedModel) -> dict[tuple[int, Role], nn.Linear]:
    """The encoder's matrices, by (layer, role).

    Raises:
        ModelError: If one of them is gone, or is something else than a matrix, as groups and low ranks are.
    """
    encoder = Encoder(model)
    matrices: dict[tuple[int, Role], nn.Linear] = {}
    for layer in range(len(encoder.layers)):
        for role in encoder.roles:
            matrix = encoder.find_matrix(layer, role)
            if not isinstance(matrix, nn.Linear):
                raise ModelError(
                    f"The {role} of layer {layer} is no whole matrix any more, and cannot be trained for INT8; export "
                    "the model in int8 as it is, which finds ranges afterwards."
                )
            matrices[layer, role] = matrix
    return matrices


class FakeQuantizedLinear(nn.Linear):
    """A linear layer that rounds its weights and inputs to INT8 where it is told to.

    Args:
        source: The layer whose parameters it shares.

    Attributes:
        inputs: torch's module that finds the range of the inputs and rounds them.
        rounds: Whether anything is rounded.
    """

    def __init__(self, source: nn.Linear) -> None:
        # torch.ao is imported where it is used: it is on its way to another package
        from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

        nn.Module.__init__(self)
        self.in_features, self.out_features = source.in_features, source.out_features
        self.weight, self.bias = source.weight, source.bias
        self.inputs = FakeQuantize(
            observer=MovingAverageMinMaxObserver,
            quant_min=0,
            quant_max=TOP,
            dtype=torch.quint8,
            qscheme=torch.per_tensor_affine,
        ).to(source.weight.device)
        self.rounds = False
        self.train(source.training)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        if not self.rounds:
            return F.linear(x, self.weight, self.bias)
        return F.linear(self.inputs(x.float()).to(x.dtype), round_rows(self.weight), self.bias)


class FakeQuantizedEmbedding(nn.Embedding):
    """An embedding that rounds the rows it looks up, where it is told to.

    Args:
        source: The embedding whose parameter it shares.

    Attributes:
        rounds: Whether anything is rounded.
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
        """Maps ids of any shape (…) to (…, embedding_dim)."""
        rows: Tensor = super().forward(input)
        return round_rows(rows.flatten(0, -2)).view_as(rows) if self.rounds else rows


class QuantizationAwareTraining(TrainerCallback):
    """Rounds what INT8 will round, from a step on; :meth:`finish` must be called when the training is over.

    The matrices of the encoder, their inputs, and the embeddings are rounded, but not embeddings tied to a head.

    Args:
        model: Whose layers are replaced by ones that can round, until it is finished.
        start: The step from which on they do.
        freeze: The step from which on the ranges of the inputs stay as they are.

    Raises:
        ModelError: See :func:`check_quantizable`.
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

    def _replace(self, name: str, module: nn.Module) -> None:
        self._sources[name] = self.model.get_submodule(name)
        self.model.set_submodule(name, module)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begins to round, and to leave the ranges alone, when it is time."""
        for embedding in self.embeddings:
            embedding.rounds = state.global_step >= self.start
        for matrix in self.matrices.values():
            matrix.rounds = state.global_step >= self.start
            matrix.inputs.enable_observer(state.global_step < self.freeze)

    @torch.no_grad()
    def finish(self) -> None:
        """Rounds the weights for good, puts the model's own layers back, and writes ranges into its configuration."""
        ranges: InputRanges = {}
        for key, matrix in self.matrices.items():
            ranges[key] = InputRange(float(matrix.inputs.scale), int(matrix.inputs.zero_point))
        for weight in [module.weight for modules in (self.matrices.values(), self.embeddings) for module in modules]:
            weight.copy_(round_rows(weight))
        self.withdraw()
        set_ranges(self.model, ranges)

    def withdraw(self) -> None:
        """Puts the model's own layers back, and nothing else."""
        for name, source in self._sources.items():
            self.model.set_submodule(name, source.train(self.model.training))
