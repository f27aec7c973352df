"""Model cards: ``README.md`` with metadata for the Hub, written from the numbers of a report.

The metadata follows https://huggingface.co/docs/hub/model-cards; the Hub accepts ``adapter``, ``merge``, ``quantized``
and ``finetune`` as ``base_model_relation``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from bertsurgeon.errors import CheckpointError
from bertsurgeon.reporting import formats as fmt
from bertsurgeon.reporting.answers import class_change, most_changed
from bertsurgeon.reporting.blocks import Change
from bertsurgeon.reporting.command_pages import before_and_after, quantity
from bertsurgeon.reporting.page import environment
from bertsurgeon.reporting.reading import check_report
from bertsurgeon.reporting.schema import Kind
from bertsurgeon.reporting.verdict import bound_sentence, changes_of, chosen_of, int8_sentence
from bertsurgeon.runtime import RUNTIME_NAMES
from bertsurgeon.tasks import TASKS

CARD = "README.md"
"""Name of the card in a folder."""

LISTED_CLASSES = 10

_PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "multi-label": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "embedding": "sentence-similarity",
}
"""Pipeline tag of each type of task."""

_HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
}
"""Pipeline tag of each head."""

_HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
"""The Hub's names of metrics, where they differ from ours."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_MAX_LENGTH = 128


class ModelSource(NamedTuple):
    """Where a model comes from.

    Attributes:
        base_model: Its id on the Hub, or that of the model it was made from; None if there is none.
        license: Its license as the Hub names it; None if it is unknown.
    """

    base_model: str | None
    license: str | None


@dataclass(frozen=True)
class _Facts:
    """What a card is written from.

    Attributes:
        command: The command that made the model.
        task: Name of the task; None if there were no labels.
        metrics: Metrics of the model, in percent.
        changes: Quantities before and after.
        needs_package: The checkpoint loads after ``import bertsurgeon`` only.
        runtime: Runtime of an exported graph beside the checkpoint, or None.
        int8: The exported graph computes in INT8.
        texts: Number of texts of the metrics.
    """

    command: str
    task: str | None
    metrics: Mapping[str, Any]
    changes: Sequence[Change]
    needs_package: bool
    runtime: str | None = None
    int8: bool = False
    texts: int | None = None


def model_source(name: str | Path) -> ModelSource:
    """Returns base model and license of a model, as far as they are known without the network.

    Args:
        name: Folder or hub id. The card of a folder names the model that it was made from.
    """
    name = str(name)
    if Path(name).exists():
        card = _read_card(Path(name) / CARD)
        base = None if card is None else card.data.get("base_model")
        return ModelSource(base if _is_hub_id(base) else None, _license(card))
    try:
        cached = try_to_load_from_cache(name, CARD)
    except HFValidationError:  # a name that the Hub does not accept
        return ModelSource(None, None)
    card = _read_card(Path(cached)) if isinstance(cached, str) else None
    return ModelSource(name if _is_hub_id(name) else None, _license(card))


