"""Gaussian mixtures as npz (for programs) and as pseudo-atoms in mmCIF (for ChimeraX).

In files a mixture's centres are in the map frame, so that it lies on its map and its atomic model.
"""

import math
from pathlib import Path

import gemmi
import numpy as np
import torch

from gaussemble.errors import InputError
from gaussemble.io.files import read_npz, written
from gaussemble.quantities import Map, Mixture

FORMAT = 1


def write_mixture(path: Path, mixture: Mixture, frame: Map, **others: np.ndarray) -> None:
    """Write center (N, 3) Å in the map frame, amplitude (N,), width (N,) Å, box_center (3,) Å, format, and others."""
    with written(path) as temporary:
        np.savez(
            temporary,
            center=mixture.center.detach().cpu().double().numpy() + frame.center,
            amplitude=mixture.amplitude.detach().cpu().double().numpy(),
            width=mixture.width.detach().cpu().double().numpy(),
            box_center=frame.center,
            format=FORMAT,
            **others,  # type: ignore[arg-type]
        )


def read_mixture(path: Path) -> Mixture:
    """The mixture in float32, centres relative to the box's origin; raises InputError where it is not one of ours."""
    data = read_npz(path, "a mixture (center, amplitude, width, box_center, format)")
    try:
        center, box_center, *others = (data[name] for name in ("center", "box_center", "amplitude", "width"))
        if int(data["format"]) != FORMAT:
            raise InputError(f"{path}: format {int(data['format'])}, this version reads {FORMAT}")
    except KeyError as error:
        raise InputError(f"{path}: not a mixture: no array {error}; it has {', '.join(data)}") from error
    _refuse_unfit(path, center, box_center, *others)
    return Mixture(*(torch.from_numpy(part).float() for part in (center - box_center, *others)))


def _refuse_unfit(path: Path, center: np.ndarray, box_center: np.ndarray, *others: np.ndarray) -> None:
    """Raise InputError where arrays do not make up Gaussians, or these are not finite."""
    shapes, count = [part.shape for part in (center, box_center, *others)], len(center) if center.ndim else 0
    if count == 0 or shapes != [(count, 3), (3,), (count,), (count,)]:
        raise InputError(
            f"{path}: center, box_center, amplitude, width are {', '.join(map(str, shapes))}; expected (N, 3), (3,), "
            "(N,), (N,) with N > 0"
        )
    good = np.isfinite(np.column_stack([center - box_center, *others])).all(1) & (others[1] > 0)
    if not good.all():
        row = int(good.argmin())
        raise InputError(
            f"{path}: Gaussian {row} has center {center[row]}, amplitude {others[0][row]:g}, width {others[1][row]:g}; "
            "expected finite numbers, width > 0"
        )


def write_pseudo_atoms(path: Path, mixture: Mixture, frame: Map) -> None:
    """One atom a Gaussian: occupancy = absolute amplitude over the largest, B-factor = 8 pi² width².

    Residues GAU in chain A; Gaussians of negative amplitude as residues NEG in chain B, since an occupancy is not
    negative. A residue's number is the Gaussian's, from 1, in both.
    """
    chains = [gemmi.Chain("A"), gemmi.Chain("B")]
    amplitude = (mixture.amplitude / mixture.amplitude.abs().max()).tolist()
    for number, position in enumerate((mixture.center.double().numpy() + frame.center).tolist()):
        atom = gemmi.Atom()
        atom.name, atom.element = "C", gemmi.Element("C")
        atom.pos = gemmi.Position(*position)
        atom.occ = abs(amplitude[number])
        atom.b_iso = 8 * math.pi**2 * float(mixture.width[number]) ** 2
        residue = gemmi.Residue()
        negative = amplitude[number] < 0
        residue.name, residue.seqid = "NEG" if negative else "GAU", gemmi.SeqId(number + 1, " ")
        residue.het_flag = "H"
        residue.add_atom(atom)
        chains[negative].add_residue(residue)
    model = gemmi.Model(1)
    for chain in chains:
        if len(chain):
            model.add_chain(chain)
    structure = gemmi.Structure()
    structure.name = "mixture"
    structure.add_model(model)
    structure.setup_entities()
    with written(path) as temporary:
        temporary.write_text(structure.make_mmcif_document().as_string())
