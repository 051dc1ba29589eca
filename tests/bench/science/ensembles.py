"""Known ensembles of structures: every set of the science benchmarks, as beads on a list of states.

The three simulations of Chen & Ludtke (Nature Methods 2021), sets like CryoBench's (Jeon et al. 2024: one dihedral,
random linker, ribosome assembly), a rigid tilt, composition, and a set in which nothing varies. Molecules are the
demo's, or an antibody that the user gives, or domains of random beads; the same seed gives the same structures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from gaussemble.io.atoms import group_atoms, read_atoms
from gaussemble.quantities import Mixture

WIDTH = 3.0  # Å, standard deviation of a residue's bead
DENSITY = 0.0065  # residues per Å³ of a protein at 1.35 g/cm³ and 110 Da a residue
RESIDUE = 55.0  # electrons of a bead, as a residue's atoms without hydrogens have on average
DEMO = Path(__file__).resolve().parents[3] / "resources" / "demo_molecule.cif"


@dataclass(frozen=True)
class Ensemble:
    """The true structures, how many particles are in each, and what is to be found of them."""

    center: Float[np.ndarray, "state bead 3"]  # Å from the box's origin
    amplitude: Float[np.ndarray, "state bead"]
    share: Float[np.ndarray, " state"]  # of the particles; sums to 1
    targets: Float[np.ndarray, "state target"] | None = None  # continuous; Å or degrees
    angle: Float[np.ndarray, " state"] | None = None  # degrees on a circle
    label: Int[np.ndarray, " state"] | None = None  # class
    latent_dim: int = 4  # that the set is analysed with
    separate: bool = False  # classes stand apart in latent space, so that clusters should find them
    width: float = WIDTH
    docked: gemmi.Structure | None = None  # a model at rest, Å from the box's origin, as a user may have one

    def __len__(self) -> int:
        return len(self.center)

    def mixture(self, scale: float = 1.0) -> Mixture:
        """(state, bead) in float32."""
        center, amplitude = (torch.from_numpy(part).float() for part in (self.center, self.amplitude))
        return Mixture(center, scale * amplitude, torch.full_like(amplitude, self.width))


@dataclass(frozen=True)
class Antibody:
    """Beads of an antibody-like molecule, centred, and its parts."""

    center: Float[np.ndarray, "bead 3"]
    weight: Float[np.ndarray, " bead"]
    arms: tuple[np.ndarray, np.ndarray]  # (bead,) bool: the two Fab
    tip: np.ndarray  # (bead,) bool: a variable domain of the second arm, or what has its size
    structure: gemmi.Structure  # its atoms, in the beads' frame

    @property
    def hinge(self) -> np.ndarray:
        """The bead of the first arm nearest to what stands still."""
        moving, fixed = self.center[self.arms[0]], self.center[~(self.arms[0] | self.arms[1])]
        apart = np.linalg.norm(moving[:, None] - fixed[None], axis=-1)
        return moving[apart.min(1).argmin()]


def antibody(path: Path | None = None) -> Antibody:
    """1HZH, as its file of the Protein Data Bank has it, or the demo's molecule."""
    atoms = read_atoms(path or DEMO)
    beads = group_atoms(atoms, "residue")
    middle = np.average(beads.position, axis=0, weights=beads.weight)
    center, structure = beads.position - middle, atoms.structure
    for site, position in zip(structure[0].all(), atoms.position - middle, strict=True):
        site.atom.pos = gemmi.Position(*position)
    chain = atoms.chain
    number = np.array([int("".join(letter for letter in text if letter.isdigit())) for text in atoms.number])
    if path is None:
        first, second = chain == "B", chain == "C"
        far = np.linalg.norm(center - center[chain == "A"].mean(0), axis=1)
        tip = second & (far >= np.sort(far[second])[-110])
    else:
        first = (chain == "L") | ((chain == "H") & (number <= 213))
        second = (chain == "M") | ((chain == "K") & (number <= 213))
        tip = (chain == "M") & (number <= 107)
    return Antibody(center, beads.weight, (first, second), tip, structure)


def turned(center: np.ndarray, moving: np.ndarray, pivot: np.ndarray, turns: Rotation) -> np.ndarray:
    """(state, bead, 3): the moving beads turned about the pivot, one state for each rotation."""
    states = np.repeat(center[None], len(turns), axis=0)
    states[:, moving] = np.einsum("sij,bj->sbi", turns.as_matrix(), center[moving] - pivot) + pivot
    return states


def about(axis: np.ndarray, degrees: np.ndarray) -> Rotation:
    """Rotations about an axis."""
    return Rotation.from_rotvec(np.deg2rad(degrees)[:, None] * (axis / np.linalg.norm(axis)))


