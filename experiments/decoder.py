"""A small decoder, pruned: perplexity before and after compensation and recovery, beside removal by magnitude.

    python experiments/decoder.py
    python experiments/decoder.py --kind gpt2

Nothing is downloaded: the texts are docstrings of installed packages. The model is trained on them for some minutes,
pruned at each share, compensated, and trained again. The baseline removes the same share of the weights as whole
neurons and heads, those with the smallest norms, alike in every layer, and is trained again as long; so is the dense
model, to separate the effect of more training. Perplexity is measured on training texts as well as on held-out ones:
an overfitted model can gain from pruning alone.
"""

import argparse
import math
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from bertsurgeon import AutoConfig, Sparsity, load_model, prune, save_model
from bertsurgeon.architectures import Encoder, unfuse
from bertsurgeon.checkpoint import attach_plan, load_tokenizer
from bertsurgeon.compensation import apply_plan
from bertsurgeon.plan import Dense, LayerPlan, ModelPlan, Role, Units, sub_layer_of, unit_axis
from bertsurgeon.tasks.docstrings import read_docstrings
from lib.common import make_parser, parse_arguments
from lib.results_store import RUNS, ResultsStore

SPARSITIES = (0.3, 0.5)
BLOCK = 128
"""Tokens of a training block; docstrings are concatenated."""


