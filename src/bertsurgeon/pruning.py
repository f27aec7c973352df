"""``prune``: one verb for all methods."""

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon.checkpoint import clear_int8_ranges
from bertsurgeon.devices import Device, move, running_on
from bertsurgeon.errors import OptionError
from bertsurgeon.layers import without_fused_operations
from bertsurgeon.methods.auto.measurements import Calibration
from bertsurgeon.methods.base import PruneConfig, PruneResult
from bertsurgeon.methods.registry import get_method
from bertsurgeon.prediction import forked_rng, gradients_enabled, without_inference_tensors


@gradients_enabled()
def prune(
    model: PreTrainedModel,
    config: PruneConfig,
    data: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    teacher: PreTrainedModel | None = None,
    device: Device | None = None,
) -> PruneResult:
    """Prunes a fine-tuned model in one shot.

    Args:
        model: A dense fine-tuned model of a supported architecture; for ``obert`` also one that is sparse, or was
            pruned by another method, whose matrices it makes sparse. Left as it is.
        config: The method's options with the budget: :class:`bertsurgeon.AutoConfig`, :class:`bertsurgeon.PgbConfig`
            or :class:`bertsurgeon.ObertConfig`.
        data: Calibration data: a list of texts, a tokenized dataset, or an iterable of batches such as a
            ``DataLoader``. ``pgb`` and ``obert`` use labels where there are any, ``auto`` only with ``use_labels``. For
            ``auto`` also a :class:`bertsurgeon.Calibration`, made once for several budgets.
        tokenizer: Tokenizes texts and pads the batches of a dataset; not needed for ready batches.
        teacher: For ``obert``: gradients are those of the distillation from this model, not of the task's loss.
        device: Where everything is computed; None for the device of ``model`` if that is no CPU, else for the
            accelerator of the machine, if it has one.

    Returns:
        The pruned model, ready for ``save_pretrained`` or further training, on the device where ``model`` is, and a
        report.

    Raises:
        ModelError: If the model is not supported, already pruned, or has broken weights.
        DataError: If the calibration data is empty or not tokenized.
        OptionError: If options are impossible for this model, or a calibration was made with others.

    Example:
        >>> from bertsurgeon import AutoConfig, Sparsity, prune
        >>> from bertsurgeon.tasks import tokenize
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> pruned, report = prune(model, AutoConfig(Sparsity(0.5)), tokenize(texts, tokenizer), tokenizer)
        >>> f"{report.sparsity:.1f}"
        '0.5'
    """
    method = get_method(config)
    if teacher is not None and not method.accepts_teacher:
        raise OptionError(f"The method {method.name} uses no teacher; omit it, or recover from one afterwards.")
    if isinstance(data, Calibration) and method.calibrate is None:
        raise OptionError(f"The method {method.name} has no use for a calibration; pass the data itself.")
    model, teacher = without_inference_tensors(model), without_inference_tensors(teacher)
    home = model.device if isinstance(model, PreTrainedModel) else None
    with forked_rng(), running_on(device, model, teacher):
        torch.manual_seed(config.seed)
        result = method.run(without_fused_operations(model), config, data, tokenizer, teacher)
    clear_int8_ranges(result.model)
    if home is not None:
        move(result.model, home)
    return result
