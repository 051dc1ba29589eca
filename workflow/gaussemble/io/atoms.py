"""Atomic models: read what scatters, group it into beads, write morphed models.

Kept: every polymer, ligand and ion of the first model, one conformer of each residue, also atoms of occupancy 0 (they
are part of the model that is morphed). Left out, and said: waters, hydrogens, the other conformers, further models.
Strict non-crystallographic copies that the file describes but does not hold are not made; that too is said.
"""

import gzip
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np
from jaxtyping import Float64, Int

from gaussemble.errors import InputError
from gaussemble.io.files import written
from gaussemble.progress import say

Grouping = Literal["atom", "residue", "calpha"]
GZIP = b"\x1f\x8b"
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


def read_atoms(path: Path) -> Atoms:
    """Read PDB or mmCIF, gzipped or not; raises InputError where it cannot be read or holds no atoms to use."""
    structure = _read_structure(path)
    _keep_first_model(path, structure)
    before = structure[0].count_atom_sites()
    structure.remove_waters()
    structure.remove_hydrogens()
    conformers = _keep_one_conformer(structure[0])
    structure.remove_empty_chains()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise InputError(
            f"{path}: {before} atom sites, none of them left without waters and hydrogens; give an atomic model"
        )
    structure.setup_entities()
    atoms = _as_arrays(structure)
    _refuse_unknown_positions(path, atoms)
    say(
        f"{path}: {len(atoms)} atoms in {len(atoms.chain)} residues; left out {before - len(atoms)} sites "
        f"(waters, hydrogens, {conformers} of other conformers)"
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
    trace = np.flatnonzero(_is_trace(atoms))
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


def _read_structure(path: Path) -> gemmi.Structure:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an atomic model (PDB or mmCIF, may be gzipped)")
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)  # raises where the file was cut off, which gemmi forgives
        structure = gemmi.read_structure_string(content)
    except (RuntimeError, ValueError, IndexError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as PDB or mmCIF ({' '.join(str(error).split())})") from error
    if len(structure) == 0:
        raise InputError(f"{path}: no atoms in it; give an atomic model (PDB or mmCIF)")
    if structure.input_format == gemmi.CoorFormat.Pdb:
        structure.name = path.name.split(".")[0]
    return structure


def _keep_first_model(path: Path, structure: gemmi.Structure) -> None:
    """Drop all models but the first; say so, and say that symmetry copies are not made."""
    if len(structure) > 1:
        say(f"{path}: {len(structure)} models, the first is used")
    del structure[1:]
    missing = sum(not operator.given for operator in structure.ncs)
    if missing:
        say(f"{path}: {missing} strict NCS copies that the file describes but does not hold are not made")


def _keep_one_conformer(model: gemmi.Model) -> int:
    """Keep the conformer of highest occupancy of each residue (of equals the first); the number of sites dropped.

    Where a conformer has only some of a residue's atoms, the others come from the next in rank. Where conformers are
    different residues at one place in the sequence (microheterogeneity), one residue stays.
    """
    before = model.count_atom_sites()
    for chain in model:
        for residue in chain:
            if any(atom.has_altloc() for atom in residue):
                _keep_best_sites(residue)
        _keep_best_residues(chain)
    return before - model.count_atom_sites()


def _keep_best_sites(residue: gemmi.Residue) -> None:
    occupancy: dict[str, float] = defaultdict(float)
    for atom in residue:
        occupancy[atom.altloc] += atom.occ
    rank = {altloc: order for order, altloc in enumerate(sorted(occupancy, key=lambda a: -occupancy[a]))}
    best: dict[str, int] = {}
    for index, atom in enumerate(residue):
        if atom.name not in best or rank[atom.altloc] < rank[residue[best[atom.name]].altloc]:
            best[atom.name] = index
    for index in sorted(set(range(len(residue))) - set(best.values()), reverse=True):
        del residue[index]


def _keep_best_residues(chain: gemmi.Chain) -> None:
    """Keep one of the residues that share a number as conformers; then the sites' altloc letters have no meaning."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, residue in enumerate(chain):
        if all(atom.has_altloc() for atom in residue):
            places[str(residue.seqid)].append(index)
    dropped: list[int] = []
    for indices in places.values():
        best = max(indices, key=lambda index: np.mean([atom.occ for atom in chain[index]]))
        dropped += [index for index in indices if index != best]
    for index in sorted(dropped, reverse=True):
        del chain[index]
    for residue in chain:
        for atom in residue:
            atom.altloc = "\0"


def _as_arrays(structure: gemmi.Structure) -> Atoms:
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
    )


def _refuse_unknown_positions(path: Path, atoms: Atoms) -> None:
    bad = np.flatnonzero(~np.isfinite(atoms.position).all(1))
    if len(bad):
        where = atoms.residue[bad[0]]
        place = f"{atoms.chain[where]}/{atoms.residue_name[where]} {atoms.number[where]}/{atoms.name[bad[0]]}"
        raise InputError(f"{path}: {len(bad)} atoms without coordinates, the first is {place}; remove or complete them")


def _is_trace(atoms: Atoms) -> np.ndarray:
    """(atom,) bool: C-alpha (a carbon, not calcium) or backbone phosphorus."""
    return ((atoms.name == "CA") & (atoms.electrons == 6)) | ((atoms.name == "P") & (atoms.electrons == 15))


def _output_groups() -> gemmi.MmcifOutputGroups:
    groups = gemmi.MmcifOutputGroups(False)
    for group in OUTPUT_GROUPS:
        setattr(groups, group, True)
    return groups
