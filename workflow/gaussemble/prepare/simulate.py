"""Stage simulate: particles of an atomic model with a known motion and a known occupancy.

One chain or domain swings about a hinge through a continuous range, another is present in part of the particles; random
views, CTF, shifts and white noise, or the views and CTF of a real data set. The result is what a user would have after
a refinement, and the truth beside it. Not simulated: ice, detector, beam tilt, errors of poses; for those see Parakeet
or relion's own tools.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.atoms import Atoms, group_atoms, read_atoms
from gaussemble.io.files import reserve, write_csv
from gaussemble.io.mrc import write_map, write_stack
from gaussemble.io.relion import interpret
from gaussemble.io.star import StarFile, numbers, read_star, write_star
from gaussemble.io.states import States, write_states
from gaussemble.options import StageOptions
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.rotations import euler_to_matrix, matrix_to_euler, random_rotations
from gaussemble.progress import progress, say
from gaussemble.quantities import ContrastTransfer, Map, Mixture

BLOCK = 16  # images projected at a time; 1300 beads of 64 pixels take 15 MB, which caches hold better than more


class Options(StageOptions):
    """How many particles, how they move, how they are imaged."""

    particles: int = Field(
        default=6000, gt=0, description="Number of particles; with a STAR file, so many of its rows, evenly spread."
    )
    box: int = Field(default=64, ge=8, description="Pixels along an image's edge.")
    pixel_size: float = Field(default=4.0, gt=0, description="Å.")
    moving: str = Field(
        default="B", description="What swings: a chain, or part of one (B/220-334; gemmi's selections)."
    )
    swing: float = Field(
        default=60.0, ge=0, le=360, description="Degrees from one end of the swing to the other; 0: none."
    )
    optional: str = Field(
        default="C", description="What is present in part of the particles: a chain or part of one, as for moving."
    )
    occupancy: float = Field(default=0.5, ge=0, le=1, description="Fraction of particles with the optional part.")
    width: float = Field(default=3.0, gt=0, description="Standard deviation in Å of the Gaussian of each residue.")
    snr: float = Field(
        default=0.05, gt=0, description="Variance of the signal (with CTF, whole image) over the noise's."
    )
    shift: float = Field(default=1.5, ge=0, description="Standard deviation of the shifts along x and y, in pixels.")
    defocus_low: float = Field(default=0.8, description="Smallest defocus in um.")
    defocus_high: float = Field(default=2.5, description="Largest defocus in um.")
    astigmatism: float = Field(default=300.0, ge=0, description="Largest difference of the two defoci in Å.")
    voltage: float = Field(default=300.0, gt=0, description="kV.")
    spherical_aberration: float = Field(default=2.7, ge=0, description="mm.")
    amplitude_contrast: float = Field(default=0.1, ge=0, le=1, description="Fraction.")
    states: int = Field(default=25, ge=2, description="Number of swings on the grid of true structures.")
    seed: int = Field(default=0, ge=0, description="Seed of all random numbers.")


@dataclass(frozen=True)
class Molecule:
    """Beads of a molecule at rest, which of them swing and how, and which may be absent."""

    beads: Mixture
    moving: Bool[Tensor, " gaussian"]
    optional: Bool[Tensor, " gaussian"]
    hinge: Float[Tensor, "3"]  # Å from the box's origin
    axis: Float[Tensor, "3"]  # unit vector; positive swings are right-handed about it

    def at(self, swing: Float[Tensor, " state"], occupied: Float[Tensor, " state"]) -> Mixture:
        """The structures (state, gaussian) at swings in degrees, with (1) or without (0) the optional part."""
        turns = Rotation.from_rotvec(np.deg2rad(swing.double().numpy())[:, None] * self.axis.double().numpy())
        rotation = torch.from_numpy(turns.as_matrix()).to(self.beads.center.dtype)
        center = self.beads.center.repeat(len(swing), 1, 1)
        center[:, self.moving] = (self.beads.center[self.moving] - self.hinge) @ rotation.mT + self.hinge
        present = torch.where(self.optional, occupied[:, None].to(center.dtype), 1.0)
        return Mixture(center, self.beads.amplitude * present, self.beads.width.expand(len(swing), -1))


@dataclass(frozen=True)
class Views:
    """How each particle was imaged."""

    angles: Float[Tensor, "image 3"]  # radians: rot, tilt, psi
    shift: Float[Tensor, "image 2"]  # Å
    ctf: ContrastTransfer
    subset: np.ndarray  # (image,) 1 or 2: RELION's half-set

    def __len__(self) -> int:
        return len(self.angles)


def simulate(*, model: Path, out: Path, options: Options, star: Path | None = None) -> None:
    """Simulate particles of an atomic model and write them with their truth.

    Args:
        model: atomic model (PDB or mmCIF) in the frame of a map whose corner voxel is at the origin.
        out: folder for particles.star, particles.mrcs, truth.csv, states.npz, map.mrc.
        options: the stage's options.
        star: particles whose poses, shifts, CTF and half-sets are taken, in place of random ones.

    Raises:
        InputError: the model lacks a chain or domain, or reaches outside the box; a STAR file that cannot be used.
    """
    molecule = read_molecule(model, options)
    generator = torch.Generator().manual_seed(options.seed)
    views = read_views(star, options.particles) if star is not None else draw_views(options, generator)
    swing = options.swing * (torch.rand(len(views), generator=generator, dtype=torch.float64) - 0.5)
    occupied = (torch.rand(len(views), generator=generator) < options.occupancy).double()
    with tempfile.TemporaryDirectory(dir=made(out), prefix=".simulate.") as folder:
        images = np.lib.format.open_memmap(
            Path(folder) / "images.npy", "w+", np.float32, (len(views), options.box, options.box)
        )
        reserve(Path(folder) / "images.npy")
        for rows, block in clean_images(molecule, views, swing, occupied, options):
            images[rows] = block
        scale = add_noise(images, options.snr, generator)
        write_stack(out / "particles.mrcs", images, options.pixel_size)
    write_star(out / "particles.star", star_of(views, out / "particles.mrcs", options))
    write_csv(out / "truth.csv", truth_table(views, swing, occupied))
    states = grid_of_states(scaled(molecule, scale), options)
    write_states(out / "states.npz", states)
    write_map(out / "map.mrc", mean_map(states, states.nearest(swing, occupied), options.box, options.pixel_size))
    views_from = "random views" if star is None else f"views and CTFs of {star}"
    say(
        f"{out / 'particles.star'}: {len(views)} particles of {options.box} px x {options.pixel_size:g} Å at SNR "
        f"{options.snr:g}, simulated with {views_from}{heterogeneity(options, float(occupied.mean()))}"
    )


def heterogeneity(options: Options, present: float) -> str:
    """What differs between the particles, in words; nothing where they are all the same."""
    swing = f"; {options.moving} swings through {options.swing:g} degrees" if options.swing > 0 else ""
    return swing + (f"; {options.optional} is in {present:.1%} of them" if options.occupancy < 1 else "")


def made(folder: Path) -> Path:
    """The folder, made where it was not."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- the molecule and its motion -------------------------------------------------------------------------------------


