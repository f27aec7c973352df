"""The table of supported architectures: the paths to layers and matrices, and how these are wired.

The rest of the library uses layers and roles only. An architecture is added by an entry here and a line in the tests,
see ``docs/adding-an-architecture.md``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from bertsurgeon.errors import ModelError
from bertsurgeon.plan import ALL_ROLES, Role, SubLayerName, sub_layers

Masks = Literal["additive", "own"]


@dataclass(frozen=True)
class Architecture:
    """The layout of one family of models.

    Attributes:
        name: ``model_type`` of its configurations.
        encoder: Path from the base model to the list of layers.
        matrices: Path from a layer to each of its six linear maps, seven if the feed-forward part is gated. If the
            model fuses several matrices into one, the path is that of the fused matrix and the role (see ``fused``).
        norms: Path from a layer to the norm of each sub-layer: after it or, in a pre-norm model, before it.
        attention: Path from a layer to the module that computes attention.
        feed_forward: Path from a layer to the module that computes the feed-forward part; empty if the part consists of
            the modules ``intermediate`` and ``output`` (as in BERT).
        input_norms: Paths from the base model to the module that adds a bias to the first layer's input, of which the
            first that exists is used; not used for pre-norm models.
        pre_norm: True if sub-layers read a normalized copy of the residual stream and add to the stream itself.
        norm_inside: True if the attention module adds to the residual stream and normalizes it itself.
        heads: Entry of the configuration with the number of heads.
        fused: Roles of the matrices that the model computes as one, in the order of their outputs, by the path from a
            layer to the fused matrix.
        head_counts: Paths from a layer to attributes with its number of heads.
        head_channels: Paths from a layer to attributes with the number of channels of all its heads.
        head_bias: Name of an argument of the attention with one bias per head, shape (batch, heads, …).
        positional: True if attention scores depend on positions through queries and keys.
        position_input: Name of an argument of the layers that the query and key matrices read in addition to tokens.
        bias_options: Entries of the configuration that add a bias to matrices without one when they are set.
        refuses: Parts that are not supported, by name, each with a test of whether a configuration has it.
        masks: ``additive`` if the model takes a mask that is added to the scores, of shape (batch, 1, 1, tokens) or
            (batch, 1, tokens, tokens); ``own`` if it takes the mask of its tokens, (batch, tokens), and converts it.
        decoder: True if each token attends to earlier tokens only, and keys and values are cached.
    """

    name: str
    encoder: str
    matrices: Mapping[Role, str]
    norms: Mapping[SubLayerName, str]
    attention: str = "attention"
    feed_forward: str = ""
    input_norms: tuple[str, ...] = ("embeddings.LayerNorm",)
    pre_norm: bool = False
    norm_inside: bool = False
    heads: str = "num_attention_heads"
    fused: Mapping[str, tuple[Role, ...]] = field(default_factory=dict)
    head_counts: tuple[str, ...] = ()
    head_channels: tuple[str, ...] = ()
    head_bias: str | None = None
    positional: bool = False
    position_input: str | None = None
    bias_options: tuple[str, ...] = ()
    refuses: Mapping[str, Callable[[PretrainedConfig], bool]] = field(default_factory=dict)
    masks: Masks = "additive"
    decoder: bool = False

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of a layer's matrices."""
        return tuple(role for role in ALL_ROLES if role in self.matrices)

    @property
    def sub_layers(self) -> dict[SubLayerName, tuple[Role, ...]]:
        """The roles of each sub-layer."""
        return sub_layers(self.matrices)

    def residual(self, sub_layer: SubLayerName) -> str:
        """Returns the path from a layer to a module whose input is the residual stream that a sub-layer adds to."""
        return self.norms[sub_layer] if self.pre_norm else self.matrices[self.sub_layers[sub_layer][0]]

    def head_width(self, config: PretrainedConfig) -> int:
        """Returns the number of channels per attention head."""
        width = getattr(config, "head_dim", None) or config.hidden_size // getattr(config, self.heads)
        return int(width)

    def unit_width(self, config: PretrainedConfig) -> int:
        """Returns the number of channels that are removed together: of the query heads that share a key and a value."""
        heads = getattr(config, self.heads)
        shared = heads // (getattr(config, "num_key_value_heads", None) or heads)
        return self.head_width(config) * int(shared)

    def check_config(self, config: PretrainedConfig) -> None:
        """Checks that a model has no parts that are not supported.

        Raises:
            ModelError: If it has one.
        """
        for part, has_part in self.refuses.items():
            if has_part(config):
                raise ModelError(f"This {self.name} model has {part}, which is not supported; use a model without it.")


