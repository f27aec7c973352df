"""``bertsurgeon trim-vocabulary``."""

from typing import Annotated, Any

from rich.console import Console

from bertsurgeon.benchmark import folder_size
from bertsurgeon.checkpoint import check_output, load_as_saved, load_tokenizer, locks_output, save_model
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.errors import OptionError
from bertsurgeon.vocabulary import trim_vocabulary as trim
from bertsurgeon.workflows.inputs import DataConfig, input_paths, load_data, load_texts, raw_texts, resolve_model


@app.command(runs_models=False)
@guarded
@locks_output
@opt.expand
def trim_vocabulary(
    *,
    model: opt.Model,
    output: opt.Output,
    data: Annotated[DataConfig, opt.Panel("Data", without=("max_length", "doc_stride", "null_threshold"))],
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Removes the embeddings of tokens that your texts never use, from a dense or pruned model and its tokenizer.

    Name all texts the model is for: --text-file, a --task or your own files. They are split into the same subwords as
    before and get the same outputs; other texts are split into shorter subwords, or the unknown token.
    """
    folder = resolve_model(model)
    check_output(output, overwrite, input_paths(folder, data=data))
    network, tokenizer = load_as_saved(folder), load_tokenizer(folder)
    if data.is_empty:
        raise OptionError("Name the texts that the model is for: --text-file, a --task, or your own files.")
    parts = [] if data.text_file is None else [*load_texts(data)]
    if not data.only_texts:
        loaded = load_data(data, seed)
        parts += [loaded.train, loaded.validation]
    smaller, its_tokenizer, report = trim(network, raw_texts(parts), tokenizer)
    save_model(smaller, output, its_tokenizer, {"vocabulary_report.json": report.to_dict()}, overwrite=overwrite)
    result: dict[str, Any] = {"output": str(output), **report.to_dict(), "file_bytes": folder_size(output)}

    def show(console: Console) -> None:
        before, after = report.parameters
        console.print(
            f"Saved {output}: {report.kept:,} of {report.total:,} tokens, {after:,} of {before:,} parameters.",
            highlight=False,
            soft_wrap=True,
        )

    emit(result, as_json, show)