def read_molecule(path: Path, options: Options) -> Molecule:
    """Beads of an atomic model, one a residue, and its motion.

    Raises:
        InputError: what an option selects is not in the model, nothing stays fixed, or beads leave the box.
    """
    atoms = read_atoms(path)
    beads = group_atoms(atoms, "residue")
    center = torch.from_numpy(beads.position) - options.box // 2 * options.pixel_size
    nothing = torch.zeros(len(center), dtype=torch.bool)
    moving = selected(path, atoms, "moving", options.moving) if options.swing > 0 else nothing
    optional = selected(path, atoms, "optional", options.optional) if options.occupancy < 1 else nothing
    hinge, axis = torch.zeros(3, dtype=center.dtype), torch.tensor([0.0, 0, 1], dtype=center.dtype)
    if options.swing > 0:
        fixed = ~(moving | optional)
        if not fixed.any():
            raise InputError(f"{path}: all residues are moving or optional; some must stay to hold the hinge")
        hinge, axis = hinge_of(center[moving], center[fixed])
    mixture = Mixture(center, torch.from_numpy(beads.weight), torch.full((len(center),), options.width).double())
    molecule = Molecule(mixture, moving, optional, hinge, axis)
    refuse_outside(path, molecule, options)
    return molecule


def selected(path: Path, atoms: Atoms, option: str, selection: str) -> Bool[Tensor, " residue"]:
    """Which residues a selection means: `A`, `A/220-334`, or more of gemmi's syntax (chains, numbers, residue names).

    Residues are meant whole, also where the selection goes on to atoms.

    Raises:
        InputError: the selection cannot be read, or finds nothing.
    """
    try:
        chosen = gemmi.Selection(selection)
    except RuntimeError as error:
        raise InputError(f"--{option} {selection}: no selection such as A or A/220-334 ({error})") from error
    model = atoms.structure[0].clone()
    for chain in chosen.chains(model):
        for residue in chosen.residues(chain):
            residue.flag = "s"
    mask = torch.tensor([residue.flag == "s" for chain in model for residue in chain])
    if not mask.any():
        chains = ", ".join(chain_range(chain) for chain in atoms.structure[0])
        raise InputError(f"{path}: --{option} {selection} finds no residue; the chains are {chains}")
    return mask


