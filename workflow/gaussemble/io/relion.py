"""What the columns of a particle STAR file mean, in the units of `quantities`. RELION 1.x to 5, single particles.

Poses stay Euler angles here: `physics.rotations` makes matrices of them.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int

from gaussemble.errors import InputError
from gaussemble.io.mrc import SAME_SIZE
from gaussemble.io.star import IMAGE_NAME, StarFile, numbers, optics_rows
from gaussemble.quantities import ContrastTransfer

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
PIXEL_SHIFT = ("rlnOriginX", "rlnOriginY")
ANGSTROM_SHIFT = ("rlnOriginXAngst", "rlnOriginYAngst")
ANGSTROM_PER_MICROMETRE, ANGSTROM_PER_MILLIMETRE, VOLT_PER_KILOVOLT = 1e4, 1e7, 1e3
DEPTH = ("rlnOriginZ", "rlnOriginZAngst", "rlnCoordinateZ", "rlnCenteredCoordinateZAngst")
TILT_STACKS = ("rlnTomoVisibleFrames", "rlnTomoParticleName")
ABERRATIONS = ("rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike", "rlnMagMat01", "rlnMagMat10")


@dataclass(frozen=True)
class Metadata:
    """What a STAR file says of each particle."""

    angles: Float[np.ndarray, "image 3"]  # radians: rot, tilt, psi
    shift: Float[np.ndarray, "image 2"]  # Å, (x, y)
    ctf: ContrastTransfer
    optics_group: Int[np.ndarray, " image"]  # 0-based row of the optics table
    pixel_sizes: Float[np.ndarray, " image"]  # Å, of each particle's image in its stack
    image_sizes: Int[np.ndarray, " image"] | None  # pixels, where the file says it
    assumed: list[str] = field(default_factory=list)  # for the user: what was filled in, and what is not used

    @property
    def pixel_size(self) -> float:
        """Å of all images, for those who take particles of one size.

        Raises:
            InputError: they are of different ones.
        """
        size = float(self.pixel_sizes[0])
        wrong = ~np.isclose(self.pixel_sizes, size, rtol=SAME_SIZE)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"different pixel sizes are not supported here: {size:.4g} Å in row 0 (optics group "
                f"{self.optics_group[0] + 1} of the table) and {self.pixel_sizes[row]:.4g} Å in row {row} (from 0; "
                f"group {self.optics_group[row] + 1}); take the particles of one size"
            )
        return size


def interpret(star: StarFile, pixel_size: float | None = None, ctf: bool = True) -> Metadata:
    """The particles of a STAR file in our units.

    Args:
        star: the particles, with the optics table if there is one.
        pixel_size: Å; wins over the file's.
        ctf: False: the images have no CTF, and its columns are not read.

    Raises:
        InputError: columns that are missing, contradict each other or are out of range; data that are not single
            particle images.
    """
    assumed: list[str] = []
    _refuse_unsupported(star)
    groups, angles = optics_rows(star), _angles(star)
    sizes = pixel_sizes_of(star, pixel_size, assumed)
    unused = _aberrations(star)
    if unused:
        assumed.append(f"aberrations are not used: {', '.join(unused)}")
    if "rlnHelicalTubeID" in star.particles:
        assumed.append(
            "helical segments (rlnHelicalTubeID) are taken as single particles, without helical symmetry; segments "
            "that overlap must be in the same half: choose the halves by rlnRandomSubset"
        )
    return Metadata(
        angles,
        _shifts(star, sizes, assumed),
        contrast_transfer(star, assumed) if ctf else no_contrast_transfer(len(star)),
        groups,
        sizes,
        _image_sizes(star),
        assumed,
    )


def pixel_sizes_of(star: StarFile, given: float | None, assumed: list[str]) -> Float[np.ndarray, " image"]:
    """Å per pixel of each particle's image; `given` wins for all, with a word to `assumed`.

    Raises:
        InputError: the file does not say it, or says it twice, differently.
    """
    found = _pixel_sizes(star)
    if given is not None:
        for name, sizes in found.items():
            if not np.allclose(sizes, given, rtol=SAME_SIZE):
                assumed.append(f"pixel size {given:.4g} Å as given; {name} says {_between(sizes)} Å")
        return np.full(len(star), given)
    if not found:
        raise InputError(
            f"{star.path}: no pixel size: expected rlnImagePixelSize in the optics table, rlnPixelSize, or "
            "rlnDetectorPixelSize with rlnMagnification; give it as particles.pixel_size"
        )
    first, *others = found
    for other in others:
        wrong = ~np.isclose(found[first], found[other], rtol=SAME_SIZE)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{star.path}: contradictory pixel sizes: {found[first][row]:.4g} Å by {first}, {found[other][row]:.4g}"
                f" Å by {other} in row {row} (from 0){_optics_group_of(star, row)}; remove the wrong column, or give "
                "the right one as particles.pixel_size"
            )
    return found[first]


def _between(values: np.ndarray) -> str:
    """The value, or the range of values."""
    low, high = values.min(), values.max()
    return f"{low:.4g}" if np.isclose(low, high, rtol=SAME_SIZE) else f"{low:.4g} to {high:.4g}"


def _pixel_sizes(star: StarFile) -> dict[str, np.ndarray]:
    """(image,) Å by every way the file has, the most trustworthy first."""
    found = {name: numbers(star, name) for name in ("rlnImagePixelSize", "rlnPixelSize")}
    detector, magnification = numbers(star, "rlnDetectorPixelSize"), numbers(star, "rlnMagnification")
    if detector is not None and magnification is not None:
        if (magnification <= 0).any():
            row = int(np.argmax(magnification <= 0))
            raise InputError(
                f"{star.path}: row {row} (from 0): rlnMagnification is {magnification[row]:g}, expected > 0"
            )
        found["rlnDetectorPixelSize / rlnMagnification"] = detector * ANGSTROM_PER_MICROMETRE / magnification
    sizes = {name: values for name, values in found.items() if values is not None}
    for name, values in sizes.items():
        _in_range(star, name, values, (1e-3, 1e3), "Å")
    return sizes


def _optics_group_of(star: StarFile, row: int) -> str:
    """The optics group of a row, by name, for a message; nothing where there is only one."""
    if star.optics is None or len(star.optics) < 2:
        return ""
    column = "rlnOpticsGroupName" if "rlnOpticsGroupName" in star.optics else "rlnOpticsGroup"
    return f", optics group {star.optics[column].iloc[optics_rows(star)[row]]}"


def _image_sizes(star: StarFile) -> Int[np.ndarray, " image"] | None:
    """Pixels along each image's edge, where the file says it."""
    sizes = numbers(star, "rlnImageSize")
    return None if sizes is None else _in_range(star, "rlnImageSize", sizes, (1.0, 1e6), "pixels").astype(np.int64)


