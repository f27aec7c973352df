"""What the tests of the command line share: a model folder and files small enough to train in a second."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import torch
import transformers
from click.testing import Result
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, PreTrainedTokenizerBase
from typer.testing import CliRunner

from bertsurgeon.cli import app
from bertsurgeon.cli.app import silence_libraries
from bertsurgeon.tasks import tokenize

WORDS = {"good": ("fine", "lovely", "warm", "bright"), "bad": ("poor", "dull", "cold", "grim")}
FILLER = ("the", "film", "was", "a", "very", "and", "it", "with", "day", "old", "new", "plot")


def write_model(folder: Path, **config: object) -> Path:
    """A classifier with two layers and a vocabulary of a few dozen words, saved as a fine-tuned one would be."""
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLER, *WORDS["good"], *WORDS["bad"]]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(vocabulary), max_position_embeddings=128, initializer_range=0.2, **sizes, **config)
    )
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=128)
    assert tokenizer.is_fast
    assert tokenizer.tokenize("the Lovely film") == ["the", "lovely", "film"]
    tokenizer.save_pretrained(folder)
    return folder


def write_data(path: Path, rows: int, seed: int) -> Path:
    """Texts of many lengths; each holds three words that give its label away."""
    choose = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for row in range(rows):
            label = ("bad", "good")[row % 2]
            words = choose.choices(FILLER, k=choose.randint(1, 9)) + choose.choices(WORDS[label], k=3)
            choose.shuffle(words)
            writer.writerow((" ".join(words), row % 2))
    return path


def tokenized_texts(tokenizer: PreTrainedTokenizerBase, count: int) -> Dataset:
    """Labelled texts of many lengths, made of words that the model of :func:`write_model` knows."""
    texts = [" ".join(["the film was fine"] * (1 + i % 5)) + " dull" * (i % 3) for i in range(count)]
    return tokenize(Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(count)]}), tokenizer)


def unseal(folder: Path) -> Path:
    """Removes the digests of a model, so that what lies behind their check can be tested."""
    config = json.loads((folder / "config.json").read_text())
    config.get("quantization_config", {}).pop("digests", None)
    (folder / "config.json").write_text(json.dumps(config))
    for file in folder.rglob("*.safetensors"):
        save_file(load_file(file), file, {"format": "pt"})
    return folder


def files(folder: Path) -> list[str]:
    """The data options for the files of :func:`write_data` in ``folder``."""
    return ["--train-file", str(folder / "train.csv"), "--validation-file", str(folder / "validation.csv")]


def run(*arguments: object) -> Result:
    """Runs a command inside this process, on one thread, with the libraries as quiet as ``main`` makes them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only lose time on more
    verbosity = transformers.logging.get_verbosity()
    silence_libraries()
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()
        datasets.enable_progress_bars()
        torch.set_num_threads(threads)


def succeed(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


@contextmanager
def start(*arguments: object, log: Path, temporary: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command in its own process, which draws its progress bars into ``log`` as if that were a terminal."""
    environment = {**os.environ, "TTY_COMPATIBLE": "1", "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "bertsurgeon", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
