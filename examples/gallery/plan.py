"""A plan is plain data: what each matrix of each layer keeps."""

import sys

import matplotlib.pyplot as plt
import numpy as np

from bertsurgeon import AutoConfig, Sparsity, TrainingConfig, prune, train
from bertsurgeon.testing import toy_classifier

model, tokenizer, texts = toy_classifier(texts=128)
train(model, TrainingConfig(epochs=10, batch_size=8, learning_rate=1e-3), texts, tokenizer)
_, report = prune(model, AutoConfig(Sparsity(0.6)), texts["text"], tokenizer)

roles = list(report.plan.layers[0].matrices)
kept = np.zeros((len(report.plan.layers), len(roles)))
for layer, role, matrix in report.plan:
    kept[layer, roles.index(role)] = 100 * matrix.kept / np.prod(matrix.shape)

figure, axes = plt.subplots(figsize=(6.4, 3), layout="constrained")
image = axes.imshow(kept, vmin=0, vmax=100, cmap="viridis")
axes.set_xticks(range(len(roles)), [role.replace("_", "\n") for role in roles])
axes.set_yticks(range(len(kept)), [f"layer {layer}" for layer in range(len(kept))])
for (layer, column), share in np.ndenumerate(kept):
    axes.text(column, layer, f"{share:.0f}", ha="center", va="center", color="white" if share < 60 else "black")
figure.colorbar(image, label="weights kept, %", shrink=0.8)
axes.set_title("60 % removed: not the same share everywhere")
plt.savefig(sys.argv[1] if len(sys.argv) > 1 else "plan.svg", bbox_inches="tight")
