"""Particles of cryoDRGN: a stack or a list of stacks, poses.pkl, ctf.pkl; and indices.pkl of a subset.

Pickles are programs that build Python objects. Here one is read by an interpreter that knows four names (a NumPy
array, its type, its buffer, bytes) and makes plain records of them, of which arrays of numbers are then built; any
other name ends the reading before anything of it runs.

Conventions (cryoDRGN's utils.R_from_relion, parse_pose_star.py, pose.py, ctf.py)
    poses.pkl   (rotations (n,3,3), translations (n,2)), or rotations alone. The rotation is the matrix of RELION's
                Euler angles, `x_view = R x_volume`: four signs that R_from_relion turns are those of a change of
                axes by diag(1,-1,1), after which Rz(psi) Ry Rz(rot) of its text is Rz(-psi) Ry(-tilt) Rz(-rot).
                The translation is RELION's origin, as a fraction of the box.
    ctf.pkl     (n,9): box, Å per pixel, defocus U, V (Å), angle (degrees), kV, Cs (mm), amplitude contrast, phase
                shift (degrees). Box and pixel are those of the images before downsampling: their product counts.
    Contrast    cryoDRGN turns the sign of the images by default; nothing in the files says which it is.
"""

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from gaussemble.errors import InputError
from gaussemble.io.mrc import read_stack_header
from gaussemble.io.optics import GROUP, optics_table
from gaussemble.io.star import IMAGE_NAME, StarFile, numbers

CTF = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
       "rlnPhaseShift")  # fmt: skip
OF_GROUP = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
REPLACED = ("rlnMagnification", "rlnDetectorPixelSize", "rlnPixelSize", "rlnImagePixelSize", "rlnCtfBfactor",
            "rlnCtfScalefactor", "rlnImageSize")  # fmt: skip
NUMBERS = "fiub"
ROUNDING = 1e-3  # of a rotation matrix in float32, or of one written with few digits


def read_images(path: Path, datadir: Path | None = None) -> StarFile:
    """The images of a stack (.mrc, .mrcs) or of a list of stacks (.txt, one path a line) in their order.

    Raises:
        InputError: no such file, no stack of that name, stacks of different image sizes.
    """
    stacks = _listed(path, datadir) if path.suffix == ".txt" else [(str(path), read_stack_header(path))]
    size = stacks[0][1].shape[-1]
    for name, stack in stacks:
        if stack.shape[1:] != (size, size):
            raise InputError(f"{name}: images of {stack.shape[2]} x {stack.shape[1]} pixels; expected {size} x {size}")
    names = [f"{index + 1:06d}@{name}" for name, stack in stacks for index in range(stack.shape[0])]
    columns = {"rlnImageSize": np.full(len(names), size), "rlnImageDimensionality": np.full(len(names), 2)}
    pixel_size = stacks[0][1].pixel_size
    if pixel_size is not None:
        columns["rlnImagePixelSize"] = np.full(len(names), pixel_size)
    optics, group = optics_table(columns)
    return StarFile(path, optics, pd.DataFrame({IMAGE_NAME: names, GROUP: group}))


def with_ctf(star: StarFile, path: Path) -> StarFile:
    """The particles with the CTF, the pixel size and the optics groups of ctf.pkl.

    Raises:
        InputError: not a ctf.pkl, or of another number of particles.
    """
    table = _one_array(path, "the CTF parameters of cryoDRGN (n, 9)")
    if table.ndim != 2 or table.shape[1] != 9:
        raise InputError(f"{path}: an array of shape {table.shape}; expected ctf.pkl of cryoDRGN, (n, 9)")
    _check_count(path, len(table), star)
    box, pixel_size = table[:, 0], table[:, 1]
    if (box < 1).any() or (pixel_size <= 0).any():
        raise InputError(f"{path}: a box or a pixel size that is not positive; expected ctf.pkl of cryoDRGN")
    size = numbers(star, "rlnImageSize")
    size = box if size is None else size
    columns = dict(zip(CTF, table[:, 2:].T, strict=True))
    shared = {name: columns.pop(name) for name in OF_GROUP}
    shared |= {"rlnImagePixelSize": box * pixel_size / size, "rlnImageSize": size}
    optics, group = optics_table(shared | {"rlnImageDimensionality": np.full(len(size), 2.0)})
    kept = star.particles.drop(columns=[*REPLACED, *OF_GROUP], errors="ignore")
    return replace(star, optics=optics, particles=kept.assign(**columns, **{GROUP: group}), block="particles")