def chain_range(chain: gemmi.Chain) -> str:
    """A chain and its first and last residue numbers, as a selection would have them."""
    return f"{chain.name}/{chain[0].seqid}-{chain[-1].seqid}"


def hinge_of(moving: Float[Tensor, "bead 3"], fixed: Float[Tensor, "core 3"]) -> tuple[Tensor, Tensor]:
    """Hinge and unit axis of the swing.

    The hinge is the moving bead nearest to the fixed ones. The axis is perpendicular to the arm (hinge to its centre)
    and to the direction of the core, so that the swing opens and closes the angle between them.
    """
    distance, _ = KDTree(fixed.numpy()).query(moving.numpy())
    hinge = moving[int(np.argmin(distance))]
    axis = torch.linalg.cross(moving.mean(0) - hinge, fixed.mean(0) - hinge)
    return hinge, axis / axis.norm()


def refuse_outside(path: Path, molecule: Molecule, options: Options) -> None:
    """Raise InputError where a bead leaves the box at either end or the middle of the swing."""
    ends = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64) * options.swing
    reach = float(molecule.at(ends, torch.ones(3)).center.abs().max())
    half = options.box / 2 * options.pixel_size
    if reach > half:
        middle = options.box // 2 * options.pixel_size
        raise InputError(
            f"{path}: residues lie up to {reach:.0f} Å from the box's centre along an axis, beyond its half edge of "
            f"{half:g} Å; move the model's centre to ({middle:g}, {middle:g}, {middle:g}) Å or enlarge the box"
        )


def scaled(molecule: Molecule, scale: float) -> Molecule:
    """The molecule with all amplitudes times a factor."""
    beads = Mixture(molecule.beads.center, molecule.beads.amplitude * scale, molecule.beads.width)
    return Molecule(beads, molecule.moving, molecule.optional, molecule.hinge, molecule.axis)


def grid_of_states(molecule: Molecule, options: Options) -> States:
    """The true structures on a grid: every swing with and without the optional part, as far as they occur."""
    half = options.swing / 2
    swings = torch.linspace(-half, half, options.states) if half > 0 else torch.zeros(1)
    occupancies = [value for value, share in ((0.0, 1 - options.occupancy), (1.0, options.occupancy)) if share > 0]
    swing, occupied = (part.flatten() for part in torch.meshgrid(swings, torch.tensor(occupancies), indexing="ij"))
    mixture = molecule.at(swing, occupied).to(torch.float32)
    return States(mixture, swing, occupied, options.box, options.pixel_size)


