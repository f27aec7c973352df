"""Shapes of the reports that commands write into their folders, for pydantic to check.

``docs/report.md`` documents the report of ``compress``. Keys that a report may lack are optional here, too, and keys
that are not listed are allowed, so that a later version may add some.
"""

from typing import Any, Literal, NotRequired

from pydantic import NonNegativeInt
from typing_extensions import TypedDict  # pydantic refuses the one of typing before Python 3.12

SCHEMA_VERSION = 1
"""Version of the report of ``compress``."""

Kind = Literal["compress", "prune", "training", "layer_drop", "vocabulary", "export", "calibration"]

Verdict = Literal["holds", "not shown", "fails"]

Metrics = dict[str, float | None]


class _Statement(TypedDict):
    status: Verdict
    sentence: str


class _Bound(TypedDict):
    kind: Literal["max_drop", "min_agreement"]
    value: float
    confidence: float
    metric: NotRequired[str | None]


class _Quality(TypedDict):
    loss: float | None
    limit: float | None
    verdict: Verdict
    texts: NotRequired[int | None]
    texts_needed: NotRequired[float | None]
    method: NotRequired[str | None]


class _Latency(TypedDict):
    p50_ms: NotRequired[float | None]
    p95_ms: NotRequired[float | None]
    p99_ms: NotRequired[float | None]
    throughput: NotRequired[float | None]


class _Candidate(TypedDict):
    name: str
    kind: Literal["dense", "pruned"]
    precision: str
    removed: NotRequired[float | None]
    recovered: NotRequired[bool | None]
    metrics: NotRequired[Metrics | None]
    agreement: NotRequired[float | None]
    quality: NotRequired[_Quality | None]
    encoder_weights: NotRequired[float | None]
    parameters: NotRequired[float | None]
    flops: NotRequired[float | None]
    file_bytes: NotRequired[float | None]
    latency: NotRequired[_Latency | None]
    speedup: NotRequired[float | None]
    speedup_int8: NotRequired[float | None]
    seconds: NotRequired[float | None]
    error: NotRequired[str | None]


class _Target(TypedDict):
    runtime: Literal["pytorch", "onnx", "openvino"]
    batch_size: NotRequired[int | None]
    length: NotRequired[int | None]
    lengths: NotRequired[str | None]


class _Task(TypedDict):
    name: str
    type: NotRequired[str | None]
    metrics: NotRequired[list[str] | None]
    labels: NotRequired[list[str] | None]


class _File(TypedDict):
    name: str
    bytes: NotRequired[float | None]
    sha256: NotRequired[str | None]


class _Data(TypedDict):
    calibration: NotRequired[int | None]
    training: NotRequired[int | None]
    search: NotRequired[int | None]
    confirmation: NotRequired[int | None]
    files: NotRequired[list[_File] | None]


class _Model(TypedDict):
    name: str
    fingerprint: NotRequired[str | None]
    architecture: NotRequired[str | None]
    license: NotRequired[str | None]


class _Confirmation(TypedDict):
    texts: int
    loss: float | None
    limit: float | None
    verdict: Verdict
    metrics: NotRequired[dict[str, Metrics | None] | None]


class _Class(TypedDict):
    label: str
    texts: NotRequired[int | None]
    dense_f1: NotRequired[float | None]
    chosen_f1: NotRequired[float | None]
    dense_recall: NotRequired[float | None]
    chosen_recall: NotRequired[float | None]


class _Confusion(TypedDict):
    labels: list[str]
    counts: list[list[NonNegativeInt]]


class _Scatter(TypedDict):
    dense: list[float | None]
    chosen: list[float | None]


class _Changed(TypedDict):
    text: str
    text_pair: NotRequired[str | None]
    label: NotRequired[str | None]
    dense: NotRequired[str | None]
    chosen: NotRequired[str | None]
    difference: NotRequired[float | None]


class _Answers(TypedDict):
    agreement: NotRequired[float | None]
    per_class: NotRequired[list[_Class] | None]
    confusion: NotRequired[_Confusion | None]
    scatter: NotRequired[_Scatter | None]
    changed: NotRequired[list[_Changed] | None]


class _Speed(_Latency):
    model: str
    batch_size: int
    length: int


