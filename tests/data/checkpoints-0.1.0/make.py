"""Writes the checkpoints beside this file, with the logits that they give.

They were made with bertsurgeon 0.1.0 (commit fabc43f), torch 2.13.0 and transformers 5.23.0, by

    python make.py FOLDER

Later versions of the library must load them with equal logits, so this script is a record: do not run it again.
Logits are computed in double precision, which makes a difference in the last bit of any weight visible and rounding
on another machine invisible.
"""

import sys
from pathlib import Path

import torch
from bertsurgeon.toy import toy_classifier
from safetensors.torch import save_file
from transformers import TrainerControl, TrainerState

from bertsurgeon import PruneConfig, is_sparse, prune, save_model
from bertsurgeon.recovery import QuantizationAwareTraining
from bertsurgeon.tasks import tokenize


def train_int8(model, inputs):
    """Rounds weights and input ranges as quantization-aware training does, without any update of the weights."""
    callback = QuantizationAwareTraining(model, 0, 10)
    callback.on_step_begin(None, TrainerState(global_step=0), TrainerControl())
    with torch.no_grad():
        model.train()(**inputs)
    callback.finish()
    model.eval()


def main(folder):
    model, tokenizer, texts = toy_classifier()
    data = tokenize(texts, tokenizer)
    inputs = dict(tokenizer(list(texts["text"][:8]), padding=True, return_tensors="pt"))
    common = {"samples": 32}
    obert = {"method": "obert", "fisher_damping": 1e-4, "fisher_block_size": 16}

    def make(source=model, **options):
        return prune(source, data, PruneConfig(**{**common, **options}), tokenizer)[0]

    models = {
        "auto": make(sparsity=0.8),
        "auto-removal": make(sparsity=0.8, structures=("removal",)),
        "pgb-grouped": make(method="pgb", sparsity=0.7),
        "obert-sparse": make(**{**obert, "sparsity": 0.9}),
        "obert-blocks": make(**{**obert, "pattern": "1x4", "sparsity": 0.9}),
    }
    models["pgb-obert"] = make(models["pgb-grouped"], **obert, sparsity=0.7)
    models["obert-int8"] = make(**{**obert, "sparsity": 0.75})
    train_int8(models["obert-int8"], inputs)
    models["bfloat16"] = make(sparsity=0.8).to(torch.bfloat16)
    save_file(inputs, folder / "inputs.safetensors")
    logits = {}
    for name, pruned in models.items():
        save_model(pruned, folder / name)
        with torch.no_grad():
            logits[name] = pruned.eval().double()(**inputs).logits
        print(name, is_sparse(pruned), sum(f.stat().st_size for f in (folder / name).iterdir()))
    save_file(logits, folder / "logits.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
