"""Particles of cryoSPARC (.cs): what their fields mean in RELION's terms, and subsets in the user's own format.

A .cs file is a NumPy structured array (.npy) with a field `uid`; a job writes what it changed into one file and the
rest into a passthrough, whose rows may stand in another order. Micrographs, volumes and masks have .cs files too.

Conventions, each the same in two independent readers, pyem (csparc2star.py: pyem/metadata/cryosparc2.py and
pyem/geom/convert_numba.py) and cryoDRGN (parse_pose_csparc.py, parse_ctf_csparc.py, lie_tools.py), unless said
    alignments3D/pose   rotation vector v, radians. Both transpose its matrix to get the one of RELION's Euler angles,
                        `x_view = R x_volume`: R = exp(v)^T. In RELION's own terms exp(v) = Rz(rot) Ry(tilt) Rz(psi).
    alignments3D/shift  RELION's origin with the same sign, in pixels of alignments3D/psize_A. That these are not
                        always the image's shows cryoDRGN, which doubles the shifts of a heterogeneous refinement
                        (of downsampled images), and the shift times psize_A in starparser and specter.
    blob/idx            from 0; RELION's number in a stack is from 1.
    blob/path           relative to the project's folder; `>` before it marks an exported group, whose images stand
                        beside the .cs file, and is no part of the path (pyem, issue 102, by cryoSPARC's developers).
    ctf/df1_A, df2_A    rlnDefocusU, V; df_angle_rad is rlnDefocusAngle (EMPIAR-10076 has both: 5.28 degrees).
    alignments3D/split  0 or 1: rlnRandomSubset 1 or 2 (pyem).
    blob/sign           -1: protein is dark in the stack, and cryoSPARC multiplies by it (its import's `data sign`).
    ctf/exp_group_id    the optics groups, as far as voltage, Cs, amplitude contrast, pixel and image size agree.
    sym_expand/idx, src_uid   number and source of a copy that symmetry expansion made; each has a uid of its own.
"""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from gaussemble.errors import InputError
from gaussemble.io.files import written
from gaussemble.io.optics import GROUP, optics_table
from gaussemble.io.star import IMAGE_NAME, StarFile
from gaussemble.progress import say

MAGIC, COMPRESSED_MAGIC = b"\x93NUMPY", b"\x94CSDAT"
POSE, SHIFT, SHIFT_PIXEL = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"
COPY, SOURCE = "sym_expand/idx", "sym_expand/src_uid"
ABERRATIONS = ("ctf/tilt_A", "ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")
CTF = {
    "rlnDefocusU": "ctf/df1_A",
    "rlnDefocusV": "ctf/df2_A",
    "rlnDefocusAngle": "ctf/df_angle_rad",
    "rlnVoltage": "ctf/accel_kv",
    "rlnSphericalAberration": "ctf/cs_mm",
    "rlnAmplitudeContrast": "ctf/amp_contrast",
}
RADIANS = ("rlnDefocusAngle", "rlnPhaseShift")
OF_GROUP = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
COPY_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd: a copy's uid meets no other's by chance


@dataclass(frozen=True)
class CsFile:
    """The rows of a .cs file with its own fields."""

    path: Path
    table: np.ndarray  # structured, one row per particle, with the field uid

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, chosen: Int[np.ndarray, " chosen"]) -> "CsFile":
        """The particles of these rows; those that stand more than once become copies, as symmetry expansion's."""
        table = self.table[chosen]
        copy = pd.Series(chosen).groupby(chosen).cumcount().to_numpy()
        return replace(self, table=_as_copies(table, copy) if copy.any() else table)

    def with_angles(self, angles: Float[np.ndarray, "image 3"]) -> "CsFile":
        """Other poses: rot, tilt, psi in radians."""
        return replace(self, table=_with_field(self.table, POSE, rotation_vectors(angles).astype(np.float32)))

    def write(self, path: Path) -> None:
        """Write the rows with the fields of the file that was read; a passthrough goes with them by its uid."""
        with written(path) as temporary, temporary.open("wb") as file:
            np.save(file, self.table, allow_pickle=False)


