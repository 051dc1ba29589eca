"""How many particles a file holds, and how large their images are, from its first bytes.

For what a job asks of a cluster an estimate will do, and it must be quick: the workflow is read again in every job. So
rows of a STAR file are counted by their mean length. Imports nothing but the standard library, for the workflow reads
this file by itself, where numpy may not be. What cannot be read here, the stage `particles` complains about.
"""

import ast
import math
import re
import struct
from pathlib import Path

HEAD = 1 << 18  # bytes
UNKNOWN = (100_000, 256)


def size_of(path, poses=None):
    """(particles, pixels of an image's edge) of a STAR file, .cs, stack, or list of stacks with cryoDRGN's poses."""
    readers = {".cs": cs_size, ".mrc": stack_size, ".mrcs": stack_size, ".txt": list_size}
    reader = readers.get(Path(path).suffix, star_size)
    try:
        particles, box = reader(Path(path), Path(poses or "")) if reader is list_size else reader(Path(path))
    except (OSError, TypeError, ValueError, KeyError, IndexError, SyntaxError, struct.error):
        particles = box = None
    return particles or UNKNOWN[0], box or UNKNOWN[1]


def head_of(path, size=HEAD):
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(size)


def star_size(path):
    """Of RELION's STAR file: the rows of its largest table, and rlnImageSize where it is there."""
    head, rows, box = head_of(path), 0, None
    for table in re.split(rb"^data_.*$", head, flags=re.MULTILINE)[1:]:
        lines = [line.split() for line in table.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
        columns = [line[0] for line in lines if line[0].startswith(b"_")]
        values = [line for line in lines if len(line) == len(columns) > 0 and not line[0].startswith(b"_")]
        if values and b"_rlnImageSize" in columns:
            box = max(int(float(line[columns.index(b"_rlnImageSize")])) for line in values[:10])
        rows = max(rows, len(values))
        beyond = path.stat().st_size - len(head)
        if beyond > 0 and head.endswith(table) and len(values) > 1:  # the last table goes on
            first = table.index(b" ".join(values[0][:1]))
            rows = max(rows, round(len(values) * (1 + beyond / (len(table) - first))))
    return rows, box


def cs_size(path):
    """Of cryoSPARC's .cs, which is numpy's .npy of a structured array: rows, and blob/shape of the first."""
    head = head_of(path)
    length, start = (
        (*struct.unpack_from("<H", head, 8), 10) if head[6] == 1 else (*struct.unpack_from("<I", head, 8), 12)
    )
    described = ast.literal_eval(head[start : start + length].decode())
    place = start + length
    for name, kind, *shape in described["descr"]:
        if name == "blob/shape":
            return described["shape"][0], max(struct.unpack_from("<2I", head, place))
        place += int(re.sub(r"\D", "", kind)) * math.prod(shape[0] if shape else ())
    return described["shape"][0], None


def stack_size(path):
    """Of an MRC stack, in either byte order."""
    orders = [struct.unpack(order + "3i", head_of(path, 12)) for order in "<>"]
    columns, _, sections = min(orders, key=lambda order: abs(order[0]))
    return sections, columns


def list_size(path, poses):
    """Of a list of stacks, whose poses.pkl has at least eleven numbers of 4 bytes for a particle."""
    first = head_of(path).decode().split("\n")[0].strip()
    return poses.stat().st_size // 44, stack_size(path.parent / first)[1]


def copies(symmetry):
    """How many views symmetry expansion makes of a particle: the order of a group of rotations."""
    name = symmetry.strip().upper()
    fixed = {"T": 12, "O": 24, "I": 60}
    number = int(re.sub(r"\D", "", name) or 1)
    return fixed.get(name[:1]) or number * (2 if name.startswith("D") else 1)