def residues(**chains: np.ndarray) -> gemmi.Structure:
    """Beads (bead, 3) of named chains as C-alpha atoms."""
    structure, model = gemmi.Structure(), gemmi.Model(1)
    for name, center in chains.items():
        chain = gemmi.Chain(name)
        for number, position in enumerate(center, start=1):
            atom, residue = gemmi.Atom(), gemmi.Residue()
            atom.name, atom.element, atom.pos = "CA", gemmi.Element("C"), gemmi.Position(*position)
            residue.name, residue.seqid = "GLY", gemmi.SeqId(number, " ")
            residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    return structure


def even(states: int) -> np.ndarray:
    """Equal shares."""
    return np.full(states, 1 / states)


def repeated(values: np.ndarray, states: int) -> np.ndarray:
    """The same amplitudes for all states."""
    return np.repeat(values[None], states, axis=0)


def ball(beads: int, center: tuple[float, float, float], axes: tuple[float, float, float], seed: int) -> np.ndarray:
    """(bead, 3): random beads in an ellipsoid whose semi-axes are in proportion to `axes`, at a protein's density."""
    generator = np.random.default_rng(seed)
    direction = generator.normal(size=(beads, 3))
    place = direction / np.linalg.norm(direction, axis=1, keepdims=True) * generator.random((beads, 1)) ** (1 / 3)
    scale = (3 * beads / (4 * np.pi * DENSITY * np.prod(axes))) ** (1 / 3)
    return np.asarray(center) + place * scale * np.asarray(axes)


# --- Chen & Ludtke 2021 ----------------------------------------------------------------------------------------------


