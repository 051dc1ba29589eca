"""Atomic models as arrays: what scatters, grouped into beads; morphed models are written.

Which of a file's atoms are taken is the matter of `io.structures`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np
from jaxtyping import Float64, Int

from gaussemble.io.files import written
from gaussemble.io.structures import Choice, read_structure
from gaussemble.progress import say

Grouping = Literal["atom", "residue", "calpha"]
WHOLE = Choice()
UNKNOWN_ELEMENT = 6  # an atom of unknown element (X) counts as a carbon

# the categories of mmCIF that are written, by gemmi's names
OUTPUT_GROUPS = ("atoms", "group_pdb", "block_name", "entry", "cell", "symmetry", "chem_comp", "struct_asym")
OUTPUT_GROUPS += ("entity", "entity_poly", "entity_poly_seq", "struct_conf", "struct_sheet", "conn", "cis")


@dataclass(frozen=True)
class Atoms:
    """An atomic model as arrays, and the structure that they were read from, atom for atom in the same order.

    `chain`, `number` (with insertion code) and `residue_name` have one entry per residue; `residue` is each atom's
    index into them. Strings are as the authors' numbering has them (auth_asym_id, auth_seq_id in mmCIF).
    """

    structure: gemmi.Structure
    position: Float64[np.ndarray, "atom 3"]  # Å, (x, y, z), map frame
    electrons: Float64[np.ndarray, " atom"]  # atomic number
    residue: Int[np.ndarray, " atom"]
    name: np.ndarray  # (atom,) str
    chain: np.ndarray  # (residue,) str
    number: np.ndarray  # (residue,) str
    residue_name: np.ndarray  # (residue,) str
    left_out: dict[str, int] = field(default_factory=dict)  # sites of the file that are not here, by reason

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True)
class Beads:
    """Groups of points: where, how heavy, how wide."""

    position: Float64[np.ndarray, "bead 3"]  # Å, map frame
    weight: Float64[np.ndarray, " bead"]  # electrons for atoms
    spread: Float64[np.ndarray, " bead"]  # Å, standard deviation along one axis of the weight round `position`

    def __len__(self) -> int:
        return len(self.position)


def read_atoms(path: Path, choice: Choice = WHOLE) -> Atoms:
    """Read PDB or mmCIF, gzipped or not; what is left out is said.

    Raises:
        InputError: as `io.structures.read_structure`.
    """
    selected = read_structure(path, choice)
    atoms = _as_arrays(selected.structure, selected.left_out)
    dropped = ", ".join(f"{count} {reason}" for reason, count in atoms.left_out.items() if count)
    say(
        f"{path}: {len(atoms)} atoms in {len(atoms.chain)} residues of {len(set(atoms.chain))} chains"
        + (f"; left out: {dropped}" if dropped else "")
    )
    return atoms


def group_atoms(atoms: Atoms, grouping: Grouping) -> Beads:
    """One bead per atom, per residue at its centroid, or per residue at its C-alpha (P in nucleic acids).

    Residues without such an atom (ligands, ions, a 5' end without phosphate) stay at their centroid, so that nothing
    that scatters is lost.
    """
    if grouping == "atom":
        return Beads(atoms.position, atoms.electrons, np.zeros(len(atoms)))
    beads = gather(atoms.position, atoms.electrons, atoms.residue, len(atoms.chain))
    if grouping == "residue":
        return beads
    trace = trace_atoms(atoms)
    position = beads.position.copy()
    position[atoms.residue[trace]] = atoms.position[trace]
    squared = ((atoms.position - position[atoms.residue]) ** 2).sum(1) / 3
    moment = np.bincount(atoms.residue, atoms.electrons * squared, len(beads)) / beads.weight
    return Beads(position, beads.weight, np.sqrt(moment))


def gather(
    position: Float64[np.ndarray, "point 3"],
    weight: Float64[np.ndarray, " point"],
    label: Int[np.ndarray, " point"],
    count: int,
) -> Beads:
    """Weighted centroid, total weight and spread of the points of each label 0..count-1; each must have a point."""
    total = np.bincount(label, weight, count)
    centroid = np.stack([np.bincount(label, weight * axis, count) for axis in position.T], 1) / total[:, None]
    squared = ((position - centroid[label]) ** 2).sum(1) / 3
    return Beads(centroid, total, np.sqrt(np.bincount(label, weight * squared, count) / total))


def write_models(path: Path, atoms: Atoms, positions: list[Float64[np.ndarray, "atom 3"]]) -> None:
    """Write one mmCIF with a model 1, 2, ... per array of positions; chains, residues and numbering as they were read.

    Secondary structure, sequence and bonds go along; statistics of the refinement do not, as they are not true of
    moved atoms.
    """
    structure = atoms.structure.clone()
    del structure[0]
    for number, position in enumerate(positions, start=1):
        model = atoms.structure[0].clone()
        model.num = number
        for site, place in zip(model.all(), position, strict=True):
            site.atom.pos = gemmi.Position(*place)
        structure.add_model(model)
    document = structure.make_mmcif_document(_output_groups())
    with written(path) as temporary:
        temporary.write_text(document.as_string())


def _as_arrays(structure: gemmi.Structure, left_out: dict[str, int]) -> Atoms:
    model = structure[0]
    sites = [site.atom for site in model.all()]
    residues = [(chain.name, str(residue.seqid), residue.name, len(residue)) for chain in model for residue in chain]
    chain, number, residue_name, sizes = zip(*residues, strict=True)
    return Atoms(
        structure=structure,
        position=np.array([atom.pos.tolist() for atom in sites], dtype=np.float64),
        electrons=np.array([atom.element.atomic_number or UNKNOWN_ELEMENT for atom in sites], dtype=np.float64),
        residue=np.repeat(np.arange(len(sizes)), sizes),
        name=np.array([atom.name for atom in sites]),
        chain=np.array(chain),
        number=np.array(number),
        residue_name=np.array(residue_name),
        left_out=left_out,
    )


def trace_atoms(atoms: Atoms) -> Int[np.ndarray, " site"]:
    """The atom of each residue that has one: C-alpha (a carbon, not calcium), else phosphorus of a nucleotide.

    Other residues with phosphorus (lipids, phosphorylated amino acids) have no trace there.
    """
    alpha = (atoms.name == "CA") & (atoms.electrons == 6)
    nucleotide = np.isin(np.arange(len(atoms.chain)), atoms.residue[np.isin(atoms.name, ["C4'", "C4*"])])
    known = [gemmi.find_tabulated_residue(str(name)).is_nucleic_acid() for name in atoms.residue_name]
    phosphorus = (atoms.name == "P") & (atoms.electrons == 15) & (nucleotide | known)[atoms.residue]
    return np.flatnonzero(alpha | (phosphorus & ~np.isin(atoms.residue, atoms.residue[alpha])))


def _output_groups() -> gemmi.MmcifOutputGroups:
    groups = gemmi.MmcifOutputGroups(False)
    for group in OUTPUT_GROUPS:
        setattr(groups, group, True)
    return groups
