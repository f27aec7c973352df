"""Layer drop: whole encoder layers are taken out, and what is left is a stock model with fewer of them.

The first step of the compound recipes of the Optimal BERT Surgeon (Kurtic et al., 2022, arXiv 2203.07259): from 12
layers to 6 or 3. Which ones stay follows Sanh et al. (2019, arXiv 1910.01108) and Sajjad et al. (2020, arXiv
2004.03844), or is measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, make_batches, token_mask
from bertsurgeon.checkpoint import check_finite, clear_int8_ranges, get_plan
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.prediction import evaluating
from bertsurgeon.recovery import hidden_state_loss, outputs_loss
from bertsurgeon.tasks import find_head, model_inputs

Strategy = Literal["alternate", "first", "last", "symmetric", "importance"]

STATE = "last_hidden_state"
"""What models without a known head are judged by."""

SAMPLES = 256
"""Texts that ``importance`` asks, by default."""


def drop_layers(
    model: PreTrainedModel,
    keep: int | Sequence[int],
    strategy: Strategy = "alternate",
    data: Dataset | Iterable[Mapping[str, Any]] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    samples: int = SAMPLES,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[PreTrainedModel, list[int]]:
    """Takes layers out of an encoder; train what is left.

    Strategies, for K of N layers:

    - ``alternate``: evenly spaced, the first and the last among them (of 12, six are 0, 2, 4, 7, 9, 11: DistilBERT's);
    - ``first``: the K nearest to the input;
    - ``last``: the K nearest to the output;
    - ``symmetric``: the outer ones, so that the middle goes;
    - ``importance``: one layer goes after the other, each time the one without which the model's answers on ``data``
      change least (divergence of what its head predicts, as in distillation; else change of the last hidden states).

    Args:
        model: Dense or sparse, with any head or none; left as it is.
        keep: How many layers stay, or which ones, counted from 0.
        strategy: Which ones, where ``keep`` is a number.
        data: For ``importance``: a tokenized dataset or an iterable of batches; labels are not needed.
        tokenizer: Pads the batches of a dataset.
        samples: Sequences of ``data`` that are asked.
        batch_size: Sequences per batch.
        seed: Fixes which ones.

    Returns:
        A model of the same class with fewer layers, and which layers of ``model`` they are.

    Raises:
        ModelError: If the model is not supported, has smaller matrices already, or has broken weights.
        OptionError: If there are not that many layers, ``data`` is missing or of no use, or the first layer, which
            would go, has to stay.
        DataError: If the data is empty or not tokenized.
    """
    encoder = Encoder(model)
    if get_plan(model) is not None:
        raise ModelError("The model is pruned already, with smaller matrices; first drop layers, then prune.")
    check_finite(model)
    total = len(encoder.layers)
    if strategy not in get_args(Strategy):
        raise OptionError(f"The strategy must be one of {', '.join(get_args(Strategy))}, not {strategy!r}.")
    if (isinstance(keep, int) and strategy == "importance") != (data is not None):
        raise OptionError("The strategy importance, and no other, needs texts; the others look at nothing.")
    if not isinstance(keep, int):
        kept = _check_layers(keep, total)
    elif not 1 <= keep < total:
        raise OptionError(f"Of {total} layers, 1 to {total - 1} can be kept, not {keep}.")
    elif data is None:
        kept = choose_layers(total, keep, strategy)
    else:
        batches = make_batches(data, tokenizer, samples, batch_size, seed)
        with evaluating(model), torch.inference_mode():
            kept = sorted(rank_layers(model, batches)[:keep])
    if kept[0] != 0 and _first_is_special(encoder):
        raise OptionError(
            f"The first layer of a {encoder.architecture.name} differs from the others and must stay: keep layer 0, "
            "or use the strategy alternate, first, symmetric or importance."
        )
    return _without(model, kept), kept


def choose_layers(total: int, keep: int, strategy: Strategy) -> list[int]:
    """The layers that a strategy keeps without looking at the model, ascending; see :func:`drop_layers`."""
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
    """All layers, the one that would be kept longest first; takes N(N+1)/2 passes over the batches for N layers."""
    encoder = Encoder(model)
    inputs = [{name: value.to(model.device) for name, value in batch.items()} for batch in batches]
    head = find_head([type(model).__name__], model.config)

    def ask(batch: Batch) -> dict[str, Tensor]:
        if head is None:
            return {STATE: model.base_model(**model_inputs(batch))[STATE]}
        said = model(**model_inputs(batch))
        return {name: said[name] for name in head.outputs}

    def change(answer: dict[str, Tensor], wanted: dict[str, Tensor], batch: Batch) -> float:
        mask = token_mask(model, batch)
        if head is None:
            return float(hidden_state_loss([answer[STATE]], [wanted[STATE]], mask, [0])) * len(mask)
        return float(outputs_loss(head, answer, wanted, batch, 1.0)) * len(mask)

    whole = [ask(batch) for batch in inputs]
    left = list(range(len(encoder.layers)))
    bound = {0} if _first_is_special(encoder) else set()
    gone: list[int] = []
    with progress.bar("Leaving layers out", len(left) * (len(left) + 1) / 2 - 1) as advance:
        while len(left) > 1:
            losses = {}
            for layer in left:
                if layer not in bound:
                    with _only(encoder, [other for other in left if other != layer]):
                        pairs = zip(inputs, whole, strict=True)
                        losses[layer] = sum(change(ask(batch), wanted, batch) for batch, wanted in pairs)
                advance()
            gone.append(min(losses, key=losses.__getitem__))
            left.remove(gone[-1])
    return left + gone[::-1]


def _first_is_special(encoder: Encoder) -> bool:
    """Whether the first layer lacks a norm that all others have (ModernBERT): none of them can take its place."""
    norms = [layer.get_submodule(encoder.architecture.norms["attention"]) for layer in encoder.layers]
    return any(type(norm) is not type(norms[0]) for norm in norms)


def _check_layers(layers: Sequence[int], total: int) -> list[int]:
    if not layers or sorted(set(layers)) != list(layers) or not 0 <= layers[0] <= layers[-1] < total:
        raise OptionError(f"Name layers from 0 to {total - 1}, ascending, each once, not {list(layers)}.")
    if len(layers) == total:
        raise OptionError(f"All {total} layers would stay; name fewer.")
    return list(layers)


@contextmanager
def _only(encoder: Encoder, kept: Sequence[int]) -> Iterator[None]:
    """The model with some of its layers, while the ``with`` block lasts."""
    layers = encoder.layers
    encoder.set_layers([layers[index] for index in kept])
    try:
        yield
    finally:
        encoder.set_layers(layers)


def _without(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A copy with some of the layers, and with a configuration that says so."""
    smaller = deepcopy(model)
    clear_int8_ranges(smaller)
    encoder = Encoder(smaller)
    encoder.set_layers([encoder.layers[index] for index in kept])
    smaller.config.num_hidden_layers = len(kept)
    kinds = getattr(smaller.config, "layer_types", None)  # where layers are of several kinds
    if kinds is not None:
        smaller.config.layer_types = [kinds[index] for index in kept]
    for number, layer in enumerate(encoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", number)  # noqa: B010  # a plain number, where modules hold tensors
    return smaller
