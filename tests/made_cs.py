"""Files of cryoSPARC and cryoDRGN, and rotations by formulas that the package does not use."""

from pathlib import Path

import numpy as np
from scipy.linalg import logm


def relion_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    """RELION's matrix of its Euler angles (degrees), written out: x_view = A x_volume (Heymann et al. 2005)."""
    ca, cb, cg = np.cos(np.deg2rad([rot, tilt, psi]))
    sa, sb, sg = np.sin(np.deg2rad([rot, tilt, psi]))
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def exponential(vector: np.ndarray) -> np.ndarray:
    """The matrix of a rotation vector by Rodrigues' formula, counter-clockwise seen against the axis."""
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def logarithm(matrix: np.ndarray) -> np.ndarray:
    """The rotation vector of a matrix (not of half a turn)."""
    cross = np.real(logm(matrix))
    return np.array([cross[2, 1], cross[0, 2], cross[1, 0]])


def layout(count: int, path: str = "J7/extract/stack.mrc", box: int = 16, pixel_size: float = 1.5) -> dict:
    """The fields of `count` particles of a refinement, by name."""
    rng = np.random.default_rng(7)
    zero = np.zeros(count, "f4")
    return {
        "uid": rng.integers(1, 2**63, count).astype("u8"),
        "blob/path": np.array([path.encode()] * count),
        "blob/idx": np.arange(count, dtype="u4"),
        "blob/shape": np.full((count, 2), box, "u4"),
        "blob/psize_A": np.full(count, pixel_size, "f4"),
        "blob/sign": np.full(count, -1, "f4"),
        "ctf/type": np.array([b"imported"] * count),
        "ctf/exp_group_id": np.full(count, 3, "u4"),
        "ctf/accel_kv": np.full(count, 300, "f4"),
        "ctf/cs_mm": np.full(count, 2.7, "f4"),
        "ctf/amp_contrast": np.full(count, 0.1, "f4"),
        "ctf/df1_A": (12000 + 100 * np.arange(count)).astype("f4"),
        "ctf/df2_A": (11000 + 100 * np.arange(count)).astype("f4"),
        "ctf/df_angle_rad": np.linspace(-1.5, 1.5, count).astype("f4"),
        "ctf/phase_shift_rad": zero,
        "ctf/scale": zero + 1,
        "ctf/tilt_A": np.zeros((count, 2), "f4"),
        "ctf/bfactor": zero,
        "alignments3D/split": (np.arange(count) // 2 % 2).astype("u4"),
        "alignments3D/shift": rng.uniform(-3, 3, (count, 2)).astype("f4"),
        "alignments3D/pose": rng.uniform(-1.7, 1.7, (count, 3)).astype("f4"),
        "alignments3D/psize_A": np.full(count, pixel_size, "f4"),
        "alignments3D/alpha": zero + 1,
    }


def structured(fields: dict) -> np.ndarray:
    """The table that a .cs file holds."""
    table = np.zeros(
        len(next(iter(fields.values()))), [(name, each.dtype, each.shape[1:]) for name, each in fields.items()]
    )
    for name, each in fields.items():
        table[name] = each
    return table


def write_cs(path: Path, fields: dict) -> Path:
    """A .cs file on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.save(file, structured(fields))
    return path