def component_maps(
    states: States, box: int, pixel_size: float
) -> tuple[Float[Tensor, "component z y x"], Float[Tensor, "state component"]]:
    """Maps that add up to the maps of the states, with the weights of `States.components`."""
    parts, weights = states.components()
    return torch.stack([mixture_to_map(part, box, pixel_size) for part in parts]), weights


def mean_map(states: States, state: Int[Tensor, " image"], box: int, pixel_size: float) -> Map:
    """The mean of the maps of particles whose states (indices into the grid) are given."""
    maps, weights = component_maps(states, box, pixel_size)
    return Map(torch.einsum("c,czyx->zyx", weights[state].mean(0), maps), pixel_size)


# --- the views -------------------------------------------------------------------------------------------------------


def draw_views(options: Options, generator: torch.Generator) -> Views:
    """Random views, shifts, defoci and half-sets."""
    count = options.particles
    if options.defocus_high < options.defocus_low:
        raise InputError(
            f"--defocus-high {options.defocus_high:g} um is below --defocus-low {options.defocus_low:g} um; swap them"
        )
    angles = matrix_to_euler(random_rotations(count, generator))
    shift = options.shift * options.pixel_size * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    share = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    mean = 1e4 * (options.defocus_low + share[:, 0] * (options.defocus_high - options.defocus_low))
    difference = options.astigmatism * share[:, 1]
    same = torch.ones(count, dtype=torch.float64)
    ctf = ContrastTransfer(
        defocus_u=mean + difference / 2,
        defocus_v=mean - difference / 2,
        defocus_angle=math.pi * share[:, 2],
        voltage=options.voltage * 1e3 * same,
        spherical_aberration=options.spherical_aberration * 1e7 * same,
        amplitude_contrast=options.amplitude_contrast * same,
        phase_shift=0 * same,
        b_factor=0 * same,
        scale=same,
    )
    return Views(angles, shift, ctf, torch.randperm(count, generator=generator).numpy() % 2 + 1)


def read_views(path: Path, most: int) -> Views:
    """Poses, shifts, CTF and half-sets of particles evenly spread over a STAR file, which may be sorted by view."""
    star = read_star(path)
    star = star.rows(spread(len(star), most))
    found = interpret(star)
    for line in found.assumed:
        say(f"{path}: {line}")
    subset = numbers(star, "rlnRandomSubset")
    subset = np.arange(len(star)) % 2 + 1 if subset is None else subset.astype(int)
    return Views(torch.from_numpy(found.angles), torch.from_numpy(found.shift), found.ctf.to(torch.float64), subset)


def spread(count: int, most: int) -> Int[np.ndarray, " row"]:
    """At most so many of `count` rows, evenly spread, the first among them."""
    return np.arange(min(most, count)) * count // min(most, count)


# --- the images ------------------------------------------------------------------------------------------------------


def clean_images(
    molecule: Molecule, views: Views, swing: Tensor, occupied: Tensor, options: Options
) -> Iterator[tuple[slice, np.ndarray]]:
    """Images (image, y, x) without noise, by blocks of particles: `quantities`' image model."""
    starts = range(0, len(views), BLOCK)
    for start in progress(starts, "simulate"):
        rows = slice(start, start + BLOCK)
        mixture = molecule.at(swing[rows], occupied[rows]).to(torch.float32)
        rotation = euler_to_matrix(views.angles[rows]).float()
        transform = project(mixture, rotation, options.box, options.pixel_size)
        transform = transform * evaluate(views.ctf[rows].to(torch.float32), options.box, options.pixel_size)
        transform = transform * shift_phases(views.shift[rows].float(), options.box, options.pixel_size)
        yield rows, to_real(transform, options.box).numpy()