@dataclass(frozen=True)
class Fields:
    """The fields of a .cs file and of its passthrough, in the order of its rows."""

    path: Path
    values: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.values["uid"])

    def numbers(self, name: str, shape: tuple[int, ...] = ()) -> np.ndarray | None:
        """(image, *shape) float64, None where there is no such field; InputError for any other kind of it."""
        found = self.values.get(name)
        if found is None:
            return None
        if found.dtype.kind not in "fiub" or found.shape[1:] != shape:
            kind = f"{found.dtype.name} {found.shape[1:] or ''}".strip()
            raise InputError(f"{self.path}: the field {name} is {kind}; expected {_counted(shape)} in each row")
        values = found.astype(np.float64)
        wrong = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{self.path}: row {row} (from 0): {name} is {values[row].tolist()}, expected {_counted(shape)} "
                f"({int(wrong.sum())} such rows); leave these particles out"
            )
        return values

    def needed(self, name: str, why: str, shape: tuple[int, ...] = ()) -> np.ndarray:
        """As `numbers`; InputError where there is no such field."""
        found = self.numbers(name, shape)
        if found is None:
            raise InputError(f"{self.path}: no field {name}: {why}")
        return found

    def texts(self, name: str) -> tuple[list[str], Int[np.ndarray, " image"]] | None:
        """The different texts of a field, and (image,) which of them; `>` and spaces around are taken off."""
        found = self.values.get(name)
        if found is None:
            return None
        if found.dtype.kind not in "SU" or found.ndim != 1:
            raise InputError(f"{self.path}: the field {name} is {found.dtype.name}; expected a text in each row")
        unique, which = np.unique(found, return_inverse=True)
        try:
            texts = [text.decode() if isinstance(text, bytes) else str(text) for text in unique.tolist()]
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: {name} has a text that is not UTF-8 ({error})") from error
        return [text.lstrip(">").strip() for text in texts], which


def read_cs(path: Path) -> CsFile:
    """Read a .cs file of any kind; nothing in it is executed.

    Raises:
        InputError: no such file, not a .cs file, no rows, no field uid, objects in the place of values.
    """
    start = _first_bytes(path)
    if start == COMPRESSED_MAGIC:
        raise InputError(
            f"{path}: the compressed stream of cryosparc-tools; save it as .cs (Dataset.save, numpy format)"
        )
    if start != MAGIC:
        hint = "; give the .cs file that this .csg names" if path.suffix == ".csg" else ""
        raise InputError(f"{path}: not a .cs file of cryoSPARC (a NumPy array){hint}")
    table = _load(path)
    if table.dtype.names is None or table.ndim != 1 or "uid" not in table.dtype.names:
        raise InputError(f"{path}: no table with a field uid; expected a .cs file of cryoSPARC")
    if table["uid"].dtype.kind not in "ui" or table["uid"].ndim != 1:
        raise InputError(f"{path}: the field uid is {table.dtype['uid']}; expected a whole number in each row")
    return CsFile(path, table)


def join(main: CsFile, passthrough: CsFile | None = None) -> Fields:
    """All fields in the order of the main file's rows; where both files have one, the main file's is taken.

    Copies of symmetry expansion that the passthrough does not know have the fields of the particle they come from.

    Raises:
        InputError: a uid of the main file that the passthrough has not, or has twice.
    """
    values = {name: main.table[name] for name in _names(main)}
    if passthrough is None:
        return Fields(main.path, values)
    index, uid = pd.Index(passthrough.table["uid"]), main.table["uid"]
    if index.has_duplicates:
        raise InputError(f"{passthrough.path}: {int(index.duplicated().sum())} uids stand twice; expected each once")
    row = index.get_indexer(pd.Index(uid))
    if SOURCE in _names(main):  # copies that were made after the passthrough was written
        row = np.where(row < 0, index.get_indexer(pd.Index(main.table[SOURCE])), row)
    missing = row < 0
    if missing.any():
        raise InputError(
            f"{passthrough.path}: {int(missing.sum())} of the {len(main)} particles of {main.path} are not in it (the "
            f"first is uid {uid[int(np.argmax(missing))]}); give the passthrough of the same job"
        )
    more = {name: passthrough.table[name][row] for name in _names(passthrough) if name not in values}
    return Fields(main.path, values | more)


