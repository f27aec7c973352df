"""Layer drop: removes whole encoder layers; the result is a stock model with fewer of them.

This is the first step of the compound recipes of the Optimal BERT Surgeon (Kurtic et al., 2022, arXiv 2203.07259): from
12 layers to 6 or 3. The strategies follow Sanh et al. (2019, arXiv 1910.01108) and Sajjad et al. (2020, arXiv
2004.03844), or measure which layers matter.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, make_batches, token_mask
from bertsurgeon.checkpoint import check_finite, clear_int8_ranges, get_plan
from bertsurgeon.devices import Device, running_on
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.options import REQUIRED, check_config, documented, option
from bertsurgeon.prediction import evaluating, gradients_enabled, without_inference_tensors
from bertsurgeon.tasks import Data, find_head, model_inputs

Strategy = Literal["alternate", "first", "last", "symmetric", "importance"]

LAST_STATE = "last_hidden_state"
"""Output that importance is measured by for models without a supported head."""


@documented
@dataclass(frozen=True)
class LayerDropConfig:
    """Options of :func:`drop_layers`.

    Strategies, for K of N layers:

    - ``alternate``: evenly spaced, including the first and the last (of 12, six are 0, 2, 4, 7, 9, 11, as in
      DistilBERT);
    - ``first``: the K nearest to the input;
    - ``last``: the K nearest to the output;
    - ``symmetric``: the outer ones, without the middle;
    - ``importance``: layers are removed one by one, each time the one whose removal changes the outputs on the data
      least (divergence of the head's predictions, as in distillation, or change of the last hidden states).
    """

    keep: int | Sequence[int] = option(
        REQUIRED, "Number of layers that are kept, or their indices, ascending, counted from 0.", cli=False
    )
    strategy: Strategy = option("alternate", "Selects the layers if their number is given.", choices=get_args(Strategy))
    samples: int = option(256, "Number of sequences that importance is measured on.")
    batch_size: int = option(32, "Sequences per batch, for importance.", cli=False)
    seed: int = option(0, "Random seed: fixes which sequences are drawn.")

    def __post_init__(self) -> None:
        """Checks the strategy.

        Raises:
            OptionError: If it is unknown.
        """
        if self.strategy not in get_args(Strategy):
            raise OptionError(f"The strategy must be one of {', '.join(get_args(Strategy))}, not {self.strategy!r}.")


class LayerDropResult(NamedTuple):
    """Result of :func:`drop_layers`.

    Attributes:
        model: A model of the same class with fewer layers; it needs training.
        layers: Indices of its layers in the original model, ascending.
    """

    model: PreTrainedModel
    layers: list[int]


@gradients_enabled()
def drop_layers(
    model: PreTrainedModel,
    config: LayerDropConfig,
    data: "Data | None" = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    device: Device | None = None,
) -> LayerDropResult:
    """Removes layers from an encoder.

    Args:
        model: Dense or sparse model with any head or none; not changed.
        config: Which layers are kept.
        data: Data for the strategy ``importance``: texts, a tokenized dataset or an iterable of batches; labels are not
            needed.
        tokenizer: Tokenizes texts and pads the sequences of a dataset.
        device: Where the strategy ``importance`` runs the model; None for the model's own device if that is no CPU,
            else for the accelerator of the machine, if it has one.

    Raises:
        ModelError: If the model is not supported, already has a plan, or has weights that are not finite.
        OptionError: If there are not that many layers, ``data`` is missing or not used, or the first layer would be
            removed but must be kept.
        DataError: If the data is empty or not supported.

    Example:
        >>> from bertsurgeon import LayerDropConfig, drop_layers
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> drop_layers(model, LayerDropConfig(keep=1)).layers
        [0]
    """
    check_config(config, LayerDropConfig, "drop_layers")
    model = without_inference_tensors(model)
    encoder = Encoder(model)
    if get_plan(model) is not None:
        raise ModelError("The model is already pruned to smaller matrices; drop layers first, then prune.")
    check_finite(model)
    total, keep = len(encoder.layers), config.keep
    measured = isinstance(keep, int) and config.strategy == "importance"
    if measured and data is None:
        raise OptionError("The strategy importance needs texts; pass data together with it.")
    if data is not None and not measured:
        raise OptionError("Only the strategy importance uses texts; omit the data, or choose that strategy.")
    if not isinstance(keep, int):
        kept = _check_layers(keep, total)
    elif not 1 <= keep < total:
        raise OptionError(f"A model of {total} layers can keep at least 1 and at most {total - 1}, not {keep}.")
    elif data is None:
        kept = choose_layers(total, keep, config.strategy)
    else:
        batches = make_batches(data, tokenizer, config.samples, config.batch_size, config.seed, model=model)
        with evaluating(model), running_on(device, model), torch.inference_mode():
            kept = sorted(rank_layers(model, batches)[:keep])
    if kept[0] != 0 and _first_is_special(encoder):
        raise OptionError(
            f"The first layer of a {encoder.architecture.name} model differs from the others and must be kept: keep "
            "layer 0, or use the strategy alternate, first, symmetric or importance."
        )
    return LayerDropResult(_with_layers(model, kept), kept)


def choose_layers(total: int, keep: int, strategy: Strategy) -> list[int]:
    """Returns the layers that a strategy keeps independently of the model, ascending; see :class:`LayerDropConfig`.

    Args:
        total: Number of layers.
        keep: Number of layers to keep.
        strategy: Any but ``importance``.
    """
    if strategy == "first":
        return list(range(keep))
    if strategy == "last":
        return list(range(total - keep, total))
    if strategy == "symmetric":
        first = -(-keep // 2)
        return [*range(first), *range(total - keep + first, total)]
    assert strategy == "alternate"
    return [round(number * (total - 1) / max(1, keep - 1)) for number in range(keep)]


def rank_layers(model: PreTrainedModel, batches: Sequence[Batch]) -> list[int]:
    """Ranks all layers by importance.

    Takes N(N+1)/2 passes over the batches for N layers.

    Args:
        model: The model, in evaluation mode.
        batches: Padded batches.

    Returns:
        Indices of the layers; the one that is removed last comes first.
    """
    from bertsurgeon.recovery import hidden_state_loss, outputs_loss  # imports what training needs

    encoder = Encoder(model)
    inputs = [{name: value.to(model.device) for name, value in batch.items()} for batch in batches]
    head = find_head([type(model).__name__], model.config)

    def outputs_of(batch: Batch) -> dict[str, Tensor]:
        if head is None:
            return {LAST_STATE: model.base_model(**model_inputs(batch))[LAST_STATE]}
        outputs = model(**model_inputs(batch))
        return {name: outputs[name] for name in head.outputs}

    def change(outputs: dict[str, Tensor], targets: dict[str, Tensor], batch: Batch) -> float:
        mask = token_mask(model, batch)
        if head is None:
            return float(hidden_state_loss([outputs[LAST_STATE]], [targets[LAST_STATE]], mask, [0])) * len(mask)
        return float(outputs_loss(head, outputs, targets, batch, 1.0)) * len(mask)

    targets = [outputs_of(batch) for batch in inputs]
    remaining = list(range(len(encoder.layers)))
    required = {0} if _first_is_special(encoder) else set()
    removed: list[int] = []
    with progress.bar("Leaving layers out", len(remaining) * (len(remaining) + 1) / 2 - 1) as advance:
        while len(remaining) > 1:
            losses = {}
            for layer in remaining:
                if layer not in required:
                    with _only(encoder, [other for other in remaining if other != layer]):
                        pairs = zip(inputs, targets, strict=True)
                        losses[layer] = sum(change(outputs_of(batch), target, batch) for batch, target in pairs)
                advance()
            removed.append(min(losses, key=losses.__getitem__))
            remaining.remove(removed[-1])
    return remaining + removed[::-1]


def _first_is_special(encoder: Encoder) -> bool:
    """Returns whether the first layer lacks a norm that all others have (ModernBERT), so that none can replace it."""
    norms = [layer.get_submodule(encoder.architecture.norms["attention"]) for layer in encoder.layers]
    return any(type(norm) is not type(norms[0]) for norm in norms)


def _check_layers(layers: Sequence[int], total: int) -> list[int]:
    """Checks indices of layers that are kept, and returns them as a list."""
    if not layers or sorted(set(layers)) != list(layers) or not 0 <= layers[0] <= layers[-1] < total:
        raise OptionError(
            f"The layers to keep must be numbers from 0 to {total - 1}, ascending, each once, not {list(layers)}."
        )
    if len(layers) == total:
        raise OptionError(f"All {total} layers would be kept; keep fewer.")
    return list(layers)


@contextmanager
def _only(encoder: Encoder, kept: Sequence[int]) -> Iterator[None]:
    """Removes all other layers from the model inside the ``with`` block."""
    layers = encoder.layers
    encoder.set_layers([layers[index] for index in kept])
    try:
        yield
    finally:
        encoder.set_layers(layers)


def _with_layers(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """Copies a model with some of its layers, and updates the configuration of the copy."""
    smaller = deepcopy(model)
    clear_int8_ranges(smaller)
    encoder = Encoder(smaller)
    encoder.set_layers([encoder.layers[index] for index in kept])
    smaller.config.num_hidden_layers = len(kept)
    layer_types = getattr(smaller.config, "layer_types", None)
    if layer_types is not None:
        smaller.config.layer_types = [layer_types[index] for index in kept]
    for number, layer in enumerate(encoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", number)  # noqa: B010  # mypy expects modules and tensors as attributes
    return smaller
