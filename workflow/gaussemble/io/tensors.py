"""Files of tensors, as torch writes them."""

import io
from pathlib import Path
from typing import Any

import torch

from gaussemble.io.files import written


def write_tensors(path: Path, value: Any) -> None:
    """Write what `torch.save` can; through memory, as torch's own writing on a full disk raises no OSError."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with written(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
