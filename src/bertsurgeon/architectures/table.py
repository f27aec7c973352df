"""The one table that knows architectures: where the layers live, what the six matrices are called.

Everything else in the library speaks of layers and roles. Adding an architecture is adding an entry here (and the
modules of its dropped sub-layers in :mod:`bertsurgeon.layers.dropped`, if its layers are wired in a new way).
"""

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from bertsurgeon.errors import ModelError
from bertsurgeon.plan import ROLES, Role, SubLayerName

Wiring = Literal["bert", "distilbert"]


@dataclass(frozen=True)
class Architecture:
    """How one family of encoders is laid out.

    Attributes:
        name: ``model_type`` of its configurations.
        encoder: Path from the base model to the list of layers.
        embedding_norm: Path from the base model to the LayerNorm before the first layer.
        matrices: Path from a layer to each of its six linear maps.
        norms: Path from a layer to the LayerNorm after each sub-layer.
        heads: Name of the configuration's entry for the number of heads.
        wiring: What a dropped sub-layer becomes (see :mod:`bertsurgeon.layers.dropped`).
    """

    name: str
    encoder: str
    embedding_norm: str
    matrices: dict[Role, str]
    norms: dict[SubLayerName, str]
    heads: str
    wiring: Wiring

    def base_model(self, model: PreTrainedModel) -> nn.Module:
        """The encoder below any task head."""
        base: nn.Module = model.base_model
        return base

    def layers(self, model: PreTrainedModel) -> list[nn.Module]:
        """The encoder's layers, from the input to the output."""
        return list(self.base_model(model).get_submodule(self.encoder).children())

    def matrix(self, model: PreTrainedModel, layer: int, role: Role) -> nn.Module:
        """One of the six matrices of a layer."""
        return self.layers(model)[layer].get_submodule(self.matrices[role])

    def matrix_name(self, model: PreTrainedModel, layer: int, role: Role) -> str:
        """The qualified name of a matrix inside ``model``."""
        prefix = "" if self.base_model(model) is model else f"{model.base_model_prefix}."
        return f"{prefix}{self.encoder}.{layer}.{self.matrices[role]}"

    def preceding_norm(self, model: PreTrainedModel, layer: int, sub_layer: SubLayerName) -> nn.LayerNorm:
        """The LayerNorm whose output is the input (and the residual) of a sub-layer."""
        if sub_layer == "feed_forward":
            norm = self.layers(model)[layer].get_submodule(self.norms["attention"])
        elif layer == 0:
            norm = self.base_model(model).get_submodule(self.embedding_norm)
        else:
            norm = self.layers(model)[layer - 1].get_submodule(self.norms["feed_forward"])
        assert isinstance(norm, nn.LayerNorm)
        return norm

    def head_width(self, config: PretrainedConfig) -> int:
        """Channels per attention head."""
        return int(config.hidden_size // getattr(config, self.heads))

    def shapes(self, model: PreTrainedModel) -> list[dict[Role, tuple[int, int]]]:
        """The (output, input) channels of every matrix of a *dense* model, layer by layer."""
        return [
            {role: _shape(layer.get_submodule(self.matrices[role])) for role in ROLES} for layer in self.layers(model)
        ]


def _shape(module: nn.Module) -> tuple[int, int]:
    if not isinstance(module, nn.Linear):
        raise ModelError(
            f"A {type(module).__name__} stands where a linear layer was expected; the model is pruned, quantized or "
            "adapted already. Start from the dense model."
        )
    return module.out_features, module.in_features


_BERT_MATRICES: dict[Role, str] = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}
_BERT_NORMS: dict[SubLayerName, str] = {
    "attention": "attention.output.LayerNorm",
    "feed_forward": "output.LayerNorm",
}

_BERT = Architecture(
    name="bert",
    encoder="encoder.layer",
    embedding_norm="embeddings.LayerNorm",
    matrices=_BERT_MATRICES,
    norms=_BERT_NORMS,
    heads="num_attention_heads",
    wiring="bert",
)

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _BERT,
        replace(_BERT, name="roberta"),
        Architecture(
            name="distilbert",
            encoder="transformer.layer",
            embedding_norm="embeddings.LayerNorm",
            matrices={
                "query": "attention.q_lin",
                "key": "attention.k_lin",
                "value": "attention.v_lin",
                "attention_output": "attention.out_lin",
                "intermediate": "ffn.lin1",
                "output": "ffn.lin2",
            },
            norms={"attention": "sa_layer_norm", "feed_forward": "output_layer_norm"},
            heads="n_heads",
            wiring="distilbert",
        ),
    )
}


def get_architecture(model_type: str) -> Architecture:
    """The table's entry for a configuration's ``model_type``.

    Raises:
        ModelError: If there is none; the sentence lists those there are.
    """
    try:
        return ARCHITECTURES[model_type]
    except KeyError:
        raise ModelError(
            f"Models of type {model_type!r} are not supported; supported are {', '.join(sorted(ARCHITECTURES))}."
        ) from None
