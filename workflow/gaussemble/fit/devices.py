"""Where training runs."""

from typing import Literal

import torch

from gaussemble.errors import InputError

DeviceName = Literal["auto", "cpu", "cuda"]


def choose_device(name: DeviceName) -> torch.device:
    """The GPU when there is one, unless the CPU is asked for; raises InputError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for, but torch sees no GPU; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
