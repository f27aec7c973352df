"""The tasks known by name: which columns they read, how labels are coded, which metrics are published.

GLUE (Wang et al., 2019, arXiv 1804.07461): names of hub columns and metrics as published there. ``docstrings`` is
ours: text classification on data that every machine with Python has.
"""

from dataclasses import dataclass, field
from typing import Literal

from bertsurgeon.errors import OptionError

Metric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


@dataclass(frozen=True)
class Layout:
    """Where a task's columns are in local tab-separated files.

    Attributes:
        folder: Folder below the data directory; the data directory itself is tried too.
        train: File name of the training part.
        validation: File name of the validation part.
        columns: Column of ``text``, ``text_pair`` (if any) and ``label``: a name where the file has a header, a
            position where it has none.
    """

    folder: str
    train: str
    validation: str
    columns: dict[str, str | int]

    @property
    def header(self) -> bool:
        """Whether the files start with a line of column names."""
        return isinstance(self.columns["label"], str)


@dataclass(frozen=True)
class Task:
    """A supervised task on one text or a pair of texts.

    Attributes:
        name: Name on the command line.
        metrics: Published metrics, the one that decides first.
        labels: Names of the classes, in the order of their codes; empty for a regression.
        hub: Dataset and configuration on the hub.
        hub_columns: Names of the text column(s) there.
        layouts: Known local file layouts, tried in order.
        validation_split: Name of the hub's validation split.
    """

    name: str
    metrics: tuple[Metric, ...]
    labels: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()
    hub_columns: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = field(default=(), repr=False)
    validation_split: str = "validation"

    @property
    def regression(self) -> bool:
        """Whether the label is a real number."""
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Outputs the model's head must have."""
        return len(self.labels) or 1

    @property
    def primary_metric(self) -> Metric:
        """The metric that ranks models."""
        return self.metrics[0]


_ENTAILMENT = ("entailment", "not_entailment")


def _mnli(name: str, genres: str) -> Task:
    """MNLI, validated on texts of the training's genres (``matched``) or of others (``mismatched``)."""
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
        Task("docstrings", ("accuracy", "f1"), ("python", "torch", "numpy", "transformers")),
    )
}


def get_task(name: str) -> Task:
    """The task called ``name``.

    Raises:
        OptionError: If there is none; the sentence lists those there are.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise OptionError(f"There is no task {name!r}; choose one of {', '.join(sorted(TASKS))}.") from None
