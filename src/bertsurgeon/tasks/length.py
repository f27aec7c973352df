"""How many tokens a model has positions for."""

from typing import Any

COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Models whose first token has the position behind the id of the padding."""


def longest_input(config: Any) -> int | None:
    """The most tokens that a model takes; None where its positions are rotations or distances, which go on.

    Args:
        config: Of the model.
    """
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None or hasattr(config, "rope_parameters") or not getattr(config, "position_biased_input", True):
        return None
    skipped = (config.pad_token_id or 0) + 1 if config.model_type in COUNTED_FROM_PADDING else 0
    return positions - skipped
