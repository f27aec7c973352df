"""Work that several processes share: who computes which part, and how the results are combined.

``torchrun`` or ``accelerate launch`` start the processes. Each of them is given the same model and the same data,
computes its part, and ends with the same result; the main process alone writes and prints.

The collectives are those of torch.distributed. This module adds what neither torch nor accelerate has: sharding with a
fixed order, a step of the main process whose result or error all processes get, an error message of the first process
that fails, and a way to switch sharing off. accelerate's collectives do not serve here: on CPUs, ``PartialState`` takes
processes started by ``torchrun`` for a single one unless it is configured otherwise, and its ``gather_object`` and
``reduce`` then return each process' own values; it creates a process group even for a single process; and ``reduce``
copies the tensor. In a single process, nothing here creates or uses a process group.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bertsurgeon import storage
from bertsurgeon.errors import BertSurgeonError, OptionError

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""Longest wait for other processes; the main process may plan, measure and write meanwhile."""

_store: Any = None  # torch's Store with messages between processes; None if init() made no process group
_disabled = 0  # depth of disabled() blocks


def launched_world_size() -> int:
    """Returns the number of processes that a launcher started, 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def init() -> None:
    """Creates the process group if a launcher started several processes: gloo on CPUs, NCCL on GPUs."""
    global _store
    if launched_world_size() == 1 or dist.is_initialized():
        return
    store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]  # public, but not in __all__
    _store = dist.PrefixStore("bertsurgeon", store)  # type: ignore[attr-defined]
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)


def shutdown() -> None:
    """Destroys the process group that :func:`init` created, once all processes have called this."""
    global _store
    if _store is not None:
        dist.barrier()
        dist.destroy_process_group()
        _store = None


def world_size() -> int:
    """Returns the number of processes that share the work, 1 inside :func:`disabled`."""
    return 1 if _disabled or not dist.is_available() or not dist.is_initialized() else int(dist.get_world_size())


def rank() -> int:
    """Returns the index of this process among those that share the work, from 0."""
    return 0 if world_size() == 1 else int(dist.get_rank())


def is_main() -> bool:
    """Returns True in the one process that writes and prints, also inside :func:`disabled`."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def is_first_to_fail() -> bool:
    """Records that this process failed, and returns True if no other process did before.

    The first process to fail prints the error; the others, which often fail because of it, print nothing.
    """
    if _store is None:
        return True
    try:
        return int(_store.add("failed", 1)) == 1
    except RuntimeError:  # the process that holds the store has ended
        return False


@contextmanager
def disabled() -> Iterator[None]:
    """Switches sharing off: inside the ``with`` block, this process computes everything and waits for no other."""
    global _disabled
    _disabled += 1
    try:
        yield
    finally:
        _disabled -= 1


def shard(items: Sequence[T]) -> list[T]:
    """Returns every n-th item for n processes: if items are sorted by length, all shards take about the same time."""
    return list(items[rank() :: world_size()])


def all_gather(items: Sequence[T]) -> list[T]:
    """Returns the items of all processes in the order they had before :func:`shard`."""
    if world_size() == 1:
        return list(items)
    shards: list[Any] = [None] * world_size()
    dist.all_gather_object(shards, list(items))
    return [shards[index % len(shards)][index // len(shards)] for index in range(sum(map(len, shards)))]


def all_reduce(tensor: Tensor) -> None:
    """Replaces a tensor by its sum over all processes, in place."""
    if world_size() == 1:
        return
    if tensor.is_cuda or dist.get_backend() != dist.Backend.NCCL:
        dist.all_reduce(tensor)
        return
    moved = tensor.cuda()  # the caller created the process group, with NCCL alone
    dist.all_reduce(moved)
    tensor.copy_(moved)


def any_process(condition: bool) -> bool:
    """Returns True if the condition holds in any process."""
    total = torch.tensor(float(condition))
    all_reduce(total)
    return bool(total > 0)


def run_on_main(step: Callable[[], T]) -> T:
    """Runs ``step`` in the main process while the others wait, and returns its result in all processes.

    Args:
        step: Function without arguments, whose result can be pickled.

    Raises:
        BertSurgeonError: If ``step`` raised it; the same error in all processes.
        RuntimeError: In the other processes, if ``step`` raised anything else.
    """
    if world_size() == 1:
        return step()
    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if rank() == 0:
        try:
            with disabled():
                outcome[0] = step()
        except Exception as error:
            failure = error
            expected = isinstance(error, BertSurgeonError)
            outcome[1] = error if expected else RuntimeError(f"The main process failed: {error}")
    dist.broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Creates a folder that all processes share during the ``with`` block.

    With several machines, the folder of temporary files (``TMPDIR``) must be shared by them.
    """
    with ExitStack() as stack:
        folder = run_on_main(lambda: stack.enter_context(storage.temporary_folder()))
        yield folder
        run_on_main(lambda: None)  # waits until no process needs the folder


def check_enough(items: Sequence[Any], noun: str) -> None:
    """Checks that there is at least one item for each process.

    Args:
        items: What is shared.
        noun: Plural name of the items, for the error message.

    Raises:
        OptionError: If there are more processes than items.
    """
    if len(items) < world_size():
        raise OptionError(
            f"There are {len(items)} {noun} for {world_size()} processes; start fewer processes, or provide more data."
        )