def to_star(fields: Fields, poses: bool = True) -> tuple[StarFile, list[str]]:
    """The particles as RELION 3.1 has them, and sentences for the user: what was assumed, and what is not used.

    Args:
        fields: of particles.
        poses: False: they come from elsewhere, and the fields may lack them.

    Raises:
        InputError: not particles; a field is missing or is not what it should be.
    """
    _refuse_others(fields)
    assumed: list[str] = []
    columns = {IMAGE_NAME: _image_names(fields)}
    micrographs = fields.texts("location/micrograph_path")
    if micrographs is not None:
        columns["rlnMicrographName"] = np.asarray(micrographs[0], object)[micrographs[1]]
    if poses:
        columns |= _poses(fields, assumed)
    contrast = _contrast_transfer(fields, assumed)
    columns |= {name: values for name, values in contrast.items() if name not in OF_GROUP}
    optics, columns[GROUP] = _optics(fields, contrast)
    columns |= _random_subset(fields, assumed)
    return StarFile(fields.path, optics, pd.DataFrame(columns)), assumed


def rotation_vectors(angles: Float[np.ndarray, "image 3"]) -> Float[np.ndarray, "image 3"]:
    """alignments3D/pose of RELION's rot, tilt, psi in radians."""
    return Rotation.from_euler("ZYZ", angles).as_rotvec()


def euler_angles(pose: Float[np.ndarray, "image 3"]) -> Float[np.ndarray, "image 3"]:
    """RELION's rot, tilt, psi in radians of alignments3D/pose; psi is 0 where tilt is 0 or pi."""
    # at these tilts only a sum of rot and psi is known, of which scipy warns; the rotation is right
    return Rotation.from_rotvec(pose).as_euler("ZYZ", suppress_warnings=True)


def contrast_sign(fields: Fields) -> int | None:
    """blob/sign: 1 where protein is light in the stacks, -1 where it is dark; None where they differ or do not say."""
    sign = fields.numbers("blob/sign")
    known = sign is not None and abs(sign[0]) == 1 and (sign == sign[0]).all()
    return int(sign[0]) if sign is not None and known else None


def _load(path: Path) -> np.ndarray:
    """The array of a .npy file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on headers that Python 2 wrote
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=1_000_000))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as a .cs file ({reason}); export or copy it again") from error


def _first_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a .cs file of cryoSPARC")
    with path.open("rb") as file:
        return file.read(len(MAGIC))


def _names(cs: CsFile) -> tuple[str, ...]:
    """The fields of a file."""
    return cs.table.dtype.names or ()


def _counted(shape: tuple[int, ...]) -> str:
    """What a row of this shape holds, in words."""
    return f"{int(np.prod(shape))} finite numbers" if shape else "a finite number"


def _refuse_others(fields: Fields) -> None:
    """Maps, masks and micrographs have .cs files too."""
    groups = dict.fromkeys(name.split("/")[0] for name in fields.values if "/" in name)
    if not any(name in ("blob", "ctf", "location") or name.startswith("alignments") for name in groups):
        raise InputError(f"{fields.path}: no particles: it describes {', '.join(groups)}; give the .cs of particles")


def _image_names(fields: Fields) -> np.ndarray:
    """(image,) n@path with n from 1."""
    paths = fields.texts("blob/path")
    if paths is None:
        raise InputError(f"{fields.path}: no field blob/path: where the images are; give the passthrough that has it")
    index = fields.needed("blob/idx", "which image of its stack a particle is; give the passthrough that has it")
    wrong = (index < 0) | (index % 1 != 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{fields.path}: row {row} (from 0): blob/idx is {index[row]:g}, expected a number from 0")
    names, which = paths
    numbers = (index.astype(np.int64) + 1).tolist()
    return np.array([f"{n:06d}@{names[w]}" for n, w in zip(numbers, which.tolist(), strict=True)], object)


def _poses(fields: Fields, assumed: list[str]) -> dict[str, np.ndarray]:
    """Angles in degrees, origins in Å, or in pixels where no pixel size is known."""
    pose = fields.needed(POSE, _no_poses(fields), (3,))
    shift = fields.needed(SHIFT, "the particles' centres are not known; give the .cs of a refinement", (2,))
    size = fields.numbers(SHIFT_PIXEL)
    if size is None:
        size = fields.numbers("blob/psize_A")
        assumed.append(f"no field {SHIFT_PIXEL}: shifts are taken in pixels of the images")
    angles = np.rad2deg(euler_angles(pose))
    columns = {f"rlnAngle{name}": angles[:, axis] for axis, name in enumerate(("Rot", "Tilt", "Psi"))}
    for axis, name in enumerate("XY"):
        if size is None:
            columns[f"rlnOrigin{name}"] = shift[:, axis]
        else:
            columns[f"rlnOrigin{name}Angst"] = shift[:, axis] * size
    return columns


def _no_poses(fields: Fields) -> str:
    """What to do about it."""
    groups = sorted({name.split("/")[0] for name in fields.values if name.startswith("alignments")} - {"alignments3D"})
    found = f" (it has {', '.join(groups)})" if groups else ""
    return (
        f"the particles have no poses{found}; give the .cs of a refinement, or its passthrough if the poses are there"
    )


def _contrast_transfer(fields: Fields, assumed: list[str]) -> dict[str, np.ndarray]:
    """RELION's columns of the CTF; none where the file has no CTF at all."""
    if not any(name.startswith("ctf/") for name in fields.values):
        say(f"{fields.path}: no fields ctf/: give the passthrough that has them, or set particles.ctf to false")
        return {}
    why = "the CTF is not known; give the passthrough that has it"
    columns = {name: fields.needed(field, why) for name, field in CTF.items()}
    optional = {"rlnPhaseShift": "ctf/phase_shift_rad", "rlnCtfBfactor": "ctf/bfactor"}
    for name, field in optional.items():
        values = fields.numbers(field)
        if values is not None and values.any():
            columns[name] = values
    scale = fields.numbers("ctf/scale")
    if scale is not None and (scale > 0).all() and (scale != scale[0]).any():
        columns["rlnCtfScalefactor"] = scale
    unused = [name for name in ABERRATIONS if name in fields.values and fields.values[name].any()]
    if unused:
        assumed.append(f"aberrations are not used: {', '.join(unused)}")
    return {name: np.rad2deg(values) if name in RADIANS else values for name, values in columns.items()}