class _Layer(TypedDict):
    layer: int
    heads: NotRequired[tuple[int, int] | None]
    neurons: NotRequired[tuple[int, int] | None]
    matrices: NotRequired[dict[str, str] | None]
    kept: NotRequired[dict[str, float | None] | None]


class _Predicted(TypedDict):
    removed: float | None
    predicted_error: float | None
    loss: float | None


class _Invariant(TypedDict):
    largest_difference: NotRequired[float | None]
    flips: NotRequired[int | None]


class _Invariance(TypedDict):
    alone_vs_batch: NotRequired[_Invariant | None]
    exported_vs_pytorch: NotRequired[_Invariant | None]
    threads: NotRequired[_Invariant | None]
    texts: NotRequired[int | None]


class _Memory(TypedDict):
    model: str
    bytes: float | None


class _Environment(TypedDict):
    machine: NotRequired[str | None]
    processor: NotRequired[str | None]
    cores: NotRequired[int | None]
    threads: NotRequired[int | None]
    instruction_sets: NotRequired[list[str] | None]
    versions: NotRequired[dict[str, str | None] | None]


class _Provenance(TypedDict):
    command: NotRequired[str | None]
    seed: NotRequired[int | None]
    bertsurgeon: NotRequired[str | None]
    config: NotRequired[dict[str, Any] | None]


class CompressReport(TypedDict):
    """``report.json`` of ``compress``; ``docs/report.md`` documents its keys."""

    schema_version: int
    command: Literal["compress"]
    verdict: _Statement
    bound: _Bound
    candidates: list[_Candidate]
    chosen: str | None
    objective: NotRequired[str | None]
    target: NotRequired[_Target | None]
    task: NotRequired[_Task | None]
    data: NotRequired[_Data | None]
    model: NotRequired[_Model | None]
    confirmation: NotRequired[_Confirmation | None]
    answers: NotRequired[_Answers | None]
    speed: NotRequired[list[_Speed] | None]
    plan: NotRequired[list[_Layer] | None]
    predicted: NotRequired[list[_Predicted] | None]
    invariance: NotRequired[_Invariance | None]
    memory: NotRequired[list[_Memory] | None]
    files: NotRequired[list[_File] | None]
    minutes: NotRequired[float | None]
    stopped: NotRequired[str | None]
    accept: NotRequired[str | None]
    reference: NotRequired[Metrics | None]
    best_shown: NotRequired[str | None]
    seconds: NotRequired[dict[str, float | None] | None]
    environment: NotRequired[_Environment | None]
    provenance: NotRequired[_Provenance | None]


class _PruneReport(TypedDict):
    command: NotRequired[str]
    task: str | None
    pruning: dict[str, Any]
    models: dict[str, dict[str, float | None]]
    recovery: NotRequired[dict[str, Any] | None]
    vocabulary: NotRequired[dict[str, Any] | None]
    environment: NotRequired[_Environment | None]


class _TrainingReport(TypedDict):
    command: NotRequired[str]
    task: str | None
    metrics: Metrics
    training: NotRequired[dict[str, Any] | None]
    recipe: NotRequired[dict[str, Any] | None]


class _LayerDropReport(TypedDict):
    layers: list[int]
    of: int
    encoder_weights: dict[str, float | None]


class _VocabularyReport(TypedDict):
    texts: int
    kept: int
    of: int
    parameters: list[float]


class _ExportReport(TypedDict):
    format_version: int
    runtime: Literal["onnx", "openvino"]
    precision: str
    inputs: list[str]
    outputs: list[str]
    encoder_weights: NotRequired[float | None]
    kept_float: NotRequired[list[str] | None]
    check: NotRequired[dict[str, float | None] | None]
    quantization: NotRequired[str | None]


class _CalibrationReport(TypedDict):
    format_version: int
    settings: dict[str, Any]
    seconds: dict[str, float]
    model: NotRequired[Any]


SHAPES: dict[Kind, Any] = {
    "compress": CompressReport,
    "prune": _PruneReport,
    "training": _TrainingReport,
    "layer_drop": _LayerDropReport,
    "vocabulary": _VocabularyReport,
    "export": _ExportReport,
    "calibration": _CalibrationReport,
}
"""Shape of each kind of report."""
