"""The methods of the study: functions that prune a dense model to a share of its encoder."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel

from bertsurgeon import LayerDropConfig, drop_layers, prune
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import make_batches
from lib.models import StudyModel
from lib.torch_pruning_peer import prune_with_torch_pruning

SHARES = (0.5, 0.25, 0.12, 0.06)

Method = Callable[[StudyModel, float], PreTrainedModel]


def auto(**options: Any) -> Method:
    """Returns the method ``auto`` with these options."""
    return lambda dense, share: prune(dense.model, dense.config(share, **options), dense.calibration).model


def pgb(**options: Any) -> Method:
    """Returns the method ``pgb`` with these options."""
    return lambda dense, share: dense.with_statistics.prune(dense.pgb_config(share, **options))


def first_layers(dense: StudyModel, share: float) -> PreTrainedModel:
    """Keeps the first layers, as many as the share allows, at least one; there is no compensation."""
    layers = Encoder(dense.model).layers
    return drop_layers(dense.model, LayerDropConfig(max(1, int(share * len(layers))), "first")).model


def torch_pruning(dense: StudyModel, share: float) -> PreTrainedModel:
    """Removes heads and neurons with Torch-Pruning."""
    batch = make_batches(dense.train, dense.tokenizer, 32, 32, dense.seed)[0]
    return prune_with_torch_pruning(dense.model, dict(batch), share)  # type: ignore[arg-type]


METHODS: dict[str, Method] = {
    "auto": auto(),
    "removal": auto(structures=("removal",)),
    "low_rank": auto(structures=("low_rank",)),
    "groups": auto(structures=("groups",)),
    "auto-groups": auto(structures=("removal", "low_rank", "groups")),
    "pgb": pgb(compensation="independent"),
    "pgb-sequential": pgb(),
    "magnitude": pgb(importance="magnitude"),
    "torch-pruning": torch_pruning,
    "first-layers": first_layers,
}
