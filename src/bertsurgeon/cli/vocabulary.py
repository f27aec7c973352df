"""``bertsurgeon trim-vocabulary``."""

from typing import Annotated, Any

from rich.console import Console

from bertsurgeon.benchmark import folder_size
from bertsurgeon.checkpoint import check_output, load_own, load_tokenizer, save_model
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.groups import Without, grouped
from bertsurgeon.cli.sources import DataOptions, load_data, load_texts, raw_texts, resolve_model
from bertsurgeon.errors import OptionError
from bertsurgeon.vocabulary import trim_vocabulary as trim


@app.command()
@guarded
@grouped
def trim_vocabulary(
    *,
    model: opt.Model,
    output: opt.Output,
    data_options: Annotated[DataOptions, Without("max_length", "doc_stride", "null_threshold")],
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Drops the embeddings of tokens that your texts never use, from a dense or pruned model and its tokenizer.

    Name all texts the model is for: --text-file, a --task or your own files. They fall into the same pieces as before,
    and get the same answers; other texts fall into shorter pieces, or the unknown token.
    """
    check_output(output, overwrite)
    folder = resolve_model(model)
    network, tokenizer = load_own(folder), load_tokenizer(folder)
    if not data_options.are_given:
        raise OptionError("Name the texts that the model is for: --text-file, a --task, or your own files.")
    parts = [] if data_options.text_file is None else [*load_texts(data_options, seed)]
    if not data_options.only_texts:
        data = load_data(data_options, seed)
        parts += [data.train, data.validation]
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