def _has(entry: str) -> Callable[[PretrainedConfig], bool]:
    """Returns a test of whether an entry of the configuration is set."""
    return lambda config: bool(getattr(config, entry, None))


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Returns the (output, input) channels of a linear layer.

    Raises:
        ModelError: If the module is not a linear layer.
    """
    if isinstance(module, Conv1D):
        return module.weight.shape[1], module.weight.shape[0]
    if not isinstance(module, nn.Linear):
        raise ModelError(
            f"The model contains a {type(module).__name__} where a linear layer is expected: it is already pruned, "
            "quantized or adapted. Start from the dense model."
        )
    return module.out_features, module.in_features


_BERT = Architecture(
    name="bert",
    encoder="encoder.layer",
    matrices={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
    },
    norms={"attention": "attention.output.LayerNorm", "feed_forward": "output.LayerNorm"},
    norm_inside=True,
    refuses={"cross-attention": _has("add_cross_attention"), "a causal mask": _has("is_decoder")},
)

_GATED: dict[Role, str] = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
    "intermediate": "mlp.up_proj",
    "gate": "mlp.gate_proj",
    "output": "mlp.down_proj",
}

_LLAMA = Architecture(
    name="llama",
    encoder="layers",
    matrices=_GATED,
    norms={"attention": "input_layernorm", "feed_forward": "post_attention_layernorm"},
    attention="self_attn",
    feed_forward="mlp",
    pre_norm=True,
    positional=True,
    bias_options=("attention_bias", "mlp_bias"),
    decoder=True,
)

_NOMIC = Architecture(
    name="nomic_bert",
    encoder="layers",
    matrices=_GATED,
    norms={"attention": "post_attention_layernorm", "feed_forward": "post_mlp_layernorm"},
    attention="self_attn",
    feed_forward="mlp",
    positional=True,
)

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _BERT,
        *(replace(_BERT, name=name) for name in ("roberta", "xlm-roberta", "camembert")),
        replace(_BERT, name="electra", input_norms=("embeddings_project", "embeddings.LayerNorm")),
        Architecture(
            name="distilbert",
            encoder="transformer.layer",
            matrices={
                "query": "attention.q_lin",
                "key": "attention.k_lin",
                "value": "attention.v_lin",
                "attention_output": "attention.out_lin",
                "intermediate": "ffn.lin1",
                "output": "ffn.lin2",
            },
            norms={"attention": "sa_layer_norm", "feed_forward": "output_layer_norm"},
            feed_forward="ffn",
            heads="n_heads",
        ),
        Architecture(
            name="mpnet",
            encoder="encoder.layer",
            matrices={
                "query": "attention.attn.q",
                "key": "attention.attn.k",
                "value": "attention.attn.v",
                "attention_output": "attention.attn.o",
                "intermediate": "intermediate.dense",
                "output": "output.dense",
            },
            norms={"attention": "attention.LayerNorm", "feed_forward": "output.LayerNorm"},
            norm_inside=True,
            head_channels=("attention.attn.all_head_size",),
            head_bias="position_bias",
        ),
        Architecture(
            name="deberta-v2",
            encoder="encoder.layer",
            matrices={
                **_BERT.matrices,
                "query": "attention.self.query_proj",
                "key": "attention.self.key_proj",
                "value": "attention.self.value_proj",
            },
            norms=_BERT.norms,
            norm_inside=True,
            head_counts=("attention.self.num_attention_heads",),
            positional=True,
            position_input="rel_embeddings",
            refuses={
                "a convolution beside its layers (conv_kernel_size)": _has("conv_kernel_size"),
                "position matrices of its own (no share_att_key)": lambda config: (
                    _has("relative_attention")(config) and not _has("share_att_key")(config)
                ),
            },
            masks="own",
        ),
        Architecture(
            name="modernbert",
            encoder="layers",
            matrices={
                "query": "attn.Wqkv.query",
                "key": "attn.Wqkv.key",
                "value": "attn.Wqkv.value",
                "attention_output": "attn.Wo",
                "intermediate": "mlp.Wi.intermediate",
                "gate": "mlp.Wi.gate",
                "output": "mlp.Wo",
            },
            norms={"attention": "attn_norm", "feed_forward": "mlp_norm"},
            attention="attn",
            feed_forward="mlp",
            pre_norm=True,
            fused={"attn.Wqkv": ("query", "key", "value"), "mlp.Wi": ("gate", "intermediate")},
            positional=True,
            bias_options=("attention_bias", "mlp_bias"),
        ),
        _NOMIC,
        replace(_NOMIC, name="gte"),
        Architecture(
            name="vit",
            encoder="layers",
            matrices={
                "query": "attention.q_proj",
                "key": "attention.k_proj",
                "value": "attention.v_proj",
                "attention_output": "attention.o_proj",
                "intermediate": "mlp.fc1",
                "output": "mlp.fc2",
            },
            norms={"attention": "layernorm_before", "feed_forward": "layernorm_after"},
            feed_forward="mlp",
            pre_norm=True,
            bias_options=("qkv_bias",),
        ),
        Architecture(
            name="gpt2",
            encoder="h",
            matrices={
                "query": "attn.c_attn.query",
                "key": "attn.c_attn.key",
                "value": "attn.c_attn.value",
                "attention_output": "attn.c_proj",
                "intermediate": "mlp.c_fc",
                "output": "mlp.c_proj",
            },
            norms={"attention": "ln_1", "feed_forward": "ln_2"},
            attention="attn",
            feed_forward="mlp",
            pre_norm=True,
            fused={"attn.c_attn": ("query", "key", "value")},
            head_channels=("attn.split_size",),
            refuses={"cross-attention": _has("add_cross_attention")},
            decoder=True,
        ),
        _LLAMA,
        replace(_LLAMA, name="mistral", bias_options=()),
        replace(_LLAMA, name="qwen2", bias_options=()),
        replace(_LLAMA, name="qwen3", bias_options=()),
    )
}


def get_architecture(model_type: str) -> Architecture:
    """Returns the entry of the table for the ``model_type`` of a configuration.

    Raises:
        ModelError: If there is none; the message lists the supported types.
    """
    try:
        return ARCHITECTURES[model_type]
    except KeyError:
        raise ModelError(
            f"Models of type {model_type!r} are not supported; use one of {', '.join(sorted(ARCHITECTURES))}."
        ) from None