def model_card(
    report: Mapping[str, Any],
    *,
    base_model: str | None,
    license: str | None,
    language: str | list[str] | None = None,
    architecture: str | None = None,
    name: str | None = None,
) -> ModelCard:
    """Writes a model card from a report of ``compress``, ``prune``, ``recover``, ``gradual`` or ``finetune``.

    Args:
        report: Content of the report.
        base_model: Id on the Hub of the model it was made from; None, or the path of a folder, for none.
        license: License as the Hub names it, such as ``apache-2.0``; None if it is unknown.
        language: Language codes of the model's texts; None if they are unknown.
        architecture: Name of the model's class, for reports that do not hold it.
        name: Name of the model that it was made from, for reports that do not hold it.

    Returns:
        The card; ``str(card)`` is the content of ``README.md``.

    Raises:
        CheckpointError: If the report is damaged, of another version, or of another command.
    """
    kind, checked = check_report(dict(report))
    if kind not in ("compress", "prune", "training"):
        raise CheckpointError("This report does not describe a model of its own; name that of prune or compress.")
    facts = _facts(kind, checked)
    architecture = (checked.get("model") or {}).get("architecture") or architecture or ""
    base = base_model if _is_hub_id(base_model) and not Path(str(base_model)).exists() else None
    task_type = (checked.get("task") or {}).get("type") if kind == "compress" else _task_type(facts.task)
    pipeline = _pipeline(task_type, architecture)
    is_embedder = architecture == "Embedder" or pipeline == "sentence-similarity"
    title = _title(kind, checked, name or (base or "").rpartition("/")[2])
    data = ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else "quantized" if facts.int8 else "finetune",
        language=language,
        library_name="sentence-transformers" if is_embedder else "transformers",
        license=license if license and _LICENSE.fullmatch(license) else None,
        pipeline_tag=pipeline,
        tags=_tags(facts),
        model_name=title if facts.metrics else None,
        eval_results=_results(facts, pipeline) or None,
    )
    environment_of_run = checked.get("environment") or {}
    body = environment().get_template("card.md.jinja").render(
        name=title,
        facts=facts,
        base=base,
        task=_task_words(facts.task),
        loader=_loader(architecture, is_embedder=is_embedder),
        runtime=RUNTIME_NAMES.get(facts.runtime or "", ""),
        max_length=_max_length(checked),
        is_pair=any(row.get("text_pair") for row in (checked.get("answers") or {}).get("changed") or []),
        output={"question-answering": "start_logits", "sentence-similarity": "sentence_embedding"}.get(
            pipeline or "", "logits"
        ),
        is_classifier=task_type == "classification",
        statements=_statements(kind, checked),
        losses=_losses(checked) if kind == "compress" else [],
        classes=_class_rows(checked),
        command_line=_fenced(_without_folders((checked.get("provenance") or {}).get("command"))),
        made=_made(kind, checked),
        versions=[
            f"{package} {version}" for package, version in (environment_of_run.get("versions") or {}).items() if version
        ],
        processor=environment_of_run.get("processor"),
        md=_escape,
    )  # fmt: skip
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def _facts(kind: Kind, report: Mapping[str, Any]) -> _Facts:
    if kind == "compress":
        chosen, target = chosen_of(report), report.get("target") or {}
        runtime = target.get("runtime")
        return _Facts(
            "compress",
            (report.get("task") or {}).get("name"),
            _numbers(chosen.get("metrics")),
            changes_of(report),
            needs_package=chosen.get("kind") == "pruned",
            runtime=runtime if runtime in ("onnx", "openvino") and chosen else None,
            int8=chosen.get("precision") == "int8",
            texts=(report.get("data") or {}).get("search"),
        )
    if kind == "prune":
        models = report["models"]
        metrics = {key: value for key, value in models[list(models)[-1]].items() if not quantity(key)[2]}
        return _Facts("prune", report["task"], _numbers(metrics), before_and_after(models), needs_package=True)
    command = str(report.get("command") or ("gradual" if report.get("recipe") is not None else "recover"))
    metrics = _numbers(report["metrics"])
    changes = [Change(quantity(key)[0], "", fmt.percent(value, 2)) for key, value in metrics.items()]
    return _Facts(command, report["task"], metrics, changes, needs_package=command != "finetune")


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    return {key: value for key, value in (values or {}).items() if fmt.is_number(value)}


def _title(kind: Kind, report: Mapping[str, Any], name: str) -> str:
    """Returns the title of the card."""
    name = (report.get("model") or {}).get("name") or name
    words = {"compress": "compressed", "prune": "pruned"}.get(kind, "trained")
    if kind == "training":
        words = {"finetune": "fine-tuned", "recover": "pruned and recovered", "gradual": "pruned gradually"}.get(
            str(report.get("command")), words
        )
    return f"{name}, {words}" if name else f"{words[0].upper()}{words[1:]} model"


def _tags(facts: _Facts) -> list[str]:
    tags = ["bertsurgeon"]
    if facts.needs_package:
        tags.append("pruned")
    if facts.runtime is not None:
        tags.append(facts.runtime)
    return [*tags, "int8"] if facts.int8 else tags


def _task_type(task: str | None) -> str | None:
    return TASKS[task].type.name if task in TASKS else None


def _pipeline(task_type: str | None, architecture: str) -> str | None:
    if task_type in _PIPELINES:
        return _PIPELINES[task_type]
    if architecture == "Embedder":
        return "sentence-similarity"
    return next((tag for suffix, tag in _HEADS.items() if architecture.endswith(suffix)), None)


def _results(facts: _Facts, pipeline: str | None) -> list[EvalResult]:
    """Returns the metrics for the index of the Hub; the names of local files are not published."""
    if facts.task is None:
        return []
    task = TASKS.get(facts.task)
    hub = task.hub if task is not None else ()
    return [
        EvalResult(
            task_type=pipeline or "text-classification",
            dataset_name=facts.task if hub else "validation data of the author",
            dataset_type=hub[0] if hub else "local-files",
            dataset_config=hub[1] if len(hub) > 1 else None,
            dataset_split=task.validation_split if hub and task is not None else "validation",
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=f"{fmt.metric_name(name)}, in percent",
            metric_value=round(value, 4),
        )
        for name, value in facts.metrics.items()
    ]


def _task_words(task: str | None) -> str:
    if task is None:
        return "unlabeled texts"
    return f"the task `{task}`" if task in TASKS else "a labeled data set of the author"


