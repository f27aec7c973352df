"""``bertsurgeon drop-layers``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import measure_sizes
from bertsurgeon.checkpoint import (
    check_output,
    load_as_saved,
    load_embedder,
    load_tokenizer,
    locks_output,
    save_model,
)
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.errors import OptionError
from bertsurgeon.layer_drop import LayerDropConfig
from bertsurgeon.layer_drop import drop_layers as drop_layers_of
from bertsurgeon.tasks import Embedding, TaskType, task_type_for_texts, tokenize
from bertsurgeon.workflows.inputs import DataConfig, input_paths, load_data, load_texts, resolve_model

if TYPE_CHECKING:
    from datasets import Dataset


@app.command()
@guarded
@locks_output
@opt.expand
def drop_layers(
    *,
    model: opt.Model,
    output: opt.Output,
    keep: Annotated[int | None, typer.Option("--keep", help="Number of layers that are kept.")] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="Indices of the layers that are kept instead, from 0, as 0,2,4.")
    ] = None,
    make_config: Annotated[LayerDropConfig, opt.Panel("Selection", without=("seed",))],
    data: Annotated[DataConfig, opt.Panel("Data", without=("max_train_samples",))],
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Removes whole layers from a model, with any head or none; train the rest, or prune it further.

    The result is a stock model. Data is for --strategy importance; labels are not needed.
    """
    make: Any = make_config  # the class, with all options but the layers
    config = make(_parse(keep, layers), seed=seed)
    check_output(output, overwrite, input_paths(resolve_model(model), data=data))
    load = load_embedder if data.task_type == Embedding.name else load_as_saved
    network, tokenizer = load(resolve_model(model)), load_tokenizer(resolve_model(model))
    total = len(Encoder(network).layers)
    texts = None if data.is_empty else _texts(data, tokenizer, task_type_for_texts(network), seed)
    smaller, chosen = drop_layers_of(network, config, texts, tokenizer)
    before, after = (measure_sizes(one).encoder_weights for one in (network, smaller))
    result: dict[str, Any] = {
        "output": str(output),
        "layers": chosen,
        "of": total,
        "encoder_weights": {"before": before, "after": after},
    }
    report = {name: value for name, value in result.items() if name != "output"}
    save_model(smaller, output, tokenizer, {"layer_drop.json": report}, overwrite=overwrite)

    def show(console: Console) -> None:
        names = ", ".join(map(str, chosen))
        console.print(
            f"Saved {output}: layers {names} of {total}, {after:,} of {before:,} encoder weights. It needs training.",
            highlight=False,
            soft_wrap=True,
        )

    emit(result, as_json, show)


def _parse(keep: int | None, layers: str | None) -> int | list[int]:
    """Returns the number of layers that are kept, or their indices.

    Raises:
        OptionError: If neither or both are given, or an index is no number.
    """
    if (keep is None) == (layers is None):
        raise OptionError(
            "Give the number of layers that are kept (--keep 6) or their indices (--layers 0,2,4), one of them."
        )
    if layers is None:
        assert keep is not None
        return keep
    try:
        return [int(layer) for layer in layers.split(",")]
    except ValueError:
        raise OptionError(f"--layers must be numbers such as 0,2,4, not {layers!r}.") from None


def _texts(options: DataConfig, tokenizer: PreTrainedTokenizerBase, kind: TaskType, seed: int) -> "Dataset":
    texts = load_texts(options)[0] if options.text_file is not None else load_data(options, seed).train
    return tokenize(texts, tokenizer, options.max_length, kind)
