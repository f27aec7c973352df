"""What removed weights save in time: pruned models beside the dense one, run in turns."""

import sys

import matplotlib.pyplot as plt
from transformers import BertConfig, BertForSequenceClassification

from bertsurgeon import AutoConfig, BenchmarkConfig, CalibrationConfig, Sparsity, bench, calibrate, prune
from bertsurgeon.testing import toy_classifier

_, tokenizer, texts = toy_classifier(texts=64)
shape = BertConfig(
    vocab_size=len(tokenizer), hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024
)
model = BertForSequenceClassification(shape).eval()  # random weights suffice to measure time

calibration = calibrate(model, CalibrationConfig(), texts["text"], tokenizer)
models = {"dense": model}
for share in (0.5, 0.75, 0.9):
    models[f"{share:.0%}\nremoved"] = prune(model, AutoConfig(Sparsity(share)), calibration, tokenizer).model
report = bench(models, BenchmarkConfig(batch_sizes=(8,), length=64, runs=5, memory=False))

plt.bar(list(report.models), [row.speedup for row in report.models.values()])
plt.ylabel("speed, relative to dense")
plt.title("PyTorch on a CPU, 8 × 64 tokens")
plt.savefig(sys.argv[1] if len(sys.argv) > 1 else "speed.svg", bbox_inches="tight")
