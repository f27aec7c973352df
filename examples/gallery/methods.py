"""Three methods with the same share of weights: how far the outputs move."""

import sys

import matplotlib.pyplot as plt
import torch

from bertsurgeon import AutoConfig, ObertConfig, PgbConfig, Sparsity, TrainingConfig, prune, train
from bertsurgeon.testing import toy_classifier

model, tokenizer, texts = toy_classifier(texts=128)
train(model, TrainingConfig(epochs=10, batch_size=8, learning_rate=1e-3), texts, tokenizer)
batch = tokenizer(texts["text"][:], padding=True, return_tensors="pt")

errors = {}
for name, method in {"auto": AutoConfig, "pgb": PgbConfig, "obert": ObertConfig}.items():
    errors[name] = []
    for share in (0.5, 0.7):
        pruned = prune(model, method(Sparsity(share)), texts, tokenizer).model
        with torch.inference_mode():
            difference = pruned(**batch).logits - model(**batch).logits
        errors[name].append(difference.square().mean().sqrt().item())

for offset, (name, values) in zip((-0.25, 0, 0.25), errors.items(), strict=True):
    plt.bar([position + offset for position in range(2)], values, 0.25, label=name)
plt.xticks(range(2), ["50 % removed", "70 % removed"])
plt.ylabel("root mean square change of the logits")
plt.title("Same share of weights, three methods")
plt.legend()
plt.savefig(sys.argv[1] if len(sys.argv) > 1 else "methods.svg", bbox_inches="tight")
