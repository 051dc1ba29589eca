"""Which seeds stand for consecutive residues of a chain: what restraints of the neutral fit are made of."""

import numpy as np
from jaxtyping import Int

from gaussemble.io.atoms import Atoms, Grouping, trace_atoms

FARTHEST = {6: 4.5, 15: 8.0}  # Å from one C-alpha, or phosphorus, to the next: farther, residues are missing between


def consecutive(atoms: Atoms, grouping: Grouping) -> dict[str, Int[np.ndarray, "group bead"]]:
    """Pairs (`bonds`) and triples (`angles`) of beads of `group_atoms` that follow each other in a polymer chain.

    Residues follow each other where they do so in the file, in one chain, and their C-alpha (P in nucleic acids) lie
    no farther apart than in a chain without gaps.
    """
    trace = trace_atoms(atoms)
    trace = trace[np.argsort(atoms.residue[trace], kind="stable")]
    residue, element = atoms.residue[trace], atoms.electrons[trace]
    distance = np.linalg.norm(np.diff(atoms.position[trace], axis=0), axis=1)
    farthest = np.array([FARTHEST[int(number)] for number in element[:-1]])
    follows = (np.diff(residue) == 1) & (np.diff(element) == 0) & (distance <= farthest)
    follows &= atoms.chain[residue[:-1]] == atoms.chain[residue[1:]]
    bead = trace if grouping == "atom" else residue
    first = np.flatnonzero(follows)
    middle = np.flatnonzero(follows[:-1] & follows[1:]) + 1
    return {
        "bonds": np.stack([bead[first], bead[first + 1]], axis=1),
        "angles": np.stack([bead[middle - 1], bead[middle], bead[middle + 1]], axis=1),
    }
