"""Removal of heads and neurons with Torch-Pruning, for comparison.

Torch-Pruning (https://github.com/VainF/Torch-Pruning, checked with 1.6.1 and transformers 5.23) traces the model, finds
which channels must be removed together and removes whole groups of them. Here the groups are attention heads (rows of
query, key and value, columns of the attention's output) and intermediate neurons (rows of the first, columns of the
second matrix of the feed-forward network), ranked within each layer by the squared L2 norm of all their weights.
Embeddings, hidden width, pooler and classifier are not changed. There is no compensation, and no data is used.

A model changed this way is an ordinary ``BertForSequenceClassification`` in memory. Its configuration cannot express
smaller layers, so it is for measuring and further training in the same process, not for ``from_pretrained``.
"""

from copy import deepcopy
from typing import Any

from torch import nn
from transformers import BertForSequenceClassification


def prune_with_torch_pruning(
    model: BertForSequenceClassification, example_inputs: dict[str, Any], keep: float = 0.5
) -> BertForSequenceClassification:
    """Removes heads and intermediate neurons, the same share in every layer.

    A layer keeps at least one head (Torch-Pruning removes none where all should be removed), and as many neurons as
    the share requires after the number of heads was rounded.

    Args:
        model: The dense model; not modified. Attention may be ``eager`` or ``sdpa``.
        example_inputs: One batch for tracing, on the model's device. Labels are ignored.
        keep: Share of the encoder's weights that remains.

    Returns:
        A smaller copy, in evaluation mode.
    """
    import torch_pruning as tp

    model = deepcopy(model).eval()
    attentions = [layer.attention.self for layer in model.base_model.encoder.layer]
    neurons = [layer.intermediate.dense for layer in model.base_model.encoder.layer]
    projections = [matrix for a in attentions for matrix in (a.query, a.key, a.value)]
    count = model.config.num_attention_heads
    heads = dict.fromkeys(projections, count)
    prunable = {*projections, *neurons}
    heads_kept = max(1, round(keep * count)) / count
    attention_weights, other_weights = 4 * model.config.hidden_size, 2 * model.config.intermediate_size
    neurons_kept = keep + (keep - heads_kept) * attention_weights / other_weights
    pruner = tp.pruner.BasePruner(
        model,
        {name: value for name, value in example_inputs.items() if name != "labels"},
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=1 - neurons_kept,
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear) and m not in prunable],
        root_module_types=[nn.Linear],
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=1 - heads_kept - 1e-6,  # the number of kept heads is rounded down
    )
    pruner.step()
    for attention in attentions:
        attention.num_attention_heads = pruner.num_heads[attention.query]
        attention.all_head_size = attention.query.out_features
    return model