def add_noise(images: np.ndarray, snr: float, generator: torch.Generator) -> float:
    """Scale the images in place and add white noise of variance 1; returns the scale.

    The scale makes the variance of the scaled images over their pixels, averaged over the set, equal to `snr`.
    """
    blocks = [slice(start, start + 1024) for start in range(0, len(images), 1024)]
    variance = sum(float(images[rows].astype(np.float64).var(axis=(1, 2)).sum()) for rows in blocks) / len(images)
    scale = math.sqrt(snr / variance)
    for rows in blocks:
        noise = torch.randn(images[rows].shape, generator=generator).numpy()
        images[rows] = scale * images[rows] + noise
    return scale


# --- the files -------------------------------------------------------------------------------------------------------


def star_of(views: Views, stack: Path, options: Options) -> StarFile:
    """The particles as RELION 3.1 would have them; raises InputError where one optics group does not do."""
    name = from_here(stack)
    ctf = views.ctf
    degrees = np.rad2deg(views.angles.numpy())
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{number:06d}@{name}" for number in range(1, len(views) + 1)],
            "rlnOpticsGroup": 1,
            "rlnAngleRot": degrees[:, 0],
            "rlnAngleTilt": degrees[:, 1],
            "rlnAnglePsi": degrees[:, 2],
            "rlnOriginXAngst": views.shift[:, 0].numpy(),
            "rlnOriginYAngst": views.shift[:, 1].numpy(),
            "rlnDefocusU": ctf.defocus_u.numpy(),
            "rlnDefocusV": ctf.defocus_v.numpy(),
            "rlnDefocusAngle": np.rad2deg(ctf.defocus_angle.numpy()),
            "rlnPhaseShift": np.rad2deg(ctf.phase_shift.numpy()),
            "rlnCtfBfactor": ctf.b_factor.numpy(),
            "rlnCtfScalefactor": ctf.scale.numpy(),
            "rlnRandomSubset": views.subset,
        }
    )
    return StarFile(stack.with_suffix(".star"), optics_table(ctf, options), particles)


def optics_table(ctf: ContrastTransfer, options: Options) -> pd.DataFrame:
    """One optics group."""
    columns: dict[str, Any] = {"rlnOpticsGroupName": "opticsGroup1", "rlnOpticsGroup": 1}
    for name, values, unit in (
        ("rlnVoltage", ctf.voltage, 1e3),
        ("rlnSphericalAberration", ctf.spherical_aberration, 1e7),
        ("rlnAmplitudeContrast", ctf.amplitude_contrast, 1.0),
    ):
        if float(values.max() - values.min()) > 1e-6 * float(values.abs().max()):
            raise InputError(
                f"the STAR file's particles have different {name}; simulate takes one microscope at a time"
            )
        columns[name] = float(values[0]) / unit
    columns |= {"rlnImagePixelSize": options.pixel_size, "rlnImageSize": options.box, "rlnImageDimensionality": 2}
    return pd.DataFrame([columns])


def from_here(path: Path) -> str:
    """Relative to the working directory where it lies in it, as RELION has it; absolute otherwise."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (links are kept as the user named them)
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)


def truth_table(views: Views, swing: Tensor, occupied: Tensor) -> pd.DataFrame:
    """The truth of each particle; poses and shifts as they are written in the STAR file."""
    degrees = np.rad2deg(views.angles.numpy())
    return pd.DataFrame(
        {
            "particle": np.arange(len(views)),
            "swing": swing.numpy(),
            "occupied": occupied.numpy().astype(int),
            "rot": degrees[:, 0],
            "tilt": degrees[:, 1],
            "psi": degrees[:, 2],
            "origin_x": views.shift[:, 0].numpy(),
            "origin_y": views.shift[:, 1].numpy(),
        }
    )
