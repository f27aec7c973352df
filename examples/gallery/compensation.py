"""What it is worth to refit the remaining weights: the paper's groups, with and without compensation."""

import sys

import matplotlib.pyplot as plt
import torch

from bertsurgeon import PgbConfig, Sparsity, TrainingConfig, prune, train
from bertsurgeon.testing import toy_classifier

model, tokenizer, texts = toy_classifier(texts=128)
train(model, TrainingConfig(epochs=10, batch_size=8, learning_rate=1e-3), texts, tokenizer)
batch = tokenizer(texts["text"][:], padding=True, return_tensors="pt")
with torch.inference_mode():
    dense = model(**batch).logits[:, 1]

kinds = ("none", "independent", "sequential")
figure, plots = plt.subplots(1, 3, figsize=(8, 3), sharex=True, sharey=True, layout="constrained")
for kind, axes in zip(kinds, plots, strict=True):
    pruned = prune(model, PgbConfig(Sparsity(0.5), compensation=kind), texts, tokenizer).model
    with torch.inference_mode():
        axes.scatter(dense, pruned(**batch).logits[:, 1], s=8)
    axes.axline((0, 0), slope=1, color="gray", linewidth=1)
    axes.set_title(f"compensation: {kind}")
    axes.set_xlabel("logit, dense")
plots[0].set_ylabel("logit, half of the encoder removed")
plt.savefig(sys.argv[1] if len(sys.argv) > 1 else "compensation.svg", bbox_inches="tight")
