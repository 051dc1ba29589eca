"""Small particle STAR files and stacks, written by hand so that they do not depend on what is tested."""

import struct
from pathlib import Path

import numpy as np

OPTICS = {
    "rlnOpticsGroup": ["1"],
    "rlnOpticsGroupName": ["first"],
    "rlnVoltage": ["300.0"],
    "rlnSphericalAberration": ["2.7"],
    "rlnAmplitudeContrast": ["0.1"],
    "rlnImagePixelSize": ["1.5"],
    "rlnImageSize": ["16"],
    "rlnImageDimensionality": ["2"],
}


def rows(count: int, stack: str = "stack.mrcs", **columns) -> dict:
    """Columns of `count` particles of a RELION 3.1 refinement; others are added or, if None, left out."""
    table = {
        "rlnImageName": [f"{i + 1:06d}@{stack}" for i in range(count)],
        "rlnAngleRot": [f"{10.0 * i:.6f}" for i in range(count)],
        "rlnAngleTilt": [f"{5.0 * i:.6f}" for i in range(count)],
        "rlnAnglePsi": [f"{-20.0 * i:.6f}" for i in range(count)],
        "rlnOriginXAngst": [f"{0.5 * i:.6f}" for i in range(count)],
        "rlnOriginYAngst": [f"{-0.25 * i:.6f}" for i in range(count)],
        "rlnDefocusU": [f"{10000 + i}" for i in range(count)],
        "rlnDefocusV": [f"{9000 + i}" for i in range(count)],
        "rlnDefocusAngle": ["45.0"] * count,
        "rlnOpticsGroup": ["1"] * count,
    }
    table |= {name: [str(value)] * count if np.isscalar(value) else value for name, value in columns.items()}
    return {name: values for name, values in table.items() if values is not None}


def star_text(particles: dict, optics: dict | None = OPTICS, block: str = "particles") -> str:
    """A STAR file."""
    blocks = ([("optics", optics)] if optics else []) + [(block, particles)]
    text = "\n# version 30001\n"
    for name, table in blocks:
        labels = "\n".join(f"_{label} #{i + 1}" for i, label in enumerate(table))
        lines = "\n".join("  ".join(map(str, line)) for line in zip(*table.values(), strict=True))
        text += f"\ndata_{name}\n\nloop_ \n{labels} \n{lines} \n\n"
    return text


def write_star_text(path: Path, particles: dict, optics: dict | None = OPTICS, block: str = "particles") -> Path:
    """A STAR file on disk."""
    path.write_text(star_text(particles, optics, block))
    return path


def write_mrc(path: Path, data: np.ndarray, pixel_size: float = 0.0, **header) -> Path:
    """An MRC file byte by byte (MRC2014): `data` (section, row, column) of a type that has a mode.

    `header` may hold order ("<" or ">"), axes (of columns, rows, sections), start (same order), origin (x, y, z),
    extended (bytes).
    """
    order, axes = header.get("order", "<"), header.get("axes", (1, 2, 3))
    mode = {"i1": 0, "i2": 1, "f4": 2, "c8": 4, "u2": 6, "f2": 12}[data.dtype.str[1:]]
    size = data.shape[::-1]
    grid = [size[axes.index(axis)] if axis in axes else 0 for axis in (1, 2, 3)]
    packed = bytearray(1024)
    struct.pack_into(f"{order}10i", packed, 0, *size, mode, *header.get("start", (0, 0, 0)), *grid)
    struct.pack_into(f"{order}6f", packed, 40, *(n * pixel_size for n in grid), 90, 90, 90)
    struct.pack_into(f"{order}3i", packed, 64, *axes)
    struct.pack_into(f"{order}2i", packed, 88, 0, len(header.get("extended", b"")))
    struct.pack_into(f"{order}3f", packed, 196, *header.get("origin", (0, 0, 0)))
    packed[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    path.write_bytes(
        bytes(packed) + header.get("extended", b"") + data.astype(data.dtype.newbyteorder(order)).tobytes()
    )
    return path
