"""``compress``: from a fine-tuned model and its data to the best deployed model that stays within a bound."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.checkpoint import check_output, locks_output, new_folder
from bertsurgeon.checkpoint.folder_record import RECORD, list_files
from bertsurgeon.checkpoint.saving import as_json
from bertsurgeon.compression.candidate import Candidate
from bertsurgeon.compression.candidates import CHECKPOINT, EXPORT, CandidateMaker
from bertsurgeon.compression.config import CompressConfig, CompressData
from bertsurgeon.compression.inputs import SearchInputs
from bertsurgeon.compression.report import build_report, confirm
from bertsurgeon.compression.search import Search, SearchResult
from bertsurgeon.compression.work_folder import WorkFolder
from bertsurgeon.devices import Device, running_on
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.base import check_dense
from bertsurgeon.options import check_config, with_article
from bertsurgeon.prediction import forked_rng, gradients_enabled, without_inference_tensors
from bertsurgeon.reporting import CARD, REPORT_PAGE, model_card, render

REPORT = "report.json"
"""File of the output folder with all numbers."""


@dataclass(frozen=True)
class Provenance:
    """Where the inputs of a search came from, for its report and the model card.

    Attributes:
        name: Name of the dense model: a hub id, or the name of its folder.
        base_model: Its id on the Hub, or that of the model it was made from; None if it has none.
        license: License of the dense model; None if it is not known.
        files: Name, bytes and SHA-256 of the data files.
        command: The command line; None if there was none.
    """

    name: str = "model"
    base_model: str | None = None
    license: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    command: str | None = None


@dataclass(frozen=True)
class CompressResult:
    """What :func:`bertsurgeon.compress` found.

    Attributes:
        folder: The output folder.
        report: Content of its ``report.json``, specified in docs/report.md.
    """

    folder: Path
    report: dict[str, Any]

    @property
    def status(self) -> str:
        """Whether the chosen model holds the bound: ``holds``, ``not shown`` or ``fails``."""
        return str(self.report["verdict"]["status"])


@gradients_enabled()
@forked_rng()
@locks_output
def compress(
    model: PreTrainedModel,
    config: CompressConfig | None,
    data: CompressData,
    tokenizer: PreTrainedTokenizerBase,
    *,
    output: str | Path,
    overwrite: bool = False,
    max_length: int | None = None,
    provenance: Provenance | None = None,
    inputs: Sequence[str | Path] = (),
    device: Device | None = None,
) -> CompressResult:
    """Finds the fastest model whose loss stays within a bound, and writes it with its export, report and model card.

    Quality is measured on the exported graph in its runtime. Everything that takes time is kept in a work folder beside
    the output (its name and ``.search``), from which a killed or repeated search goes on.

    Args:
        model: A dense fine-tuned model of a supported architecture; left as it is.
        config: The options; None for the defaults.
        data: Training and validation data.
        tokenizer: Tokenizer of the model.
        output: The output folder; it is written completely or not at all.
        overwrite: Replace an output folder that a command of this package wrote.
        max_length: Maximum number of tokens per raw text; None for the default of the task's type.
        provenance: Where model and data came from, for the report.
        inputs: Files and folders that must not be replaced.
        device: Where the model is calibrated, pruned and recovered, and where it runs in PyTorch; None for the device
            of ``model`` if that is no CPU, else for the accelerator of the machine, if it has one. Exported graphs run
            on the CPU.

    Raises:
        OptionError: If an option does not fit the data, or no runtime is installed that has the precision.
        ModelError: If the model is not supported, pruned already, or does not fit the task.
        DataError: If data is empty, or labels are missing.
        CheckpointError: If a folder cannot be written, or another process is using the work folder.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from bertsurgeon import CompressConfig, CompressData, compress
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> data = CompressData(training=texts, validation=texts)
        >>> config = CompressConfig(min_agreement=80, runtime="pytorch", max_candidates=2)
        >>> with TemporaryDirectory() as folder:
        ...     result = compress(model, config, data, tokenizer, output=Path(folder) / "small")
        ...     sorted(path.name for path in result.folder.iterdir())[:3]
        ['README.md', 'bertsurgeon_folder.json', 'config.json']
    """
    check_config(config, CompressConfig, "compress", optional=True)
    if not isinstance(data, CompressData):
        raise OptionError(f"compress takes its data as CompressData(training, validation, …), not {_kind(data)}.")
    config = config or CompressConfig()
    provenance = provenance or Provenance()
    task = data.task
    bound = config.bound(None if task is None else task.metrics[0])
    output, kept = Path(output), tuple(map(Path, inputs))
    work = WorkFolder.beside(output)
    check_output(output, overwrite, kept)
    work.check(kept)
    check_dense(model)
    model = without_inference_tensors(model)
    with ExitStack() as stack:
        stack.enter_context(work.open())
        stack.enter_context(running_on(device, model))
        prepared = SearchInputs.prepare(model, data, tokenizer, config.seed, max_length)
        maker = CandidateMaker(model.eval(), tokenizer, config, prepared, bound, work)
        result = Search(maker).run()
        result, confirmation = _confirmed(maker, result)
        report = build_report(maker, result, confirmation, {**asdict(provenance), "config": asdict(config)})
        _write(output, overwrite, kept, maker, result.chosen, report)
    progress.note(
        f"The candidates are kept in {work.folder}, for another search; remove it when you no longer need it."
    )
    return CompressResult(output, report)


def _kind(data: object) -> str:
    return with_article(type(data).__name__)


def _confirmed(maker: CandidateMaker, result: SearchResult) -> tuple[SearchResult, dict[str, Any] | None]:
    """Confirms the chosen model on texts that the search did not use; if it fails there, the next milder one.

    The second and later ones are tested at half the error rate.
    """
    if maker.inputs.confirmation is None:
        return result, None
    confidence = maker.bound.confidence
    accepted = ("holds",) if maker.config.accept == "shown" else ("holds", "not shown")
    order = [result.chosen, *result.next_best]
    entry: dict[str, Any] | None = None
    for candidate in order:
        quality, entry = confirm(maker, candidate, confidence)
        entry["rejected"] = [one.name for one in order[: order.index(candidate)]]
        result.chosen = candidate
        if quality.verdict in accepted:
            break
        missed = "exceeds the bound" if quality.verdict == "fails" else "is not shown to hold the bound"
        progress.note(f"{candidate.name} {missed} on the texts that the search did not use.")
        if result.best_shown is candidate:
            result.best_shown = None
        confidence = 1 - (1 - maker.bound.confidence) / 2
    return result, entry


def _write(
    output: Path,
    overwrite: bool,
    inputs: tuple[Path, ...],
    maker: CandidateMaker,
    chosen: Candidate,
    report: dict[str, Any],
) -> None:
    """Writes the output folder from the files of the chosen candidate, the report, its page and the card."""
    maker.check_files(chosen)
    with new_folder(output, overwrite, inputs) as temporary:
        _copy(chosen.folder / CHECKPOINT, temporary)
        if maker.runtime != "pytorch":
            _copy(chosen.folder / EXPORT, temporary / maker.runtime)
        report["files"] = [{"name": name, "bytes": (temporary / name).stat().st_size} for name in list_files(temporary)]
        (temporary / REPORT).write_text(as_json(report), encoding="utf-8")
        (temporary / REPORT_PAGE).write_text(render(report), encoding="utf-8")
        about = report["model"]
        card = model_card(
            report,
            base_model=about["base_model"],
            license=about["license"],
            architecture=about["architecture"],
            name=about["name"],
        )
        (temporary / CARD).write_text(str(card), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))