def make_config(arguments: argparse.Namespace, vocabulary: int) -> PretrainedConfig:
    """Returns a decoder in the style of Llama (half as many keys and values as queries, gated) or GPT-2."""
    width, heads = arguments.hidden, max(2, arguments.hidden // 32)
    common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    sizes = {"hidden_size": width, "num_hidden_layers": arguments.layers, "num_attention_heads": heads}
    if arguments.kind == "gpt2":
        return GPT2Config(n_positions=BLOCK, **common, **sizes)
    inner = 8 * width // 3 // 8 * 8
    return LlamaConfig(
        max_position_embeddings=BLOCK,
        intermediate_size=inner,
        num_key_value_heads=heads // 2,
        tie_word_embeddings=True,
        **common,
        **sizes,
    )


def make_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Returns a byte-pair tokenizer of the training texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<end>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>", pad_token="<pad>")


def make_blocks(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """Concatenates texts and cuts them into blocks; the incomplete last block is dropped."""
    end = tokenizer.eos_token_id
    stream = [token for ids in tokenizer(texts)["input_ids"] for token in (*ids, end)]
    count = len(stream) // BLOCK
    blocks = [stream[number * BLOCK : (number + 1) * BLOCK] for number in range(count)]
    return Dataset.from_dict({"input_ids": blocks, "attention_mask": [[1] * BLOCK] * count})


class Language:
    """The texts, the tokenizer, and the training and scoring of models on them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        training, held_out = read_docstrings(arguments.texts, arguments.seed)
        self.folder = RUNS / f"decoder-{arguments.kind}-{arguments.hidden}x{arguments.layers}-{arguments.seed}"
        if self.folder.is_dir():
            self.tokenizer: Any = load_tokenizer(self.folder)
        else:
            self.tokenizer = make_tokenizer(training["text"], arguments.vocabulary)
        self.training, self.held_out = (
            make_blocks(list(part["text"]), self.tokenizer) for part in (training, held_out)
        )

    def _trainer(self, model: PreTrainedModel, folder: str, epochs: float, rate: float) -> Trainer:
        options = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            learning_rate=rate,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=16,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=0.01,
            use_cpu=not torch.accelerator.is_available(),
            seed=self.arguments.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        return Trainer(
            model=model,
            args=options,
            train_dataset=self.training,
            eval_dataset=self.held_out,
            data_collator=DataCollatorForLanguageModeling(self.tokenizer, mlm=False),
        )

    def train(self, model: PreTrainedModel, epochs: float, rate: float) -> None:
        """Trains a model to predict the next token, in place."""
        with TemporaryDirectory() as folder:
            self._trainer(model, folder, epochs, rate).train()
        model.eval()

    def perplexity(self, model: PreTrainedModel, blocks: Dataset | None = None) -> float:
        """Returns the perplexity on these blocks, by default the held-out ones: e to the mean loss of a token."""
        with TemporaryDirectory() as folder:
            return math.exp(self._trainer(model, folder, 0, 0.0).evaluate(blocks)["eval_loss"])

    def training_perplexity(self, model: PreTrainedModel) -> float:
        """Returns the perplexity on a tenth of the training blocks."""
        return self.perplexity(model, self.training.select(range(0, len(self.training), 10)))

    def dense(self) -> dict[str, Any]:
        """Trains the dense model, and keeps it."""
        set_seed(self.arguments.seed)
        model = AutoModelForCausalLM.from_config(make_config(self.arguments, len(self.tokenizer)))
        self.train(model, self.arguments.epochs, self.arguments.learning_rate)
        save_model(model, self.folder, self.tokenizer, overwrite=True)
        return {
            "perplexity": self.perplexity(model),
            "perplexity_training": self.training_perplexity(model),
            "parameters": model.num_parameters(),
            "training_tokens": BLOCK * len(self.training),
        }

    def recover(self, model: PreTrainedModel) -> dict[str, float]:
        """Continues training; returns the perplexities afterwards."""
        set_seed(self.arguments.seed)
        self.train(model, self.arguments.recovery_epochs, self.arguments.recovery_rate)
        return {"recovered": self.perplexity(model), "recovered_training": self.training_perplexity(model)}

    def trained_on(self) -> dict[str, float]:
        """Returns the dense model after the same additional training as the pruned ones."""
        return self.recover(load_model(self.folder, AutoModelForCausalLM))


def smallest_norms(model: PreTrainedModel, sparsity: float) -> ModelPlan:
    """Returns the plan that removes this share of every layer as the heads and neurons with the smallest norms.

    Where the heads are too few for the share, more or fewer neurons are removed.
    """
    encoder = Encoder(model)
    layers = []
    for index, shapes in enumerate(encoder.shapes):
        units: dict[Any, Units] = {}
        remaining_weights = (1 - sparsity) * sum(rows * columns for rows, columns in shapes.values())
        for sub_layer, roles in encoder.sub_layers.items():
            width = encoder.unit_width(sub_layer)
            total = shapes[roles[-1]][1] // width
            whole = sum(math.prod(shapes[role]) for role in roles)
            share = 1 - sparsity if sub_layer == "attention" else remaining_weights / whole
            count = max(1, min(total, round(share * total)))
            norms = torch.zeros(total)
            for role in roles:
                weight = encoder.weight(index, role)
                by_unit = weight.T if unit_axis(role) == 1 else weight
                norms += by_unit.reshape(total, -1).square().sum(1)
            kept = tuple(sorted(norms.topk(count).indices.tolist()))
            units[sub_layer] = Units((kept,), total, width)
            remaining_weights -= whole * count / total
        structures: dict[Role, Any] = dict.fromkeys(shapes, Dense())
        assert all(sub_layer_of(role) in units for role in structures)
        layers.append(LayerPlan.build(shapes, structures, units))
    return ModelPlan(encoder.architecture.name, tuple(layers))


def apply(model: PreTrainedModel, plan: ModelPlan) -> PreTrainedModel:
    """Applies a plan without compensation."""
    pruned = apply_plan(unfuse(model), plan, "none")
    attach_plan(pruned, plan)
    return pruned


def by_auto(language: Language, sparsity: float) -> dict[str, Any]:
    model = load_model(language.folder, AutoModelForCausalLM)
    config = AutoConfig(Sparsity(sparsity), samples=language.arguments.samples, seed=language.arguments.seed)
    pruned, report = prune(model, config, language.training, language.tokenizer)
    return {
        "samples": report.samples,
        "sparsity": report.sparsity,
        "seconds_to_prune": sum(report.seconds.values()),
        "removed_only": language.perplexity(apply(model, report.plan)),
        "compensated": language.perplexity(pruned),
        "compensated_training": language.training_perplexity(pruned),
        **language.recover(pruned),
    }


def by_magnitude(language: Language, sparsity: float) -> dict[str, Any]:
    model = unfuse(load_model(language.folder, AutoModelForCausalLM))
    plan = smallest_norms(model, sparsity)
    pruned = apply(model, plan)
    return {
        "sparsity": plan.sparsity,
        "removed_only": language.perplexity(pruned),
        **language.recover(pruned),
    }


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--kind", choices=("llama", "gpt2"), default="llama")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--texts", type=int, default=8000, help="docstrings of each package")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--recovery-epochs", type=float, default=1)
    parser.add_argument("--recovery-rate", type=float, default=3e-4)
    parser.add_argument("--samples", type=int, default=512, help="blocks to calibrate on")
    parser.add_argument("--sparsities", nargs="*", type=float, default=SPARSITIES)
    parser.add_argument("--seed", type=int, default=0)
    return parse_arguments(parser)


def main() -> None:
    arguments = parse()
    results = ResultsStore("decoder", arguments)
    language = Language(arguments)
    prefix = language.folder.name.removeprefix("decoder-")
    model = {name: getattr(arguments, name) for name in ("kind", "hidden", "layers")}
    results.run(f"{prefix}/dense", language.dense, model)
    results.run(f"{prefix}/dense-trained-on", language.trained_on, model)
    for sparsity in arguments.sparsities:
        for method, measure in (("auto", by_auto), ("magnitude", by_magnitude)):
            configuration = {**model, "method": method, "sparsity": sparsity}
            results.run(f"{prefix}/{method}-{sparsity:g}", partial(measure, language, sparsity), configuration)


if __name__ == "__main__":
    main()
