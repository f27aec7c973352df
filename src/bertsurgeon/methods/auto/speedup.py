"""Budgets in time: measured costs on this machine, and a plan that is as fast as asked for."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark import Timer
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import time_batches
from bertsurgeon.methods.auto.costs import Milliseconds
from bertsurgeon.methods.auto.latency_model import DeploymentTarget
from bertsurgeon.plan import ModelPlan

TOLERANCE = 0.01
"""How close to the wanted speed-up the measured one must come."""

_ROUNDS = 6
_SECONDS = 0.04  # of measuring, per size


def measure_costs(model: PreTrainedModel, batch_size: int, length: int) -> Milliseconds:
    """Times products of all sizes that occur, attention and activations, with PyTorch on the model's device.

    Args:
        model: The dense model.
        batch_size: Texts in a batch.
        length: Tokens of each.
    """
    encoder = Encoder(model)
    shapes = encoder.shapes[0]
    hidden, inner = shapes["query"][1], shapes["intermediate"][0]
    width, channels = encoder.head_width, shapes["query"][0]
    sizes = sorted({8, 16, 32, 64, hidden // 4, hidden // 2, hidden, *(inner // k for k in (1, 2, 4))})

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=model.device, dtype=model.dtype)

    def product(outputs: int, inputs: int) -> float:
        x, w = draw(batch_size, length, inputs), draw(outputs, inputs)
        return _milliseconds(lambda: F.linear(x, w))

    with torch.inference_mode():
        pairs = [(outputs, inputs) for outputs in sizes for inputs in sizes]
        times = {pair: product(*pair) for pair in progress.track(pairs, "Timing products of every size")}
        heads = draw(batch_size, channels // width, length, width)
        attention = _milliseconds(lambda: F.scaled_dot_product_attention(heads, heads, heads))
        activations = draw(batch_size, length, inner)
        activation = _milliseconds(lambda: F.gelu(activations))
    return Milliseconds(
        tuple(sizes),
        tuple(tuple(times[outputs, inputs] for inputs in sizes) for outputs in sizes),
        {"attention": attention / channels, "feed_forward": activation / inner},
    )


def meet_speedup(
    model: PreTrainedModel, speedup: float, plan_for: Callable[[float], ModelPlan], place: DeploymentTarget
) -> ModelPlan:
    """A plan that runs ``speedup`` times as fast as the dense model, embeddings and head included.

    Costs add up only roughly, so every plan is timed (its weights do not matter) and the share corrected.

    Args:
        model: The dense model.
        speedup: Wanted ratio of times.
        plan_for: The plan whose encoder costs a share of the dense one's time.
        place: Where to time.
    """
    share = 1 / speedup
    best: tuple[float, ModelPlan] | None = None
    dense = place.open(model)
    for _ in range(_ROUNDS):
        plan = plan_for(share)
        measured = time_batches({"dense": dense, "pruned": place.open(model, plan)}, [place.batch], runs=30)
        found = measured["dense"].p50_ms / measured["pruned"].p50_ms
        miss = abs(found / speedup - 1)
        if best is None or miss < best[0]:
            best = miss, plan
        if miss <= TOLERANCE:
            break
        share = min(0.99, share * found / speedup)
    assert best is not None
    if best[0] > TOLERANCE:
        progress.note(f"The speed-up asked for was met to within {100 * best[0]:.0f} % only; the machine may be busy.")
    return best[1]


def _milliseconds(step: Callable[[], object]) -> float:
    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return 1e3 * float(timer.blocked_autorange(min_run_time=_SECONDS).median)
