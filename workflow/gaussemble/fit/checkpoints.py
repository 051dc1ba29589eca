"""Checkpoints of a training: whole or not there, for the same settings and data only, without code inside."""

import hashlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor

from gaussemble.progress import say

FORMAT = 1
PACKAGE = Path(__file__).resolve().parents[1]
CODE = ("fit", "model", "physics")  # the parts of the package that a training's numbers come from


def fingerprint(*parts: Any) -> str:
    """A digest of tensors, tables of them and whatever repr() tells apart, and of the code that computes with them."""
    digest = hashlib.sha256()
    for part in parts:
        _add(digest, part)
    for folder in CODE:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _add(digest: Any, part: Any) -> None:
    """One part; each with a mark of its kind and length, so that no two sequences of parts look alike."""
    if isinstance(part, Tensor):
        array = part.detach().cpu().contiguous()
        digest.update(f"tensor {array.dtype} {tuple(array.shape)} ".encode())
        digest.update(array.numpy().tobytes())
        return
    text = repr(part).encode()
    digest.update(f"text {len(text)} ".encode() + text)


def write_checkpoint(path: Path, digest: str, content: dict[str, Any]) -> None:
    """Put a checkpoint in the place of an older one, in one step that a crash or power cut does not halve.

    Where it cannot be written, that is said and training goes on: the next one may succeed.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "digest": digest, **content}, buffer)
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        say(f"{path}: no checkpoint could be written ({error.strerror or error}); going on without")


def read_checkpoint(path: Path, digest: str) -> dict[str, Any] | None:
    """What was written for this digest; None, and a line that says why, where there is nothing to go on from."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        if content["format"] != FORMAT or content["digest"] != digest:
            say(f"{path}: a checkpoint of other options, particles or code; training begins anew")
            return None
    except Exception as error:  # torch names no common class for what is wrong with a file  # noqa: BLE001
        say(f"{path}: the checkpoint cannot be read ({type(error).__name__}); training begins anew")
        return None
    return content


def remove_checkpoint(path: Path | None) -> None:
    """Take away a checkpoint, what writing it may have left, and its folder if that is empty then."""
    if path is None or not path.parent.is_dir():
        return
    for leftover in (path, _part(path)):
        leftover.unlink(missing_ok=True)
    if not any(path.parent.iterdir()):
        path.parent.rmdir()


@contextmanager
def signals_noted(noted: bool) -> Iterator[list[int]]:
    """A list to which SIGTERM and SIGINT are added in the block instead of ending the process at once.

    Nothing is noted where `noted` is false or outside the main thread, where signals cannot be.
    """
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    if not noted or threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int) -> NoReturn:
    """End as the signal would have had it: KeyboardInterrupt, or exit code 128 + its number."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _part(path: Path) -> Path:
    """Where a checkpoint is written first; always the same, so that a killed process leaves at most one."""
    return path.with_name(f".{path.name}.part")


def _sync_folder(folder: Path) -> None:
    """Make the new name last, where folders can be synchronised."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
