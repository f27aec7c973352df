"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

_DATA = "Data"
_TRAINING = "Training"

Model = Annotated[str, typer.Argument(help="Model folder, hub id, or 'minilm' for the packaged all-MiniLM-L6-v2.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write the model to.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if it exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Fixes every random choice.")]

TaskName = Annotated[
    str | None,
    typer.Option("--task", help="Task by name: sst2, mnli, …, squad, squad_v2, docstrings.", rich_help_panel=_DATA),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder with local GLUE or SQuAD files (without it: the hub).", rich_help_panel=_DATA
    ),
]
TrainFile = Annotated[
    Path | None,
    typer.Option("--train-file", help="Your own CSV, TSV, JSONL, Parquet, CoNLL or SQuAD JSON.", rich_help_panel=_DATA),
]
ValidationFile = Annotated[
    Path | None, typer.Option("--validation-file", help="Likewise, for the metrics.", rich_help_panel=_DATA)
]
TextFile = Annotated[
    Path | None,
    typer.Option("--text-file", help="Unlabelled texts to calibrate with: .txt or as above.", rich_help_panel=_DATA),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        "--text-column", help="Column of the text, the words, or the question; docs/tasks.md.", rich_help_panel=_DATA
    ),
]
TextPairColumn = Annotated[
    str | None,
    typer.Option("--text-pair-column", help="Column of the second text, or the passage.", rich_help_panel=_DATA),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        help="Column of the label, the tags, or the answers; several of 0 and 1, as a,b,c, for multi-label.",
        rich_help_panel=_DATA,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        help="Longest text or window, in tokens; default: 128, for questions 384.",
        rich_help_panel=_DATA,
    ),
]
TaskType = Annotated[
    str | None,
    typer.Option(
        "--task-type",
        help="Of your own files, if they do not tell: classification, regression, multi-label, token-classification, "
        "question-answering or embedding (then plain encoders are loaded as embedders with mean pooling).",
        rich_help_panel=_DATA,
    ),
]
DocStride = Annotated[
    int | None,
    typer.Option(
        "--doc-stride", help="Questions: tokens that windows of a passage share; default: 128.", rich_help_panel=_DATA
    ),
]
NullThreshold = Annotated[
    float | None,
    typer.Option(
        "--null-threshold",
        help="Questions: how much likelier than an answer, in logits, it must be that there is none; default: 0.",
        rich_help_panel=_DATA,
    ),
]
MaxTrain = Annotated[
    int | None,
    typer.Option("--max-train-samples", help="Use only the first rows for training.", rich_help_panel=_DATA),
]

BatchSize = Annotated[int, typer.Option("--batch-size", help="Texts per training step.", rich_help_panel=_TRAINING)]
MicroBatchSize = Annotated[
    int | None,
    typer.Option(
        "--micro-batch-size",
        help="Texts that go through the model together, in each process; gradients of a step's parts are added up.",
        rich_help_panel=_TRAINING,
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--learning-rate",
        help="Peak learning rate of AdamW; by default 5e-5, from a teacher 2e-5.",
        rich_help_panel=_TRAINING,
    ),
]
DistillationWeight = Annotated[
    float,
    typer.Option(
        "--distillation-weight",
        help="Weight of the dense teacher in the loss, 0 (labels only) to 1.",
        rich_help_panel=_TRAINING,
    ),
]
Temperature = Annotated[float, typer.Option("--temperature", help="Of the distillation.", rich_help_panel=_TRAINING)]
HiddenWeight = Annotated[
    float,
    typer.Option("--hidden-weight", help="Weight of the teacher's hidden states.", rich_help_panel=_TRAINING),
]
KeepBest = Annotated[
    bool,
    typer.Option("--keep-best", help="Hold texts out, end with the weights best on them.", rich_help_panel=_TRAINING),
]
Dropout = Annotated[
    bool | None,
    typer.Option(
        "--dropout/--no-dropout",
        help="Whether the model's dropouts act in training. Default: only without a teacher.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
Bf16 = Annotated[
    bool,
    typer.Option(
        "--bf16",
        help="Multiply in bfloat16 while training: half the time where the processor can.",
        rich_help_panel=_TRAINING,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from where a killed run stopped.", rich_help_panel=_TRAINING)
]