def _refuse_unsupported(star: StarFile) -> None:
    """Subtomograms and images that are not as the microscope made them need another image model."""
    dimensions = numbers(star, "rlnImageDimensionality")
    if dimensions is not None and (dimensions != 2).any():
        raise InputError(f"{star.path}: rlnImageDimensionality is not 2: subtomograms are not supported")
    general = star.other.get("general", {})
    stacks = [name for name in TILT_STACKS if name in star.particles]
    if stacks or ("rlnTomoSubTomosAre2DStacks" in general and str(general["rlnTomoSubTomosAre2DStacks"]) == "1"):
        name = stacks[0] if stacks else "rlnTomoSubTomosAre2DStacks"
        raise InputError(f"{star.path}: 2D stacks of tilt series ({name}) are not supported")
    depth = [name for name in DEPTH if name in star.particles]
    if depth and not star.particles[IMAGE_NAME].str.contains("@", regex=False).any():
        raise InputError(f"{star.path}: volumes as images, with {depth[0]}: subtomograms are not supported")
    for column, what in (
        ("rlnCtfDataAreCtfPremultiplied", "multiplied by their CTF"),
        ("rlnCtfDataArePhaseFlipped", "phase-flipped"),
    ):
        values = numbers(star, column)
        if values is not None and values.any():
            row = int(np.argmax(values != 0))
            raise InputError(
                f"{star.path}: row {row} (from 0): {column} is {values[row]:g}: images that are {what} are not "
                "supported; extract the particles without it"
            )


def _aberrations(star: StarFile) -> list[str]:
    """The columns of higher-order aberrations and anisotropic magnification that are not zero."""
    tables = [table for table in (star.optics, star.particles) if table is not None]
    return [
        name
        for name in ABERRATIONS
        if any(name in table and table[name].astype(str).str.contains("[1-9]").any() for table in tables)
    ]


def _angles(star: StarFile) -> np.ndarray:
    """(image, 3) radians."""
    degrees = [numbers(star, name) for name in ANGLES]
    missing = [name for name, values in zip(ANGLES, degrees, strict=True) if values is None]
    if missing:
        raise InputError(
            f"{star.path}: no column {', '.join(missing)}: the particles have no poses; expected the result of a 3D "
            "refinement (run_data.star)"
        )
    return np.deg2rad(np.stack([values for values in degrees if values is not None], axis=1))