def _optics(fields: Fields, contrast: dict[str, np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
    """The optics table and (image,) each particle's group in it."""
    columns = {name: contrast[name] for name in OF_GROUP if name in contrast}
    size, shape = fields.numbers("blob/psize_A"), fields.numbers("blob/shape", (2,))
    if size is not None:
        columns["rlnImagePixelSize"] = size
    if shape is not None:
        columns["rlnImageSize"] = shape[:, 1]
    columns["rlnImageDimensionality"] = np.full(len(fields), 2.0)
    return optics_table(columns, fields.numbers("ctf/exp_group_id"))


def _random_subset(fields: Fields, assumed: list[str]) -> dict[str, np.ndarray]:
    """rlnRandomSubset, where the particles are in two."""
    split = fields.numbers("alignments3D/split")
    if split is None:
        return {}
    if np.unique(split).tolist() != [0, 1]:
        assumed.append(
            f"alignments3D/split is {split[0]:g} in row 0 and does not divide the particles in two: not used"
        )
        return {}
    return {"rlnRandomSubset": split.astype(np.int64) + 1}


def _as_copies(table: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """Rows of which some stand again, told apart as cryoSPARC's symmetry expansion does it."""
    names = table.dtype.names or ()
    if COPY not in names:
        table = _with_field(table, SOURCE, table["uid"].astype(np.uint64))
        table = _with_field(table, COPY, copy.astype(np.uint32))
    uid = table["uid"].astype(np.uint64) + copy.astype(np.uint64) * COPY_STEP
    return _with_field(table, "uid", uid.astype(table.dtype["uid"]))


def _with_field(table: np.ndarray, name: str, values: np.ndarray) -> np.ndarray:
    """A copy of the table with one field set; it is added where the table has none of this name."""
    layout: Any = [(each, table.dtype[each]) for each in table.dtype.names or ()]
    if name not in (table.dtype.names or ()):
        layout.append((name, values.dtype, values.shape[1:]))
    result: Any = np.zeros(len(table), layout)
    for each in table.dtype.names or ():
        result[each] = table[each]
    result[name] = values
    return result