def with_poses(star: StarFile, path: Path) -> tuple[StarFile, list[str]]:
    """The particles with the poses of poses.pkl, and sentences of what was assumed.

    Raises:
        InputError: not a poses.pkl, of another number of particles, matrices that are no rotations, translations
            that are no fractions of the box.
    """
    rotation, translation = _read_poses(path)
    _check_count(path, len(rotation), star)
    angles = np.rad2deg(euler_angles(rotation))
    columns = {f"rlnAngle{name}": angles[:, axis] for axis, name in enumerate(("Rot", "Tilt", "Psi"))}
    old = [f"rlnOrigin{axis}{unit}" for axis in "XYZ" for unit in ("", "Angst")]
    particles = star.particles.drop(columns=old, errors="ignore").assign(**columns)
    if translation is None:
        assumed = [f"{path}: no translations: the particles are taken as centred"]
        return replace(star, particles=particles.assign(rlnOriginXAngst=0.0, rlnOriginYAngst=0.0)), assumed
    size, pixel_size = numbers(star, "rlnImageSize"), numbers(star, "rlnImagePixelSize")
    if size is None:
        raise InputError(
            f"{star.path}: no rlnImageSize: the translations of {path} are fractions of the box; give ctf_file too"
        )
    shift, unit = translation * size[:, None], ""
    if pixel_size is not None:
        shift, unit = shift * pixel_size[:, None], "Angst"
    particles = particles.assign(**{f"rlnOrigin{axis}{unit}": shift[:, i] for i, axis in enumerate("XY")})
    return replace(star, particles=particles), []


def euler_angles(rotation: Float[np.ndarray, "image 3 3"]) -> Float[np.ndarray, "image 3"]:
    """RELION's rot, tilt, psi in radians of `x_view = rotation @ x_volume`; psi is 0 where tilt is 0 or pi."""
    # at these tilts only a sum of rot and psi is known, of which scipy warns; the rotation is right
    return Rotation.from_matrix(rotation).inv().as_euler("ZYZ", suppress_warnings=True)


def index_pickle(rows: Int[np.ndarray, " image"]) -> bytes:
    """Rows as `cryodrgn --ind` reads them: a pickled array, by the name that NumPy 1 and 2 both know."""
    text = pickle.dumps(np.asarray(rows, np.int64), protocol=2)
    return text.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)


def read_index(path: Path) -> Int[np.ndarray, " image"]:
    """(image,) int64 of indices.pkl."""
    return _one_array(path, "an array of rows").astype(np.int64)


def read_pickle(path: Path) -> Any:
    """Arrays of numbers, in lists and tuples as they stand, of a pickle; nothing in it is executed.

    Raises:
        InputError: no such file, not a pickle, anything but arrays in it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a .pkl of cryoDRGN")
    try:
        return _as_arrays(_ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except _RefusedError as error:
        raise InputError(f"{path}: {error}; expected arrays of numbers and nothing else, not read") from None
    except MemoryError:
        raise InputError(f"{path}: larger than the memory, or damaged; expected arrays of numbers") from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle ends in an error of almost any kind
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InputError(f"{path}: cannot be read as a pickle of arrays ({reason}); copy it again") from None


class _RefusedError(Exception):
    """Something in a pickle that is not an array."""


@dataclass
class _Type:
    """The type of an array's numbers, as the pickle gives it."""

    code: str
    order: str = "="

    def fill(self, state: Any) -> None:
        """The byte order."""
        self.order = state[1]

    def numpy(self) -> np.dtype:
        """The real type; only those of numbers."""
        if not isinstance(self.code, str) or self.order not in ("<", ">", "=", "|"):
            raise _RefusedError(f"an array of a type unknown here ({self.code!a:.50})")
        code = self.code.lstrip("<>=|")
        if not code or code[0] not in NUMBERS or not code[1:].isdigit():
            raise _RefusedError(f"an array of type {code!a:.50}")
        return np.dtype(code).newbyteorder(self.order)


@dataclass
class _Array:
    """An array, as the pickle gives it."""

    state: tuple = ()

    def fill(self, state: Any) -> None:
        """Version, shape, type, order of axes, bytes."""
        self.state = state

    def numpy(self) -> np.ndarray:
        """The real array, from its bytes."""
        _, shape, kind, by_column, data = self.state
        if not isinstance(kind, _Type):
            raise _RefusedError("an array without a type")
        data = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(data, (bytes, bytearray)):
            raise _RefusedError("an array of objects")
        array = np.frombuffer(bytes(data), kind.numpy())
        return array.reshape(shape, order="F" if by_column else "C").copy()


def _new_array(*_: Any) -> _Array:
    return _Array()


def _new_type(code: Any, *_: Any) -> _Type:
    return _Type(code)


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array((1, shape, kind, order == "F", data))


