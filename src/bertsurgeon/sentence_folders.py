"""Folders of sentence-transformers: which models are embedders, their settings, and what is kept beside them."""

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from bertsurgeon.errors import CheckpointError, ModelError, first_line
from bertsurgeon.files import DamagedFileError, read_json

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"

LEAST_VERSION = 6
"""First major version of sentence-transformers that asks before it runs code from a local folder."""

COMPANIONS = "sentence_files"
"""Attribute of a cross-encoder that holds the result of :func:`read_companions`."""


@dataclass(frozen=True)
class SentenceSettings:
    """How sentence-transformers embeds texts with a model.

    Attributes:
        max_length: Number of tokens at which texts are cut; None if the folder does not name it.
        prompts: Texts to put before texts of a kind (``query``, ``document``, …), by the kind's name.
        similarity: Name of the function that compares embeddings.
        pools_prompt: Whether the tokens of a prompt are part of the embedding.
    """

    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    similarity: str = "cosine"
    pools_prompt: bool = True


def is_embedder(name: str | Path) -> bool:
    """Returns whether a model is a sentence embedder of sentence-transformers.

    Args:
        name: Local folder, or id on the hub.

    Raises:
        CheckpointError: If its files are damaged.
    """
    if _find(name, MODULES) is None:
        return False
    settings = _find(name, SETTINGS)
    # cross-encoders and sparse encoders have the same files, but are models with a head
    default = "SentenceTransformer"
    model_type = default if settings is None else _read(settings).get("model_type", default)
    return bool(model_type == default)


def encoder_folder(folder: str | Path) -> Path:
    """Returns the folder of a local embedder's encoder, usually the embedder's own folder.

    Args:
        folder: Folder of the embedder.

    Raises:
        CheckpointError: If the list of its modules is damaged.
    """
    file = Path(folder) / MODULES
    if not file.is_file():
        return Path(folder)
    return Path(folder) / _module_folders(file)[0]


def module_folders(folder: Path) -> list[Path]:
    """Returns the folders of an embedder's modules after its encoder, as far as they have any.

    Args:
        folder: Folder of an embedder, or of any other model, which has none.

    Raises:
        CheckpointError: If the list of its modules is damaged.
    """
    file = folder / MODULES
    others = _module_folders(file)[1:] if file.is_file() else []
    return [folder / path for path in others if path and (folder / path).is_dir()]


def _module_folders(file: Path) -> list[str]:
    """Returns the folders of an embedder's modules, relative to the embedder.

    Raises:
        CheckpointError: If its ``modules.json`` is damaged, or names a folder outside of the embedder's own.
    """
    modules = _read(file, list)
    if not modules or not all(isinstance(module, dict) and isinstance(module.get("path"), str) for module in modules):
        raise CheckpointError(f"{file} is damaged: it names no module.")
    paths: list[str] = [module["path"] for module in modules]
    foreign = next((path for path in paths if Path(path).is_absolute() or ".." in Path(path).parts), None)
    if foreign is not None:
        raise CheckpointError(f"{file} names {foreign[:80]}, which is outside of its folder; copy the model again.")
    return paths


def read_settings(folder: str | Path) -> SentenceSettings:
    """Reads how sentence-transformers embeds texts with a folder, such as that of an exported embedder.

    Args:
        folder: Folder of the embedder; what it does not name has its default.

    Raises:
        CheckpointError: If a file is damaged.
    """
    folder = Path(folder)
    try:
        settings = _read(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
        transformer = _read(folder / TRANSFORMER) if (folder / TRANSFORMER).is_file() else {}
        modules = _read(folder / MODULES, list) if (folder / MODULES).is_file() else []
        pooling = [folder / each["path"] / "config.json" for each in modules if each["type"].endswith(".Pooling")]
        length = transformer.get("max_seq_length")
        return SentenceSettings(
            None if length is None else int(length),
            {str(name): str(text) for name, text in (settings.get("prompts") or {}).items() if text},
            str(settings.get("similarity_fn_name") or "cosine"),
            all(_read(file).get("include_prompt", True) for file in pooling if file.is_file()),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"The settings of the embedder in {folder} are damaged ({first_line(error)}).") from error


def read_companions(folder: str | Path) -> dict[str, str]:
    """Reads the files that sentence-transformers keeps beside a cross-encoder, to be saved beside a pruned one as well.

    Args:
        folder: Folder of the cross-encoder.

    Returns:
        Contents by file name; empty if there are no such files, or if there are modules after the model.

    Raises:
        CheckpointError: If they are damaged.
    """
    modules = Path(folder) / MODULES
    if not modules.is_file() or any(_module_folders(modules)):
        return {}
    files = [Path(folder) / name for name in (MODULES, SETTINGS, TRANSFORMER)]
    return {file.name: file.read_text(encoding="utf-8") for file in files if file.is_file()}


def open_sentence_model(folder: str | Path) -> Any:
    """Loads a ``SentenceTransformer`` from a local folder; an encoder without modules gets mean pooling.

    Args:
        folder: Folder of the embedder or encoder.

    Raises:
        ModelError: If sentence-transformers is not installed, or is older than version 6.
        CheckpointError: If it cannot load the folder.
    """
    _check_version(folder)
    if (Path(folder) / MODULES).is_file():
        _module_folders(Path(folder) / MODULES)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError(
            f"{folder} is a sentence embedder, and sentence-transformers is not installed; run: pip install "
            "'bertsurgeon[sentence]'."
        ) from error
    try:
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        raise CheckpointError(f"sentence-transformers cannot load {folder}: {first_line(error)}.") from error


def _check_version(folder: str | Path) -> None:
    """Refuses versions of sentence-transformers that run code of any local folder they open.

    Raises:
        ModelError: If the installed version is below 6.
    """
    try:
        installed = version("sentence-transformers")
    except PackageNotFoundError:  # reported where it is imported
        return
    if int(installed.partition(".")[0]) < LEAST_VERSION:
        raise ModelError(
            f"{folder} is a sentence embedder, and sentence-transformers {installed} runs code of local folders "
            f"without asking; run: pip install 'sentence-transformers>={LEAST_VERSION}'."
        )


def _find(name: str | Path, file: str) -> Path | None:
    """Returns the path of a model's file, local or downloaded from the hub; None if there is none."""
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    if Path(name).exists():
        return None
    try:
        path = cached_file(str(name), file, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # the model does not exist or cannot be reached; loading it reports the error
        return None
    return None if path is None else Path(path)


def _read(file: Path, form: type[Any] = dict) -> Any:
    try:
        return read_json(file, form)
    except (OSError, DamagedFileError) as error:
        raise CheckpointError(f"{file} is damaged: {first_line(error)}.") from error
