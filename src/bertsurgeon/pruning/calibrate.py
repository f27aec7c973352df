"""The one pass over the data that ``auto`` needs, for any number of budgets."""

from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon.allocation import measure_curves
from bertsurgeon.architectures import get_architecture, unfuse
from bertsurgeon.calibration import collect_statistics, make_batches
from bertsurgeon.config import PruneConfig
from bertsurgeon.errors import OptionError
from bertsurgeon.prediction import evaluating
from bertsurgeon.pruning.calibration import Calibration, fingerprint
from bertsurgeon.pruning.check import check_dense
from bertsurgeon.pruning.report import timed
from bertsurgeon.tasks import LABELS, has_labels

SETTINGS = ("samples", "group_chunk", "batch_size", "metric", "token_weighting", "use_labels", "damping", "seed")
"""Options of :class:`bertsurgeon.PruneConfig` that a calibration is made with."""


def calibrate(
    model: PreTrainedModel,
    data: Dataset | Iterable[Mapping[str, Any]],
    config: PruneConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Calibration:
    """Finds out what every part of a dense model is worth.

    Args:
        model: A dense fine-tuned model of a supported architecture; left as it is.
        data: Calibration data, see :func:`bertsurgeon.prune`; labels are not needed.
        config: The options (of which only ``SETTINGS`` matter here).
        tokenizer: Pads the batches of a dataset.

    Raises:
        ModelError: If the model is not supported, already pruned, or has broken weights.
        DataError: If the calibration data is empty or not tokenized.
        OptionError: If labels shall be used and there are none.

    Example:
        >>> from bertsurgeon import PruneConfig, calibrate, prune
        >>> from bertsurgeon.tasks import tokenize
        >>> from bertsurgeon.toy import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> known = calibrate(model, tokenize(texts, tokenizer), PruneConfig(sparsity=0.5), tokenizer)
        >>> [f"{prune(model, known, PruneConfig(sparsity=share))[1].sparsity:.1f}" for share in (0.5, 0.7)]
        ['0.5', '0.7']
    """
    check_dense(model)
    architecture = get_architecture(model.config.model_type)
    batches = make_batches(data, tokenizer, config.samples, config.batch_size, config.seed)
    if config.use_labels and not all(map(has_labels, batches)):
        raise OptionError("Gradients from labels need labelled data; these texts have none: leave use_labels out.")
    if not config.use_labels:
        batches = [{name: value for name, value in batch.items() if name not in LABELS} for batch in batches]
    seconds: dict[str, float] = {}
    found = fingerprint(model)
    model = unfuse(model)
    with evaluating(model):
        statistics = timed(
            seconds,
            "statistics",
            lambda: collect_statistics(
                model,
                architecture,
                batches,
                gradients=False,
                curvature=config.metric == "fisher",
                moments=True,
                token_weighting=config.token_weighting,
                seed=config.seed,
            ),
        )
        groups = "groups" in config.structures
        chunk = config.group_chunk if groups else None
        curves = timed(
            seconds, "curves", lambda: measure_curves(model, architecture, statistics, config.damping, chunk)
        )
    settings = {name: getattr(config, name) for name in SETTINGS} | {"groups": groups}
    return Calibration(found, batches, statistics.curvature, statistics.token_weights, curves, settings, seconds)
