"""Selections of atoms, in gemmi's syntax."""

import gemmi
import numpy as np
from jaxtyping import Bool

from gaussemble.errors import InputError
from gaussemble.io.atoms import Atoms


def selected_atoms(key: str, text: str, atoms: Atoms) -> Bool[np.ndarray, " atom"]:
    """Which atoms a selection names; raises InputError where it cannot be read or finds nothing."""
    try:
        selection = gemmi.Selection(text)
    except (RuntimeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"option {key}, {text!r}: no selection such as A or A,B/220-334 ({reason})") from error
    structure = atoms.structure.clone()
    for serial, site in enumerate(structure[0].all()):
        site.atom.serial = serial
    found = [site.atom.serial for site in selection.copy_structure_selection(structure)[0].all()]
    if not found:
        chains = ", ".join(dict.fromkeys(map(str, atoms.chain)))
        raise InputError(f"option {key}, {text!r}, finds no atom of the seeds' model; its chains are {chains}")
    chosen = np.zeros(len(atoms), dtype=bool)
    chosen[found] = True
    return chosen
