"""Where training runs."""

from typing import Literal

import torch

from gaussemble.errors import InputError

DeviceName = Literal["auto", "cpu", "cuda"]


def choose_device(name: DeviceName, number: int = 0) -> torch.device:
    """The GPU when there is one, unless the CPU is asked for; `number`: which of this machine's.

    Raises:
        InputError: a GPU is asked for that is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for, but torch sees no GPU; use auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if number >= torch.cuda.device_count():
        raise InputError(
            f"process {number} of torchrun found {torch.cuda.device_count()} GPU(s); start at most one process for each"
        )
    gpu = torch.device("cuda", number)
    torch.cuda.set_device(gpu)
    return gpu
