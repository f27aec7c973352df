"""``compress`` from named models and data to an output folder, and its plan without running it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase, set_seed

from bertsurgeon.checkpoint import check_output, load_tokenizer, locks_output
from bertsurgeon.compression import CompressConfig, CompressData, CompressResult, Provenance, compress
from bertsurgeon.compression.dry_run import plan_search
from bertsurgeon.compression.work_folder import WorkFolder
from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.evaluation import check_head
from bertsurgeon.reporting import model_source
from bertsurgeon.retrieval import RetrievalConfig
from bertsurgeon.tasks import align_to_model, find_files, read_texts, task_type_for_texts, tokenize
from bertsurgeon.tasks.retrieval import collection_files
from bertsurgeon.workflows.inputs import (
    DataConfig,
    input_paths,
    load_data,
    load_network,
    read_all_texts,
    resolve_model,
)
from bertsurgeon.workflows.retrieval import is_retrieval, load_retrieval_data

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

MAX_COMPARED = 4000
"""Largest number of unlabeled texts that are set aside to compare models on."""

MIN_TEXTS = 20
"""Fewest unlabeled texts that can be divided."""


@locks_output
def compress_and_save(
    name: str,
    config: CompressConfig,
    data: DataConfig,
    output: Path,
    *,
    test_file: Path | None = None,
    retrieval: RetrievalConfig | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> CompressResult:
    """Compresses a model by name, see :func:`bertsurgeon.compress`.

    Args:
        name: Folder or hub id of a dense fine-tuned model.
        config: The options.
        data: The task and its data, or unlabeled texts.
        output: The output folder.
        test_file: Texts that the search does not use, in the form of the other files.
        retrieval: How a retrieval collection is searched.
        overwrite: Replace an output folder that a command of this package wrote.
        command: The command line, for the report.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or does not fit together.
    """
    folder = resolve_model(name)
    check_data_options(data, test_file)
    retrieval = retrieval or RetrievalConfig()
    searches = is_retrieval(data, retrieval)
    paths = [*input_paths(folder, data=data), *([] if test_file is None else find_files(test_file))]
    check_output(output, overwrite, paths)  # before anything is loaded
    WorkFolder.beside(output).check(paths)
    set_seed(config.seed)
    model, tokenizer = load_network(name, data), load_tokenizer(folder)
    files = _files(data, test_file)
    if searches:
        assert data.data_dir is not None
        files += collection_files(data.data_dir, retrieval.split)
        compressed = load_retrieval_data(model, tokenizer, data, retrieval, config.seed)
    else:
        compressed = load_compress_data(model, tokenizer, data, config, test_file)
    source = model_source(folder)
    provenance = Provenance(
        Path(folder).name if Path(folder).exists() else name,
        source.base_model,
        source.license,
        [_describe_file(path) for path in files],
        command,
    )
    return compress(
        model,
        config,
        compressed,
        tokenizer,
        output=output,
        overwrite=overwrite,
        provenance=provenance,
        inputs=tuple(paths),
    )


def dry_run(name: str, config: CompressConfig, data: DataConfig) -> dict[str, Any]:
    """Returns the plan of a search with predictions, see :func:`bertsurgeon.compression.dry_run.plan_search`."""
    return plan_search(load_network(resolve_model(name), data), config)


def check_data_options(data: DataConfig, test_file: Path | None) -> None:
    """Checks which data is named, before any of it is read.

    Raises:
        OptionError: If there is none, or options contradict each other.
        DataError: If the test file does not exist.
    """
    if data.is_empty:
        raise OptionError(
            "compress needs data: name --train-file and --validation-file, a --task, or unlabeled texts with "
            "--text-file."
        )
    if test_file is not None and data.task is not None:
        raise OptionError("--test-file is for your own files; a --task has no further data.")
    if test_file is not None and not find_files(test_file):
        raise DataError(f"There is no file {test_file}.")


def load_compress_data(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    config: CompressConfig,
    test_file: Path | None = None,
) -> CompressData:
    """Loads and tokenizes the data of a search.

    Args:
        model: The dense model.
        tokenizer: Its tokenizer.
        data: The task and its data, or unlabeled texts.
        config: The options, for the seed and the kind of bound.
        test_file: Texts that the search does not use.

    Raises:
        BertSurgeonError: If the data is missing or broken, or does not fit the model.
    """

    def encode(texts: Dataset) -> Dataset:
        return tokenize(texts, tokenizer, data.max_length, task_type_for_texts(model))

    if data.only_texts:
        texts = read_all_texts(data)
        if len(texts) < MIN_TEXTS:
            raise DataError(
                f"{data.text_file} holds {len(texts)} texts; at least {MIN_TEXTS} are needed, better 2,000."
            )
        test = None if test_file is None else encode(_read_texts_like(test_file, data))
        compared = min(MAX_COMPARED, len(texts) // 2)
        parts = texts.train_test_split(test_size=compared, seed=config.seed)
        return CompressData(encode(parts["train"]), encode(parts["test"]), test=test)
    loaded = align_to_model(load_data(data, config.seed), model)
    check_head(model, loaded.task)
    test = None
    if test_file is not None:
        tested = align_to_model(load_data(replace(data, validation_file=test_file), config.seed), model)
        if tested.task.metrics != loaded.task.metrics:
            raise DataError(f"{test_file} is data of another task than the validation file.")
        test = tokenize(tested.validation, tokenizer, data.max_length, loaded.task.type)
    training, validation = (
        tokenize(part, tokenizer, data.max_length, loaded.task.type) for part in (loaded.train, loaded.validation)
    )
    calibration = None if data.text_file is None else encode(read_all_texts(data))
    return CompressData(training, validation, loaded.task, test, calibration)


def _read_texts_like(file: Path, data: DataConfig) -> Dataset:
    return read_texts(file, data.text_column or "text", data.text_pair_column)


def _files(data: DataConfig, test_file: Path | None) -> list[Path]:
    files = [*data.files, *([] if test_file is None else find_files(test_file))]
    return [file for file in files if file.is_file()]


def _describe_file(path: Path) -> dict[str, Any]:
    """Returns name, size and hash of a data file; never its folder, which may name a person."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