def _shifts(star: StarFile, pixel_sizes: np.ndarray, assumed: list[str]) -> np.ndarray:
    """(image, 2) Å that centre the image; 0 where there are none, Å before pixels where there are both."""
    angstrom = _pair(star, ANGSTROM_SHIFT)
    pixels = _pair(star, PIXEL_SHIFT)
    if angstrom is None and pixels is None:
        assumed.append("no rlnOriginX/YAngst: the particles are taken as centred")
        return np.zeros((len(star), 2))
    if angstrom is None:
        return np.asarray(pixels) * pixel_sizes[:, None]
    if pixels is not None:
        differ = np.abs(angstrom - pixels * pixel_sizes[:, None]).max()
        assumed.append(f"shifts in Å (rlnOriginX/YAngst) are used, not those in pixels; they differ by {differ:.3g} Å")
    return angstrom


def _pair(star: StarFile, names: tuple[str, str]) -> np.ndarray | None:
    """(image, 2) of two columns, or None."""
    present = [name for name in names if name in star.particles]
    if not present:
        return None
    if len(present) == 1:
        raise InputError(f"{star.path}: {present[0]} stands without {(set(names) - set(present)).pop()}; add it")
    columns = [numbers(star, name) for name in names]
    return np.stack([column for column in columns if column is not None], axis=1)


def contrast_transfer(star: StarFile, assumed: list[str]) -> ContrastTransfer:
    """The CTF parameters of each particle.

    Raises:
        InputError: a column that is needed is missing or out of range.
    """
    defocus_u = _needed(star, "rlnDefocusU", (-1e6, 1e6), "Å")
    defocus_v = numbers(star, "rlnDefocusV")
    if defocus_v is None:
        assumed.append("no rlnDefocusV: taken as rlnDefocusU, no astigmatism")
    return _as_ctf(
        defocus_u=defocus_u,
        defocus_v=defocus_u if defocus_v is None else _in_range(star, "rlnDefocusV", defocus_v, (-1e6, 1e6), "Å"),
        defocus_angle=np.deg2rad(_filled(star, "rlnDefocusAngle", 0.0)),
        voltage=_needed(star, "rlnVoltage", (10.0, 3000.0), "kV") * VOLT_PER_KILOVOLT,
        spherical_aberration=_needed(star, "rlnSphericalAberration", (0.0, 100.0), "mm") * ANGSTROM_PER_MILLIMETRE,
        amplitude_contrast=_needed(star, "rlnAmplitudeContrast", (0.0, 1.0), ""),
        phase_shift=np.deg2rad(_filled(star, "rlnPhaseShift", 0.0)),
        b_factor=_b_factor(star, assumed),
        scale=_filled(star, "rlnCtfScalefactor", 1.0),
    )


def no_contrast_transfer(count: int) -> ContrastTransfer:
    """Parameters with which the function is 1 everywhere: no defocus, no aberration, amplitude contrast 1."""
    zero, one = np.zeros(count), np.ones(count)
    return _as_ctf(
        defocus_u=zero, defocus_v=zero, defocus_angle=zero, voltage=300e3 * one, spherical_aberration=zero,
        amplitude_contrast=one, phase_shift=zero, b_factor=zero, scale=one,
    )  # fmt: skip


def _as_ctf(**columns: np.ndarray) -> ContrastTransfer:
    """Float32 tensors of the columns."""
    return ContrastTransfer(**{name: torch.from_numpy(values.astype(np.float32)) for name, values in columns.items()})


def _b_factor(star: StarFile, assumed: list[str]) -> np.ndarray:
    """(image,) Å², positive: exp(-B k²/4).

    Warp and M write the dose weighting as negative values that mean the same damping: no particle's envelope grows.
    """
    values = _filled(star, "rlnCtfBfactor", 0.0)
    if (values >= 0).all():
        return values
    if (values > 0).any():
        row = int(np.argmax(values < 0))
        raise InputError(
            f"{star.path}: rlnCtfBfactor has both signs ({values[row]:g} in row {row}, from 0); expected one: which of "
            "them damps cannot be told"
        )
    assumed.append("negative rlnCtfBfactor (as Warp and M write it) is taken as damping, exp(-|B| k²/4)")
    return np.abs(values)


def _needed(star: StarFile, name: str, limits: tuple[float, float], unit: str) -> np.ndarray:
    """A column of the CTF that has no default."""
    values = numbers(star, name)
    if values is None:
        raise InputError(
            f"{star.path}: no column {name}: the CTF is not known; expected it in the particle or the optics table "
            "(set particles.ctf to false if the images have none)"
        )
    return _in_range(star, name, values, limits, unit)


def _filled(star: StarFile, name: str, default: float) -> np.ndarray:
    """A column, or its default where the file has none."""
    values = numbers(star, name)
    return np.full(len(star), default) if values is None else values


def _in_range(star: StarFile, name: str, values: np.ndarray, limits: tuple[float, float], unit: str) -> np.ndarray:
    """The values, refused where one of them cannot be in this unit."""
    low, high = limits
    wrong = (values < low) | (values > high)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{star.path}: row {row} (from 0): {name} is {values[row]:g}, expected {low:g} to {high:g} {unit}".rstrip()
        )
    return values
