"""One calibration, many budgets: how the outputs move as more of the encoder is removed."""

import sys

import matplotlib.pyplot as plt
import torch

from bertsurgeon import AutoConfig, CalibrationConfig, Sparsity, TrainingConfig, calibrate, prune, train
from bertsurgeon.testing import toy_classifier

model, tokenizer, texts = toy_classifier(texts=256)
train(model, TrainingConfig(epochs=10, batch_size=8, learning_rate=1e-3), texts.select(range(128)), tokenizer)
held_out = tokenizer(texts["text"][128:], padding=True, return_tensors="pt")

calibration = calibrate(model, CalibrationConfig(), texts["text"][:128], tokenizer)  # no labels
shares = [0.2, 0.4, 0.6, 0.8, 0.9, 0.95]
divergences = []
for share in shares:
    pruned = prune(model, AutoConfig(Sparsity(share)), calibration, tokenizer).model
    with torch.inference_mode():
        student, teacher = (one(**held_out).logits.log_softmax(-1) for one in (pruned, model))
    loss = torch.nn.functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
    divergences.append(loss.item())

plt.plot([100 * share for share in shares], divergences, marker="o")
plt.xlabel("encoder weights removed, %")
plt.ylabel("divergence from the dense model")
plt.title("One calibration, six budgets")
plt.savefig(sys.argv[1] if len(sys.argv) > 1 else "budgets.svg", bbox_inches="tight")
