"""The table of tasks known by name: type, columns, label codes and published metrics.

GLUE (Wang et al., 2019, arXiv 1804.07461) and SQuAD (Rajpurkar et al., 2016, arXiv 1606.05250, and 2018, arXiv
1806.03822) have the hub's column names and the published metrics. ``docstrings`` is our own: text classification on
data that is on every machine with Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertsurgeon.errors import OptionError
from bertsurgeon.tasks.types import CLASSIFICATION, REGRESSION, Outputs, QuestionAnswering, TaskType

if TYPE_CHECKING:
    from datasets import Dataset


RETRIEVAL = "retrieval"
"""Name of the task of retrieval collections, see :mod:`bertsurgeon.tasks.retrieval`."""


@dataclass(frozen=True)
class Layout:
    """Local files of a task, tab-separated or in SQuAD's JSON, and their columns.

    Attributes:
        folder: Folder below the data directory; the data directory itself is tried too.
        train: File name of the training part.
        validation: File name of the validation part.
        columns: Column of ``text``, ``text_pair`` (if any) and ``label``: a name if the file has a header, else a
            position. Empty for SQuAD's JSON.
    """

    folder: str
    train: str
    validation: str
    columns: dict[str, str | int] = field(default_factory=dict)

    @property
    def header(self) -> bool:
        """Whether the first line of the files holds column names."""
        return isinstance(self.columns["label"], str)


@dataclass(frozen=True)
class Task:
    """A supervised task.

    Attributes:
        name: Name on the command line.
        metrics: Names of the published metrics, the primary one first.
        labels: Names of the classes or tags, in the order of their codes; empty if there are none.
        hub: Name of the dataset on the hub and, if it has several, of its configuration.
        hub_columns: Names of its text columns.
        layouts: Layouts of local files, tried in order.
        validation_split: Name of the hub's validation split.
        type: Type of the task.
    """

    name: str
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()
    hub_columns: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = field(default=(), repr=False)
    validation_split: str = "validation"
    type: TaskType = CLASSIFICATION

    def score(self, outputs: Sequence[Outputs], dataset: Dataset) -> dict[str, float]:
        """Computes all metrics, in percent; see :meth:`bertsurgeon.tasks.TaskType.score`."""
        return self.type.score(self.metrics, self.labels, outputs, dataset)

    @property
    def num_labels(self) -> int:
        """Number of outputs that a model's head must have."""
        return self.type.num_outputs_for(self.labels)

    @property
    def primary_metric(self) -> str:
        """Name of the metric that ranks models."""
        return self.metrics[0]


_ENTAILMENT = ("entailment", "not_entailment")


def _mnli(name: str, genres: str) -> Task:
    """Returns MNLI, validated on texts of the training genres (``matched``) or of others (``mismatched``)."""
    return Task(
        name,
        ("accuracy",),
        ("entailment", "neutral", "contradiction"),
        ("glue", "mnli"),
        ("premise", "hypothesis"),
        (
            Layout(
                "MNLI",
                "train.tsv",
                f"dev_{genres}.tsv",
                {"text": "sentence1", "text_pair": "sentence2", "label": "gold_label"},
            ),
        ),
        validation_split=f"validation_{genres}",
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "sst2",
            ("accuracy",),
            ("negative", "positive"),
            ("glue", "sst2"),
            ("sentence",),
            (Layout("SST-2", "train.tsv", "dev.tsv", {"text": "sentence", "label": "label"}),),
        ),
        Task(
            "cola",
            ("matthews", "accuracy"),
            ("unacceptable", "acceptable"),
            ("glue", "cola"),
            ("sentence",),
            (Layout("CoLA", "train.tsv", "dev.tsv", {"text": 3, "label": 1}),),
        ),
        Task(
            "mrpc",
            ("f1", "accuracy"),
            ("not_equivalent", "equivalent"),
            ("glue", "mrpc"),
            ("sentence1", "sentence2"),
            tuple(
                Layout(
                    "MRPC",
                    train,
                    validation,
                    {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"},
                )
                for train, validation in (
                    ("train.tsv", "dev.tsv"),
                    ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"),
                )
            ),
        ),
        Task(
            "rte",
            ("accuracy",),
            _ENTAILMENT,
            ("glue", "rte"),
            ("sentence1", "sentence2"),
            (
                Layout(
                    "RTE",
                    "train.tsv",
                    "dev.tsv",
                    {"text": "sentence1", "text_pair": "sentence2", "label": "label"},
                ),
            ),
        ),
        Task(
            "stsb",
            ("spearman", "pearson"),
            (),
            ("glue", "stsb"),
            ("sentence1", "sentence2"),
            (
                Layout("STS-B", "sts-train.csv", "sts-dev.csv", {"text": 5, "text_pair": 6, "label": 4}),
                Layout(
                    "STS-B",
                    "train.tsv",
                    "dev.tsv",
                    {"text": "sentence1", "text_pair": "sentence2", "label": "score"},
                ),
            ),
            type=REGRESSION,
        ),
        Task(
            "qnli",
            ("accuracy",),
            _ENTAILMENT,
            ("glue", "qnli"),
            ("question", "sentence"),
            (
                Layout(
                    "QNLI",
                    "train.tsv",
                    "dev.tsv",
                    {"text": "question", "text_pair": "sentence", "label": "label"},
                ),
            ),
        ),
        Task(
            "qqp",
            ("f1", "accuracy"),
            ("not_duplicate", "duplicate"),
            ("glue", "qqp"),
            ("question1", "question2"),
            (
                Layout(
                    "QQP",
                    "train.tsv",
                    "dev.tsv",
                    {"text": "question1", "text_pair": "question2", "label": "is_duplicate"},
                ),
            ),
        ),
        _mnli("mnli", "matched"),
        _mnli("mnli-mm", "mismatched"),
        Task(
            "wnli",
            ("accuracy",),
            ("not_entailment", "entailment"),
            ("glue", "wnli"),
            ("sentence1", "sentence2"),
            (
                Layout(
                    "WNLI",
                    "train.tsv",
                    "dev.tsv",
                    {"text": "sentence1", "text_pair": "sentence2", "label": "label"},
                ),
            ),
        ),
        Task(
            "squad",
            QuestionAnswering().metrics,
            hub=("squad",),
            hub_columns=("question", "context"),
            layouts=(Layout("squad", "train-v1.1.json", "dev-v1.1.json"),),
            type=QuestionAnswering(),
        ),
        Task(
            "squad_v2",
            QuestionAnswering(unanswerable=True).metrics,
            hub=("squad_v2",),
            hub_columns=("question", "context"),
            layouts=(Layout("squad", "train-v2.0.json", "dev-v2.0.json"),),
            type=QuestionAnswering(unanswerable=True),
        ),
        Task("docstrings", ("accuracy", "f1"), ("python", "torch", "numpy", "transformers")),
    )
}


def get_task(name: str) -> Task:
    """Returns the task with a name.

    Args:
        name: A key of :data:`TASKS`.

    Raises:
        OptionError: If there is none.
    """
    if name == RETRIEVAL:
        raise OptionError(
            "A retrieval collection is a task of evaluate and compress; other commands take its texts with --text-file."
        )
    try:
        return TASKS[name]
    except KeyError:
        raise OptionError(f"There is no task {name!r}; choose one of {', '.join(sorted(TASKS))}.") from None
