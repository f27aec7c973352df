"""Recovery without labels: the dense model teaches the pruned one on plain texts."""

import sys

import matplotlib.pyplot as plt
import torch

from bertsurgeon import AutoConfig, Sparsity, TrainingConfig, prune, recover, train
from bertsurgeon.testing import toy_classifier

model, tokenizer, texts = toy_classifier(texts=256)
train(model, TrainingConfig(epochs=10, batch_size=8, learning_rate=1e-3), texts.select(range(128)), tokenizer)
unlabeled = texts.select(range(128)).remove_columns("label")
batch = tokenizer(texts["text"][128:], padding=True, return_tensors="pt")
pruned = prune(model, AutoConfig(Sparsity(0.9)), unlabeled, tokenizer).model


def divergence() -> float:
    """KL(dense ‖ pruned) on texts that no step has used."""
    with torch.inference_mode():
        student, teacher = (one(**batch).logits.log_softmax(-1) for one in (pruned.eval(), model.eval()))
    return torch.nn.functional.kl_div(student, teacher, log_target=True, reduction="batchmean").item()


teaching = TrainingConfig(epochs=2, batch_size=8, learning_rate=3e-4, distillation_weight=1.0)  # the teacher alone
divergences = [divergence()]
for _ in range(4):
    recover(pruned, teaching, unlabeled, tokenizer, teacher=model)
    divergences.append(divergence())

plt.plot(range(0, 10, 2), divergences, marker="o")
plt.ylim(bottom=0)
plt.xlabel("epochs of recovery")
plt.ylabel("divergence from the dense model")
plt.title("90 % removed, taught by the dense model")
plt.savefig(sys.argv[1] if len(sys.argv) > 1 else "recovery.svg", bbox_inches="tight")