def _to_bytes(text: Any, encoding: Any) -> bytes:
    """As bytes stand in pickles of protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError("an encoding other than that of bytes")
    return text.encode("latin1")


def _array_class(*_: Any) -> None:
    raise _RefusedError("an array that is made in an unusual way")


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _array_class,
    ("numpy", "dtype"): _new_type,
    ("_codecs", "encode"): _to_bytes,
}
for _package in ("numpy.core", "numpy._core"):
    KNOWN[f"{_package}.multiarray", "_reconstruct"] = _new_array
    KNOWN[f"{_package}.numeric", "_frombuffer"] = _from_buffer


# The interpreter of the standard library in Python: the one in C can be made to fill the memory by a damaged number.
_Interpreter: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _ArraysOnly(_Interpreter):
    """An unpickler that knows arrays alone."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """The stand-in for a name of NumPy's."""
        if (module_name, global_name) not in KNOWN:
            name = f"{module_name}.{global_name}"[:100]
            raise _RefusedError(f"a pickle that wants {name!a}")
        return KNOWN[module_name, global_name]

    def call(self) -> None:
        """Call a stand-in."""
        arguments, function = self.stack.pop(), self.stack[-1]
        if not any(function is known for known in KNOWN.values()):
            raise _RefusedError("a pickle that calls what is no function")
        self.stack[-1] = function(*arguments)

    def fill(self) -> None:
        """Give a record its state; nothing else has one."""
        state, record = self.stack.pop(), self.stack[-1]
        if not isinstance(record, (_Array, _Type)):
            raise _RefusedError("a pickle that changes what is no array")
        record.fill(state)

    def buffer(self) -> None:
        """Bytes of an array, as many as there are; the library's own makes room for what is promised."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.stack.append(self.read(size))

    dispatch: ClassVar = _Interpreter.dispatch | {
        pickle.REDUCE[0]: call,
        pickle.BUILD[0]: fill,
        pickle.BYTEARRAY8[0]: buffer,
    }


def _as_arrays(value: Any) -> Any:
    """The real arrays of what was unpickled."""
    if isinstance(value, _Array):
        return value.numpy()
    if isinstance(value, (tuple, list)):
        return type(value)(map(_as_arrays, value))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise _RefusedError(f"a {type(value).__name__.strip('_').lower()} in the place of an array")


def _one_array(path: Path, what: str) -> np.ndarray:
    """The array of a pickle that holds one, as float64."""
    found = read_pickle(path)
    found = np.asarray(found) if isinstance(found, list) and all(isinstance(each, int) for each in found) else found
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path}: a {type(found).__name__}; expected {what}")
    return _finite(path, found)


def _finite(path: Path, array: np.ndarray) -> np.ndarray:
    """As float64, refused where a number is not finite."""
    wrong = ~np.isfinite(array)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0]) if array.ndim else 0
        raise InputError(f"{path}: row {row} (from 0): a number that is not finite ({int(wrong.sum())} such numbers)")
    return array.astype(np.float64)


def _read_poses(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(image, 3, 3) rotations, (image, 2) fractions of the box."""
    found = read_pickle(path)
    parts = list(found) if isinstance(found, (tuple, list)) else [found]
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, np.ndarray) for part in parts):
        raise InputError(f"{path}: expected poses.pkl of cryoDRGN: rotations (n, 3, 3) and translations (n, 2)")
    rotation, *rest = [_finite(path, part) for part in parts]
    count = len(rotation) if rotation.ndim else 0
    if rotation.shape != (count, 3, 3) or any(part.shape != (count, 2) for part in rest):
        shapes = " and ".join(str(part.shape) for part in parts)
        raise InputError(f"{path}: arrays of shape {shapes}; expected rotations (n, 3, 3) and translations (n, 2)")
    _check_rotations(path, rotation)
    if rest and (np.abs(rest[0]) > 1).any():
        row = int(np.argmax(np.abs(rest[0]).max(axis=1)))
        raise InputError(
            f"{path}: row {row} (from 0): translation {rest[0][row].tolist()}; expected fractions of the box, -1 to 1 "
            "(an old file in pixels: divide it by the box)"
        )
    return rotation, rest[0] if rest else None


def _check_rotations(path: Path, rotation: np.ndarray) -> None:
    """Orthonormal and right-handed."""
    error = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    wrong = (error > ROUNDING) | (np.linalg.det(rotation) < 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{path}: row {row} (from 0): the matrix is no rotation ({int(wrong.sum())} such rows)")


def _check_count(path: Path, count: int, star: StarFile) -> None:
    if count != len(star):
        raise InputError(f"{path}: {count} particles, but {star.path} has {len(star)}; expected those of the same set")


def _listed(path: Path, datadir: Path | None) -> list[tuple[str, Any]]:
    """(name as it is written, header) of each stack of a list."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a list of stacks, one a line")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; expected a list of stacks, one a line") from None
    if not names:
        raise InputError(f"{path}: empty; expected a list of stacks, one a line")
    return [(name, read_stack_header(_find(name, path, datadir))) for name in names]


def _find(name: str, path: Path, datadir: Path | None) -> Path:
    """Where a stack of a list is: as for a STAR file's."""
    places = [folder / name for folder in (Path(), *path.absolute().parents)]
    places += [datadir / name, datadir / Path(name).name] if datadir is not None else []
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"{path}: no stack '{name}' in the working directory, beside the list or above it; give datadir")
