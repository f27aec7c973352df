"""Budgets in time: measured costs on this machine, and a plan that comes as close as possible to a speedup."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark import Timer
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import time_batches
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.costs import Milliseconds
from bertsurgeon.methods.auto.latency_model import DeploymentTarget
from bertsurgeon.plan import ModelPlan

TOLERANCE = 0.01
"""Largest relative difference between the measured speedup and the one asked for."""

ROUNDS = 6
"""Plans that are tried at most."""

_SECONDS = 0.04  # of measuring, per size


def measure_milliseconds(step: Callable[[], object]) -> float:
    """Median time of calling ``step``, in milliseconds."""
    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return 1e3 * float(timer.blocked_autorange(min_run_time=_SECONDS).median)


def measure_costs(
    model: PreTrainedModel,
    batch_size: int,
    length: int,
    measure: Callable[[Callable[[], object]], float] = measure_milliseconds,
) -> Milliseconds:
    """Times products of all sizes that occur, attention and activations, with PyTorch on the model's device.

    Args:
        model: The dense model.
        batch_size: Texts in a batch.
        length: Tokens of each text.
        measure: Returns the milliseconds that a function takes.
    """
    encoder = Encoder(model)
    shapes = encoder.shapes[0]
    hidden, inner = shapes["query"][1], shapes["intermediate"][0]
    width, channels = encoder.head_width, shapes["query"][0]
    sizes = sorted({8, 16, 32, 64, hidden // 4, hidden // 2, hidden, *(inner // k for k in (1, 2, 4))})

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=model.device, dtype=model.dtype)

    def time_product(outputs: int, inputs: int) -> float:
        x, w = draw(batch_size, length, inputs), draw(outputs, inputs)
        return measure(lambda: F.linear(x, w))

    with torch.inference_mode():
        pairs = [(outputs, inputs) for outputs in sizes for inputs in sizes]
        times = {pair: time_product(*pair) for pair in progress.track(pairs, "Timing products of every size")}
        heads = draw(batch_size, channels // width, length, width)
        attention = measure(lambda: F.scaled_dot_product_attention(heads, heads, heads))
        activations = draw(batch_size, length, inner)
        activation = measure(lambda: F.gelu(activations))
    return Milliseconds(
        tuple(sizes),
        tuple(tuple(times[outputs, inputs] for inputs in sizes) for outputs in sizes),
        {"attention": attention / channels, "feed_forward": activation / inner},
    )


def meet_speedup(
    model: PreTrainedModel, speedup: float, plan_for: Callable[[float], ModelPlan], target: DeploymentTarget
) -> ModelPlan:
    """Finds a plan that runs ``speedup`` times as fast as the dense model, embeddings and head included.

    Costs add up only roughly, so every plan is timed (its weights do not matter) and the share corrected. Where a share
    leaves nothing of the encoder, a larger one is tried. If no plan comes within ``TOLERANCE`` of the speedup, the
    closest one is returned, and a note reports the speedup that it reaches.

    Args:
        model: The dense model.
        speedup: Ratio of the dense model's time to the pruned one's.
        plan_for: Returns a plan whose encoder takes a share of the dense encoder's time; raises ``OptionError`` if that
            leaves nothing.
        target: Where the models are timed.

    Raises:
        OptionError: If every share that was tried leaves nothing of the encoder.
    """
    dense = target.open(model)
    share, smallest, too_small = 1 / speedup, 1.0, 0.0  # shares that leave something, and that leave nothing
    best: tuple[float, float, ModelPlan] | None = None
    fastest = 0.0
    for _ in range(ROUNDS):
        try:
            plan = plan_for(share)
        except OptionError:
            too_small = max(too_small, share)
            share = math.sqrt(too_small * smallest)
            continue
        smallest = min(smallest, share)
        latencies = time_batches({"dense": dense, "pruned": target.open(model, plan)}, [target.batch], runs=30)
        measured = latencies["dense"].p50_ms / latencies["pruned"].p50_ms
        fastest = max(fastest, measured)
        miss = abs(measured / speedup - 1)
        if best is None or miss < best[0]:
            best = miss, measured, plan
        if miss <= TOLERANCE:
            break
        share = min(0.99, share * measured / speedup)
        if share <= too_small:
            share = math.sqrt(too_small * smallest)
    if best is None:
        raise OptionError(f"A speedup of {speedup:g} leaves nothing of the encoder; ask for a lower speedup.")
    miss, measured, plan = best
    if miss > TOLERANCE:
        cause = (
            "a smaller encoder does not make the rest of the model faster"
            if fastest < speedup
            else "the machine may be busy"
        )
        progress.warn(f"The plan reaches a speedup of {measured:.2f} where {speedup:g} was asked for: {cause}.")
    return plan
