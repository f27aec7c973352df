"""Several processes that do one job: who does which part, and how the parts come together.

``torchrun`` or ``accelerate launch`` start them. Every process is given the same model and the same data, takes its
part, and ends with the same result; the first one alone writes and prints. The collectives are torch.distributed's. In
a single process all of this does nothing.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bertsurgeon.errors import BertSurgeonError, OptionError

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""How long processes wait for each other; the first one may plan, measure and write meanwhile."""

_store: Any = None  # torch's Store, in which processes leave notes
_alone = 0


def launched_world_size() -> int:
    """How many processes a launcher started, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def init() -> None:
    """Meets the other processes that a launcher started; on CPUs by gloo, on GPUs by NCCL."""
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
    """Ends what :func:`init` began, once all processes are done."""
    global _store
    if _store is not None:
        dist.barrier()
        dist.destroy_process_group()
        _store = None


def world_size() -> int:
    """Processes that share the work."""
    return 1 if _alone or not dist.is_available() or not dist.is_initialized() else int(dist.get_world_size())


def rank() -> int:
    """Which of them this one is, from 0."""
    return 0 if world_size() == 1 else int(dist.get_rank())


def is_main() -> bool:
    """Whether this is the one process that writes and prints."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def is_first_to_fail() -> bool:
    """Tells the others that this process failed; true in one process only, which says why."""
    if _store is None:
        return True
    try:
        return int(_store.add("failed", 1)) == 1
    except RuntimeError:  # whoever keeps the store is gone already
        return False


@contextmanager
def disabled() -> Iterator[None]:
    """What happens inside is this process' own business: nothing is shared, nobody is waited for."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


def shard(items: Sequence[T]) -> list[T]:
    """This process' share: every n-th item, so that texts sorted by length are dealt evenly."""
    return list(items[rank() :: world_size()])


def all_gather(items: Sequence[T]) -> list[T]:
    """Undoes :func:`shard`: the items of all processes, in their first order."""
    if world_size() == 1:
        return list(items)
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, list(items))
    return [parts[number % len(parts)][number // len(parts)] for number in range(sum(map(len, parts)))]


def all_reduce(tensor: Tensor) -> None:
    """Sums a tensor of all processes, in place."""
    if world_size() == 1:
        return
    if tensor.is_cuda or dist.get_backend() != dist.Backend.NCCL:
        dist.all_reduce(tensor)
        return
    moved = tensor.cuda()  # somebody else made the process group, for GPUs alone
    dist.all_reduce(moved)
    tensor.copy_(moved)


def any_process(found: bool) -> bool:
    """Whether something is so in any process."""
    total = torch.tensor(float(found))
    all_reduce(total)
    return bool(total > 0)


def run_on_main(step: Callable[[], T]) -> T:
    """What ``step`` returns in the first process, in all of them; the others wait.

    Raises:
        BertSurgeonError: What ``step`` raised, in all distributed.
        RuntimeError: In the others, if it raised anything else.
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
            known = isinstance(error, BertSurgeonError)
            outcome[1] = error if known else RuntimeError(f"The first process failed: {error}")
    dist.broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that all processes see while the ``with`` block lasts; on several machines it must be shared by them."""
    folder = run_on_main(lambda: Path(tempfile.mkdtemp(prefix="bertsurgeon-")))
    try:
        yield folder
        run_on_main(lambda: None)  # nobody needs it any more
    finally:
        if rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


def check_enough(items: Sequence[Any], what: str) -> None:
    """Checks that every process gets some of the work.

    Raises:
        OptionError: If there are more processes than items.
    """
    if len(items) < world_size():
        raise OptionError(
            f"There are {len(items)} {what} for {world_size()} processes; start fewer processes, or give more data."
        )