def track(states: int = 20, length: float = 64.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A core with a domain that slides along it by more than its own width of 34 Å: centres, weights, positions (Å)."""
    core = ball(700, (0, 0, -12), (1.5, 1.0, 0.7), 1)
    domain = ball(130, (0, 0, 30), (1, 1, 1), 2)
    position = np.linspace(-length / 2, length / 2, states)
    center = np.repeat(np.concatenate([core, domain])[None], states, axis=0)
    center[:, len(core) :, 0] += position[:, None]
    return center, np.full(center.shape[1], RESIDUE), position


def linear(model: Path | None) -> Ensemble:
    """A domain slides along a line longer than itself; one latent dimension."""
    center, weight, position = track()
    return Ensemble(center, repeated(weight, len(center)), even(len(center)), targets=position[:, None], latent_dim=1)


def ring(model: Path | None) -> Ensemble:
    """A domain circles about an axis: 36 states."""
    core, domain = ball(700, (0, 0, -14), (1.0, 1.0, 0.7), 3), ball(130, (24, 0, 24), (1, 1, 1), 4)
    angle = np.arange(36) * 10.0
    both = np.concatenate([core, domain])
    center = turned(both, np.arange(len(both)) >= len(core), np.zeros(3), about(np.array([0, 0, 1.0]), angle))
    weight = np.full(len(both), RESIDUE)
    return Ensemble(center, repeated(weight, 36), even(36), angle=angle, docked=residues(A=core, B=domain))


def curves(model: Path | None) -> Ensemble:
    """The line of `linear`, and in half of the particles an extra density."""
    center, weight, position = track()
    extra = ball(80, (0, 34, -8), (1, 1, 1), 5)
    states = np.concatenate([center, np.repeat(extra[None], len(center), axis=0)], axis=1)
    weight = np.append(weight, np.full(len(extra), RESIDUE))
    without = weight * (np.arange(len(weight)) < center.shape[1])
    amplitude = np.concatenate([repeated(without, len(center)), repeated(weight, len(center))])
    label = np.repeat([0, 1], len(center))
    targets = np.tile(position, 2)[:, None]
    return Ensemble(np.tile(states, (2, 1, 1)), amplitude, even(2 * len(center)), targets=targets, label=label)


# --- antibodies ------------------------------------------------------------------------------------------------------


def swing(model: Path | None) -> Ensemble:
    """One arm opens through 90 degrees: 100 states."""
    molecule = antibody(model)
    arm, hinge = molecule.arms[0], molecule.hinge
    fixed = ~(arm | molecule.arms[1])
    axis = np.cross(molecule.center[arm].mean(0) - hinge, molecule.center[fixed].mean(0) - hinge)
    angle = np.linspace(-45, 45, 100)
    center = turned(molecule.center, arm, hinge, about(axis, angle))
    amplitude = repeated(molecule.weight, 100)
    return Ensemble(center, amplitude, even(100), targets=angle[:, None], docked=molecule.structure)


def turn(model: Path | None) -> Ensemble:
    """One arm through a full turn about an axis 60 degrees from its long one: 100 states (as IgG-1D)."""
    molecule = antibody(model)
    arm, hinge = molecule.arms[0], molecule.hinge
    along = molecule.center[arm].mean(0) - hinge
    across = np.cross(along, molecule.center[~arm].mean(0) - hinge)
    axis = about(across, np.array([60.0])).apply(along)[0]
    angle = np.arange(100) * 3.6
    center = turned(molecule.center, arm, hinge, about(axis, angle))
    return Ensemble(center, repeated(molecule.weight, 100), even(100), angle=angle, docked=molecule.structure)


def linker(model: Path | None) -> Ensemble:
    """One arm at 100 random orientations and places about its hinge, clear of the rest (as IgG-RL).

    What is to be found are the three coordinates of the arm's centre, in Å.
    """
    molecule = antibody(model)
    arm, hinge = molecule.arms[0], molecule.hinge
    generator, rest = np.random.default_rng(6), molecule.center[~arm]
    centers: list[np.ndarray] = []
    while len(centers) < 100:
        rotation = Rotation.from_rotvec(generator.normal(scale=0.8, size=3))
        center = turned(molecule.center, arm, hinge, Rotation.concatenate([rotation]))[0]
        center[arm] += generator.normal(scale=5.0, size=3)
        near = np.linalg.norm(center[arm][::5, None] - rest[None, ::5], axis=-1) < 6.0
        if near.sum() <= 3:
            centers.append(center)
    center = np.stack(centers)
    amplitude, targets = repeated(molecule.weight, 100), center[:, arm].mean(1)
    return Ensemble(center, amplitude, even(100), targets=targets, docked=molecule.structure)


def composition(model: Path | None) -> Ensemble:
    """All of it; without one arm; without the other; without a variable domain; in 40, 25, 20 and 15 %."""
    molecule = antibody(model)
    absent = [np.zeros(len(molecule.center), bool), *molecule.arms, molecule.tip]
    amplitude = np.stack([molecule.weight * ~part for part in absent])
    share = np.array([0.4, 0.25, 0.2, 0.15])
    return Ensemble(np.repeat(molecule.center[None], 4, axis=0), amplitude, share, label=np.arange(4), separate=True)


def null(model: Path | None) -> Ensemble:
    """Nothing varies."""
    molecule = antibody(model)
    return Ensemble(molecule.center[None], molecule.weight[None], even(1), docked=molecule.structure)


# --- others ----------------------------------------------------------------------------------------------------------


def tilt(model: Path | None) -> Ensemble:
    """A rigid domain tilts through 40 degrees on a core: 41 states."""
    core, domain = ball(700, (0, 0, -20), (1.2, 1.0, 0.8), 7), ball(250, (0, 0, 32), (0.7, 1.3, 0.8), 8)
    both = np.concatenate([core, domain])
    angle = np.linspace(-20, 20, 41)
    moving = np.arange(len(both)) >= len(core)
    center = turned(both, moving, np.array([0, 0, 8.0]), about(np.array([1.0, 0, 0]), angle))
    weight = np.full(len(both), RESIDUE)
    docked = residues(A=core, B=domain)
    return Ensemble(center, repeated(weight, 41), even(41), targets=angle[:, None], docked=docked)


BLOCKS = (140, 120, 110, 100, 90, 80, 70, 60)  # residues of the assembly's blocks
# Blocks present in each state: nested along two branches that meet in the whole; shares as uneven as CryoBench's
ASSEMBLY = {
    "": 0.03, "1": 0.04, "12": 0.07, "123": 0.13, "1234": 0.09, "14": 0.11, "145": 0.012, "1245": 0.012,
    "1256": 0.04, "12346": 0.036, "12345": 0.054, "123456": 0.015, "123457": 0.106, "1234567": 0.112,
    "1234568": 0.121, "12345678": 0.02,
}  # fmt: skip


def assembly(model: Path | None) -> Ensemble:
    """A core and eight blocks that are present in 16 combinations (as Ribosembly)."""
    generator = np.random.default_rng(9)
    core = ball(900, (0, 0, 0), (1.2, 1.0, 0.8), 9)
    direction = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / np.sqrt(3)
    direction += generator.normal(scale=0.15, size=direction.shape)
    parts = [
        ball(size, tuple(48 * np.array([1.15, 1.0, 0.85]) * way), (1, 1, 1), 10 + number)
        for number, (size, way) in enumerate(zip(BLOCKS, direction, strict=True))
    ]
    center = np.concatenate([core, *parts])
    block = np.repeat(np.arange(9), [len(core), *BLOCKS])
    present = [np.isin(block, [0, *(int(letter) for letter in name)]) for name in ASSEMBLY]
    amplitude = RESIDUE * np.stack(present).astype(float)
    share = np.array(list(ASSEMBLY.values()))
    states = len(ASSEMBLY)
    return Ensemble(
        np.repeat(center[None], states, axis=0),
        amplitude,
        share / share.sum(),
        label=np.arange(states),
        latent_dim=8,
        separate=True,
    )


SETS: dict[str, Callable[[Path | None], Ensemble]] = {
    make.__name__: make for make in (linear, ring, curves, swing, composition, turn, linker, assembly, tilt, null)
}
