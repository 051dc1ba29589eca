"""Several processes that train together: one for each GPU, started by `torchrun --nproc-per-node N -m gaussemble ...`.

Each takes its share of every batch and of every pass over the particles; gradients and sums are exchanged, so all hold
the same weights. Only the first one writes and speaks. Without torchrun there is one process, and nothing here does
anything.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import timedelta
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn

from gaussemble.fit.devices import DeviceName, choose_device

PATIENCE = timedelta(hours=2)  # how long one process waits for another


@contextmanager
def workers(name: DeviceName) -> Iterator[torch.device]:
    """Join the other processes, if there are any; yields the device of this one.

    What processes other than the first say within the block is not shown; their errors are.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield choose_device(name)
        return
    device = choose_device(name, int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stderr(sys.stderr if is_first() else nowhere):
            yield device
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    """How many work together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes the files and says what goes on."""
    return rank() == 0


def share(count: int) -> slice:
    """This process's part of so many things: consecutive ones, as many for each process to within one."""
    return slice(rank() * count // processes(), (rank() + 1) * count // processes())


def combine(values: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*axes"]:
    """The sum over the processes, of tensors of one shape; each holds zeros where it has computed nothing."""
    if processes() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total


def from_first(text: str) -> str:
    """A text that the first process has."""
    if processes() == 1:
        return text
    holder = torch.zeros(4096, dtype=torch.uint8)
    encoded = text.encode()
    holder[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
    distributed.broadcast(holder, 0)
    return bytes(holder.tolist()).rstrip(b"\0").decode()


def barrier() -> None:
    """Wait until all processes are here."""
    if processes() > 1:
        combine(torch.zeros(1))


def parallel(module: nn.Module) -> nn.Module:
    """The module with its parameters' gradients averaged over the processes."""
    if processes() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, forward_sync_buffers=False)  # at the start they are made equal
