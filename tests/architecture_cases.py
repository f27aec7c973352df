"""One line per architecture: a tiny random model that has all its peculiarities, and batches for it."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GteConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    ViTConfig,
    XLMRobertaConfig,
)

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GROUPED_QUERIES = {"num_key_value_heads": 2, "head_dim": 8}
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_buckets": 8,
}
WINDOWS = {"global_attn_every_n_layers": 2, "local_attention": 4, "cls_token_id": 2, "sep_token_id": 3}

CONFIGS: dict[str, list[tuple[type[PretrainedConfig], dict[str, Any]]]] = {
    "bert": [(BertConfig, {})],
    "roberta": [(RobertaConfig, {})],
    "xlm-roberta": [(XLMRobertaConfig, {})],
    "camembert": [(CamembertConfig, {})],
    "distilbert": [(DistilBertConfig, {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64})],
    "electra": [(ElectraConfig, {"embedding_size": 16}), (ElectraConfig, {"embedding_size": 32})],
    "mpnet": [(MPNetConfig, {})],
    "deberta-v2": [(DebertaV2Config, RELATIVE), (DebertaV2Config, {"type_vocab_size": 2})],
    "modernbert": [(ModernBertConfig, WINDOWS)],
    "nomic_bert": [(NomicBertConfig, {})],
    "gte": [(GteConfig, {})],
    "vit": [(ViTConfig, {"image_size": 8, "patch_size": 2})],
    "gpt2": [(GPT2Config, {})],
    "llama": [(LlamaConfig, GROUPED_QUERIES), (LlamaConfig, {"tie_word_embeddings": True})],
    "mistral": [(MistralConfig, GROUPED_QUERIES)],
    "qwen2": [(Qwen2Config, GROUPED_QUERIES)],
    "qwen3": [(Qwen3Config, GROUPED_QUERIES)],
}
"""Classes of configurations and what they need beside ``SIZES``; more than one where an architecture has versions."""


def make_config(name: str, version: int = 0, **overrides: Any) -> PretrainedConfig:
    """A tiny configuration."""
    kind, entries = CONFIGS[name][version]
    return kind(**{**SIZES, **entries, **overrides})


def make_model(auto: Any, name: str, version: int = 0, **overrides: Any) -> PreTrainedModel:
    """A tiny random model of an Auto class; the same call makes the same weights."""
    torch.manual_seed(7)
    model: PreTrainedModel = auto.from_config(make_config(name, version, **overrides))
    with torch.no_grad():  # fresh biases are zero and fresh norms do nothing: both would hide mistakes
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif not isinstance(module, nn.Embedding):
                    parameter.mul_(1.5)  # far from linear
    return model.eval()


def make_batches(name: str, count: int = 3) -> list[dict[str, Tensor]]:
    """Unlabeled batches: padded token ids, or images."""
    generator = torch.Generator().manual_seed(3)
    if name == "vit":
        return [{"pixel_values": torch.randn(6, 3, 8, 8, generator=generator)} for _ in range(2 * count)]
    batches = []
    for _ in range(count):
        lengths = torch.randint(3, 13, (8,), generator=generator)
        mask = (torch.arange(int(lengths.max())) < lengths.unsqueeze(1)).long()
        ids = torch.randint(4, 100, mask.shape, generator=generator)
        batches.append({"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask})
    return batches