def _loader(architecture: str, *, is_embedder: bool) -> str:
    """Returns the class that loads the checkpoint."""
    if is_embedder:
        return "SentenceTransformer"
    return next((f"AutoModel{suffix}" for suffix in _HEADS if architecture.endswith(suffix)), "AutoModel")


def _max_length(report: Mapping[str, Any]) -> int:
    """Returns the number of tokens at which texts are cut."""
    config = (report.get("provenance") or {}).get("config") or {}
    value = config.get("max_length")
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else _MAX_LENGTH


def _statements(kind: Kind, report: Mapping[str, Any]) -> list[str]:
    """Returns sentences on the bound and how it was measured."""
    if kind != "compress":
        return []
    chosen = chosen_of(report)
    quality = chosen.get("quality") or {}
    sentences = [report["verdict"]["sentence"], bound_sentence(report)]
    if quality:
        sentences.append(
            f"The loss is {fmt.points(quality['loss'])}, its one-sided limit {fmt.points(quality['limit'])}, "
            f"measured on {fmt.integer(quality.get('texts'))} texts"
            + (f" by the {quality['method']}." if quality.get("method") else ".")
            + " Both models answered the same texts, and the exported graph was measured in its runtime."
        )
    return [sentence for sentence in (*sentences, int8_sentence(report)) if sentence]


def _losses(report: Mapping[str, Any]) -> list[str]:
    """Returns sentences on the answers that changed."""
    answers = report.get("answers") or {}
    sentences = []
    if fmt.is_number(answers.get("agreement")):
        sentences.append(f"{fmt.percent(answers['agreement'])} of the answers are those of the dense model.")
    confusion = answers.get("confusion")
    if confusion:
        rows = confusion["counts"]
        total, same = sum(map(sum, rows)), sum(row[index] for index, row in enumerate(rows))
        sentences.append(f"{fmt.integer(total - same)} of {fmt.integer(total)} texts changed their class.")
    if answers.get("changed"):
        sentences.append("The texts whose answers changed most are listed in `report.html`.")
    return sentences


def _class_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns the classes that changed most, as cells of a table."""
    classes = (report.get("answers") or {}).get("per_class") or []
    return [
        (
            row["label"],
            fmt.integer(row.get("texts")),
            fmt.number(row.get("dense_f1"), 1),
            fmt.number(row.get("chosen_f1"), 1),
            fmt.signed(class_change(row), 1),
        )
        for row in most_changed(classes, LISTED_CLASSES)
    ]


def _made(kind: Kind, report: Mapping[str, Any]) -> list[str]:
    """Returns sentences on how the model was made."""
    provenance = report.get("provenance") or {}
    configs = [provenance, report.get("training"), (report.get("pruning") or {}).get("config")]
    seed = next((config["seed"] for config in configs if config and config.get("seed") is not None), None)
    sentences = [f"Seed: {seed}."] if seed is not None else []
    if kind == "prune":
        pruning = report["pruning"]
        if fmt.is_number(pruning.get("sparsity")):
            method = (pruning.get("config") or {}).get("method")
            by = f" by the method {method}" if method else ""
            sentences.append(f"{fmt.share(pruning['sparsity'], 1)} of the encoder's weights were removed{by}.")
        if report.get("recovery"):
            sentences.append("The pruned model was trained again, with the dense model as its teacher.")
    fingerprint = (report.get("model") or {}).get("fingerprint")
    if fingerprint:
        sentences.append(f"Fingerprint of the dense model: `{_escape(fingerprint)}`.")
    return sentences


def _is_hub_id(name: Any) -> bool:
    return isinstance(name, str) and _HUB_ID.fullmatch(name) is not None and not name.startswith(".")


def _license(card: ModelCard | None) -> str | None:
    value = None if card is None else card.data.get("license")
    return value if isinstance(value, str) else None


def _read_card(file: Path) -> ModelCard | None:
    """Reads a card; None if there is none, or it has no metadata that can be read."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        return ModelCard(text, ignore_metadata_errors=True) if text.lstrip().startswith("---") else None
    except Exception:  # YAML raises many types, and a missing license must not stop anything
        return None


def _escape(text: Any) -> str:
    """Escapes what Markdown, tables and HTML would take for markup."""
    flat = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`|\[\]*])", r"\\\1", flat)


def _without_folders(command: str | None) -> str | None:
    """Returns a command with the names of files only: a card is published, and the author's folders are private."""
    if not command:
        return None
    return re.sub(r"(?<![^\s='\"])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\][^\s/\\'\"]*)*[/\\]([^\s/\\'\"]+)", r"\1", command)


def _fenced(text: str | None) -> str | None:
    """Returns a text as a code block that it cannot close."""
    if not text:
        return None
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return f"{fence}bash\n{text}\n{fence}"
