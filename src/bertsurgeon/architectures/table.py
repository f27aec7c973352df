"""The one table that knows architectures: where the layers live, what their matrices are called, how they are wired.

Everything else in the library speaks of layers and roles. Adding an architecture is adding an entry here and a line in
the tests; ``docs/adding-an-architecture.md`` shows it.
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
    """How one family of models is laid out.

    Attributes:
        name: ``model_type`` of its configurations.
        encoder: Path from the base model to the list of layers.
        matrices: Path from a layer to each of its six linear maps, seven where the feed-forward part is gated. Where
            the model fuses several into one, the path goes on with the role (see ``fused``).
        norms: Path from a layer to the norm of each sub-layer: after it or, in a pre-norm model, before it.
        attention: Path from a layer to the module that computes attention.
        feed_forward: Path from a layer to the module that computes the feed-forward part; empty where there is none,
            and the part consists of the modules ``intermediate`` and ``output`` (as in BERT).
        input_norms: Paths from the base model to the module that adds a bias to the first layer's input; the first one
            that exists is used; empty for pre-norm models.
        pre_norm: Sub-layers read a normalised copy of the residual stream and add to the stream as it is.
        norm_inside: The attention's module adds to the residual stream and normalises it itself.
        heads: The configuration's entry for the number of heads.
        fused: Matrices that the model computes as one, by the path from a layer to that one, in the order of their
            outputs.
        head_counts: Paths from a layer to numbers that count its heads.
        head_channels: Paths from a layer to numbers that count the channels of all its heads.
        head_bias: Name of an argument of the attention with one bias per head, shape (batch, heads, …).
        positional: Attention scores depend on positions through queries and keys.
        position_input: Name of an argument of the layers that query and key matrices read, too.
        bias_options: Entries of the configuration that, set, give a bias to matrices that have none.
        refuses: Parts that the library does not know, by what they are called, and which configurations have them.
        masks: ``additive`` if the model takes a mask that is added to the scores, of shape (batch, 1, 1, tokens) or
            (batch, 1, tokens, tokens); ``own`` if it is given that of its tokens, (batch, tokens), and makes its own.
        decoder: Each token sees those before it, and keys and values are cached.
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
        """The matrices of a layer."""
        return tuple(role for role in ALL_ROLES if role in self.matrices)

    @property
    def sub_layers(self) -> dict[SubLayerName, tuple[Role, ...]]:
        """The matrices of each sub-layer."""
        return sub_layers(self.matrices)

    def residual(self, sub_layer: SubLayerName) -> str:
        """Path from a layer to a module whose input is the residual stream that a sub-layer adds to."""
        return self.norms[sub_layer] if self.pre_norm else self.matrices[self.sub_layers[sub_layer][0]]

    def head_width(self, config: PretrainedConfig) -> int:
        """Channels per attention head."""
        width = getattr(config, "head_dim", None) or config.hidden_size // getattr(config, self.heads)
        return int(width)

    def unit_width(self, config: PretrainedConfig) -> int:
        """Channels of the heads that are removed together: those of the queries that share a key and a value."""
        heads = getattr(config, self.heads)
        shared = heads // (getattr(config, "num_key_value_heads", None) or heads)
        return self.head_width(config) * int(shared)

    def check_config(self, config: PretrainedConfig) -> None:
        """Checks that a model has no parts that the library does not know.

        Raises:
            ModelError: If it has.
        """
        for what, has in self.refuses.items():
            if has(config):
                raise ModelError(f"This {self.name} model has {what}, which is not supported; use a model without.")


def _has(entry: str) -> Callable[[PretrainedConfig], bool]:
    """Whether an entry of the configuration is set."""
    return lambda config: bool(getattr(config, entry, None))


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """The (output, input) channels of a linear layer.

    Raises:
        ModelError: If the module is no linear layer.
    """
    if isinstance(module, Conv1D):
        return module.weight.shape[1], module.weight.shape[0]
    if not isinstance(module, nn.Linear):
        raise ModelError(
            f"A {type(module).__name__} stands where a linear layer was expected; the model is pruned, quantized or "
            "adapted already. Start from the dense model."
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
