"""Plain magnitude: heads and neurons with the smallest weights are removed, the same share in every sub-layer."""

import torch
from transformers import PreTrainedModel

from peers.units import Units, copy_encoder, scale_units


@torch.no_grad()
def prune_by_magnitude(model: PreTrainedModel, share: float) -> tuple[PreTrainedModel, float]:
    """Removes units by the norm of all their weights.

    Args:
        model: The dense model; not changed.
        share: Share of the encoder's weights to keep.

    Returns:
        The model, and the share of the weights that it keeps.
    """
    pruned, view = copy_encoder(model)
    kept: Units = {}
    for layer, sub_layer in view.keys:
        key = (layer, sub_layer)
        roles = view.encoder.sub_layers[sub_layer]
        squares = sum(view.encoder.weight(layer, role).square().sum(1) for role in roles[:-1])
        scores = view.sum_units(squares + view.last_weight(key).square().sum(0), key)
        kept[key] = torch.zeros(len(scores), dtype=torch.bool)
        kept[key][scores.topk(max(1, int(share * len(scores)))).indices] = True
        scale_units(view, key, kept[key])
    return pruned, view.count(kept) / view.total()
