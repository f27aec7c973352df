"""The one entrance: a dense model and data in, a pruned model and a report out."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon.architectures import Encoder, unfuse
from bertsurgeon.calibration import count_samples, make_batches, token_mask
from bertsurgeon.checkpoint import attach_plan, clear_int8_ranges, get_plan
from bertsurgeon.config import PruneConfig
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.measurements import SETTINGS, Calibration, calibrate
from bertsurgeon.methods.auto.method import prune_auto
from bertsurgeon.methods.obert.method import obert_samples, prune_obert
from bertsurgeon.methods.pgb.method import PGB_SAMPLES, prune_pgb
from bertsurgeon.methods.report import PruneReport, SparseReport, check_dense, check_matrices
from bertsurgeon.plan import dense_plan
from bertsurgeon.prediction import evaluating


def prune(
    model: PreTrainedModel,
    data: Dataset | Iterable[Mapping[str, Any]] | Calibration,
    config: PruneConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher: PreTrainedModel | None = None,
) -> tuple[PreTrainedModel, PruneReport]:
    """Prunes a fine-tuned model in one shot.

    Args:
        model: A dense fine-tuned model of a supported architecture; for ``obert`` also one that is sparse, or was
            pruned by another method, whose groups, ranks and kept units it thins out. Left as it is.
        data: Calibration data: a tokenized dataset, or an iterable of batches such as a ``DataLoader``. ``pgb`` and
            ``obert`` use labels where there are any, ``auto`` only if ``config.use_labels`` is set. For ``auto`` also a
            :class:`Calibration`, made once for several budgets.
        config: The options.
        tokenizer: Pads the batches of a dataset; not needed for ready batches.
        teacher: For ``obert``: gradients are those of the distillation from this model, not of the task's loss.

    Returns:
        The pruned model, ready for ``save_pretrained`` or further training, and a report.

    Raises:
        ModelError: If the model is not supported, already pruned, or has broken weights.
        DataError: If the calibration data is empty or not tokenized.
        OptionError: If options are impossible for this model, or a calibration was made with others.

    Example:
        >>> from bertsurgeon import PruneConfig, prune
        >>> from bertsurgeon.tasks import tokenize
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> pruned, report = prune(model, tokenize(texts, tokenizer), PruneConfig(sparsity=0.5), tokenizer)
        >>> f"{report.sparsity:.1f}"
        '0.5'
    """
    if config.method == "obert":
        check_matrices(model)
    else:
        check_dense(model)
        if teacher is not None:
            raise OptionError(f"A teacher is of use to the method obert only, not to {config.method}.")
    torch.manual_seed(config.seed)
    seconds: dict[str, float] = {}
    sparse: SparseReport | None = None
    if config.method == "auto":
        if isinstance(data, Calibration):
            calibration = data
            _check_calibration(calibration, model, config)
        else:
            calibration = calibrate(model, data, config, tokenizer)
        batches = calibration.batches
        model = unfuse(model)
        with evaluating(model):
            pruned, plan = prune_auto(model, calibration, config, seconds)
    elif isinstance(data, Calibration):
        raise OptionError(f"A calibration serves the method auto only; give {config.method} the data itself.")
    elif config.method == "pgb":
        batches = make_batches(data, tokenizer, config.samples or PGB_SAMPLES, config.batch_size, config.seed)
        model = unfuse(model)
        with evaluating(model):
            pruned, plan = prune_pgb(model, batches, config, seconds)
    else:
        joined = config.fisher_batch_size  # a batch holds whole gradients
        size = max(1, config.batch_size // joined) * joined
        batches = make_batches(data, tokenizer, obert_samples(config), size, config.seed)
        model = unfuse(model)
        refit = batches  # gradients are counted in texts, regressions in tokens
        if isinstance(data, Dataset) and config.compensation != "none":
            refit = make_batches(data, tokenizer, None, config.batch_size, config.seed)
        pruned, sparse = prune_obert(model, batches, config, seconds, teacher, refit)
        plan = get_plan(model) or dense_plan(Encoder(model).architecture.name, Encoder(model).shapes)
    clear_int8_ranges(pruned)
    if sparse is None:
        attach_plan(pruned, plan)
    tokens = sum(int(token_mask(model, batch).sum()) for batch in batches)
    samples = sum(count_samples(batch) for batch in batches)
    return pruned, PruneReport(plan, config, samples, tokens, seconds, sparse)


def _check_calibration(calibration: Calibration, model: PreTrainedModel, config: PruneConfig) -> None:
    calibration.check(model)
    if "groups" in config.structures and not calibration.settings["groups"]:
        raise OptionError("The calibration knows nothing of groups; calibrate again with them among the structures.")
    for name in SETTINGS:
        if calibration.settings.get(name, getattr(PruneConfig, name)) != getattr(config, name):
            raise OptionError(
                f"The calibration was made with {name}={calibration.settings[name]}, not {getattr(config, name)}; "
                "use the same options, or calibrate again."
            )
