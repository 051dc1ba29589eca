"""Structures of PDB and mmCIF files: the part that is wanted, one conformer, without waters, with copies on request.

Kept: polymers, glycans, ligands, lipids and ions of one model, also residues and elements that are unknown, and atoms
of occupancy 0, as people who fitted a model expect to find it whole. Left out and counted: waters; hydrogens, which
some models have and some have not; conformers but that of highest occupancy; further models.
"""

import gzip
import math
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np

from gaussemble.errors import InputError
from gaussemble.progress import say

GZIP, UTF8_MARK = b"\x1f\x8b", b"\xef\xbb\xbf"
# one for one, so that columns of PDB files stay: letters beyond ASCII stand in names of authors, not of atoms
TO_ASCII = bytes(code if code < 128 else ord("?") for code in range(256))
WATERS = {"TIP", "TIP3", "TIP4", "TP3", "SOL"}  # names that simulation programs give, beside those that gemmi knows


@dataclass(frozen=True)
class Choice:
    """Which atoms of a file are meant."""

    model_number: int | None = None  # as the file numbers its models; the first if none
    selection: str | None = None  # gemmi's syntax, with the file's names, before copies are made
    assembly: str | None = None  # name of a biological assembly that the file describes; as the file stands if none
    ncs: bool = False  # make the strict non-crystallographic copies that the file describes but does not hold


@dataclass(frozen=True)
class Selected:
    """A structure of one model, and how many of the file's atom sites were not taken into it, by reason."""

    structure: gemmi.Structure
    left_out: dict[str, int]


def read_structure(path: Path, choice: Choice) -> Selected:
    """The chosen atoms of a PDB or mmCIF file, gzipped or not.

    Raises:
        InputError: no such file, damaged, no atoms, no such model or assembly; a selection that cannot be read or
            finds nothing; nothing but waters and hydrogens.
    """
    if choice.assembly is not None and choice.ncs:
        raise InputError(
            f"{path}: options assembly ({choice.assembly}) and ncs are both given; give one of them, for an assembly "
            "has all of its copies"
        )
    structure = _parsed(path)
    _keep_model(path, structure, choice.model_number)
    left_out: dict[str, int] = {}
    if choice.selection is not None:
        left_out["not selected"] = _keep_selection(path, structure, choice.selection)
    left_out |= _keep_what_scatters(path, structure)
    _say_unusual(path, structure)
    _refuse_no_place(path, structure)
    if choice.assembly is not None or choice.ncs:
        _make_copies(path, structure, choice)
        _refuse_no_place(path, structure)  # as an operator may be damaged
    else:
        _say_described(path, structure)
    structure.setup_entities()
    return Selected(structure, left_out)


def _parsed(path: Path) -> gemmi.Structure:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an atomic model (PDB or mmCIF, may be gzipped)")
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)  # raises where the file was cut off, which gemmi forgives
        content = content.removeprefix(UTF8_MARK)
        structure = gemmi.read_structure_string(content.translate(TO_ASCII))
    except (RuntimeError, ValueError, IndexError, OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as PDB or mmCIF ({reason})") from error
    if sum(model.count_atom_sites() for model in structure) == 0:
        raise InputError(f"{path}: no atoms in it; give an atomic model (PDB or mmCIF)")
    if structure.input_format == gemmi.CoorFormat.Pdb:
        _refuse_unread_coordinates(path, content)
        structure.name = path.name.split(".")[0]
    return structure


def _refuse_unread_coordinates(path: Path, content: bytes) -> None:
    """Raise InputError where columns 31 to 54 of a PDB file are not three numbers, for which gemmi takes 0."""
    for number, line in enumerate(content.splitlines(), start=1):
        if line[:6].upper() not in (b"ATOM  ", b"HETATM"):
            continue
        try:
            [float(line[start : start + 8]) for start in (30, 38, 46)]
        except ValueError as error:
            found = line[30:54].translate(TO_ASCII).decode()
            raise InputError(
                f"{path}: line {number}: columns 31 to 54 are {found!r}, expected three numbers; write it as mmCIF"
            ) from error


def _keep_model(path: Path, structure: gemmi.Structure, number: int | None) -> None:
    """Drop all models but one; say so."""
    numbers = [model.num for model in structure]
    if number is not None and number not in numbers:
        raise InputError(f"{path}: option model_number, {number}: no such model; it has {_listed(numbers)}")
    kept = 0 if number is None else numbers.index(number)
    if len(numbers) > 1:
        which = "the first" if number is None else f"number {number}"
        say(f"{path}: {len(numbers)} models, {which} is used")
    del structure[kept + 1 :]
    del structure[:kept]


def _keep_selection(path: Path, structure: gemmi.Structure, text: str) -> int:
    """Drop what is not selected; the number of sites dropped."""
    shown = text if text.isprintable() else repr(text)
    try:
        selection = gemmi.Selection(text)
    except (RuntimeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"option selection, {shown}: no selection such as A or A,B/220-334 ({reason})") from error
    chains = _listed([chain.name for chain in structure[0]])
    before = structure[0].count_atom_sites()
    selection.remove_not_selected(structure)
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise InputError(f"{path}: option selection, {shown}, finds no atom; the chains are {chains}")
    _remove_empty(structure)
    return before - structure[0].count_atom_sites()


def _keep_what_scatters(path: Path, structure: gemmi.Structure) -> dict[str, int]:
    """Drop waters, hydrogens, further conformers; the number of sites dropped of each."""
    model = structure[0]
    counts = [model.count_atom_sites()]
    for drop in (structure.remove_waters, lambda: _remove_simulated_waters(model), structure.remove_hydrogens):
        drop()
        counts.append(model.count_atom_sites())
    _remove_empty(structure)
    _keep_one_conformer(model)
    counts.append(model.count_atom_sites())
    if counts[-1] == 0:
        raise InputError(
            f"{path}: {counts[0]} atom sites, none of them left without waters and hydrogens; give an atomic model"
        )
    return {
        "water": counts[0] - counts[2],
        "hydrogen": counts[2] - counts[3],
        "other conformers": counts[3] - counts[4],
    }


def _remove_simulated_waters(model: gemmi.Model) -> None:
    _remove_residues(model, lambda residue: residue.name in WATERS)


def _remove_empty(structure: gemmi.Structure) -> None:
    """Remove the residues and chains that have lost all of their atoms."""
    _remove_residues(structure[0], lambda residue: len(residue) == 0)
    structure.remove_empty_chains()


def _remove_residues(model: gemmi.Model, unwanted: Callable[[gemmi.Residue], bool]) -> None:
    for chain in model:
        for index in reversed(range(len(chain))):
            if unwanted(chain[index]):
                del chain[index]


def _keep_one_conformer(model: gemmi.Model) -> None:
    """Keep the conformer of highest occupancy of each residue (of equals the first).

    Where a conformer has only some of a residue's atoms, the others come from the next in rank. Where conformers are
    different residues at one place in the sequence (microheterogeneity), one residue stays.
    """
    for chain in model:
        for residue in chain:
            if any(atom.has_altloc() for atom in residue):
                _keep_best_sites(residue)
        _keep_best_residues(chain)


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


def _say_unusual(path: Path, structure: gemmi.Structure) -> None:
    """Say how atoms of unknown element and of occupancy 0 are taken."""
    unknown = sum(site.atom.element.atomic_number == 0 for site in structure[0].all())
    if unknown:
        say(f"{path}: {unknown} atoms of unknown element count as carbon")
    absent = sum(site.atom.occ == 0 for site in structure[0].all())
    if absent:
        say(f"{path}: {absent} atoms of occupancy 0 are taken like others (the selection ;q>0 leaves them out)")


def _refuse_no_place(path: Path, structure: gemmi.Structure) -> None:
    """Raise InputError where atoms have no coordinates, or none that are finite."""
    bad = [site for site in structure[0].all() if not math.isfinite(sum(site.atom.pos.tolist()))]
    if bad:
        site = bad[0]
        raise InputError(
            f"{path}: {len(bad)} atoms without coordinates, the first is {site.chain.name}/{site.residue.name} "
            f"{site.residue.seqid}/{site.atom.name}; remove or complete them"
        )


def _make_copies(path: Path, structure: gemmi.Structure, choice: Choice) -> None:
    """Make the copies that are asked for; say how many."""
    before, added = structure[0].count_atom_sites(), _ncs_not_given(structure)
    if choice.assembly is not None:
        _make_assembly(path, structure, choice.assembly)
    elif added == 0:
        raise InputError(f"{path}: option ncs: the file describes no copies that it does not hold; leave it out")
    else:
        try:
            structure.expand_ncs(gemmi.HowToNameCopiedChain.Short)
        except RuntimeError as error:
            raise InputError(f"{path}: option ncs: copies cannot be made ({error}); check their operators") from error
    after = structure[0].count_atom_sites()
    what = f"{added} NCS copies added" if choice.assembly is None else f"assembly {choice.assembly}"
    say(f"{path}: {what}: {before} atoms became {after}, {after / before:.3g} times as many")


def _ncs_not_given(structure: gemmi.Structure) -> int:
    return sum(not operator.given for operator in structure.ncs)


def _make_assembly(path: Path, structure: gemmi.Structure, name: str) -> None:
    names = [assembly.name for assembly in structure.assemblies]
    if name not in names:
        known = f"it has {_listed(names)}" if names else "it describes none"
        raise InputError(f"{path}: option assembly, {name}: no such assembly; {known}")
    _name_present_parts(structure)
    try:
        structure.transform_to_assembly(name, gemmi.HowToNameCopiedChain.Short)
    except RuntimeError as error:
        raise InputError(f"{path}: option assembly, {name}: cannot be made ({error}); give a model of all") from error
    if structure[0].count_atom_sites() == 0:
        raise InputError(f"{path}: option assembly, {name}: none of the chosen atoms belong to it")


def _name_present_parts(structure: gemmi.Structure) -> None:
    """Take chains that were left out (waters, or not selected) from the assemblies' lists: gemmi refuses such."""
    chains = {chain.name for chain in structure[0]}
    parts = {residue.subchain for chain in structure[0] for residue in chain}
    for assembly in structure.assemblies:
        for generator in assembly.generators:
            generator.chains = [name for name in generator.chains if name in chains]
            generator.subchains = [name for name in generator.subchains if name in parts]


def _say_described(path: Path, structure: gemmi.Structure) -> None:
    """Say which copies the file describes and are not made."""
    absent = _ncs_not_given(structure)
    if absent:
        say(f"{path}: {absent} strict NCS copies that the file describes but does not hold are not made (option ncs)")
    for assembly in structure.assemblies:
        operators = max((len(generator.operators) for generator in assembly.generators), default=1)
        if operators > 1:
            say(f"{path}: assembly {assembly.name} would be {operators} copies; not made (option assembly)")


def _listed(names: list) -> str:
    """Names for a message, not more than twenty."""
    rest = f", ... ({len(names)})" if len(names) > 20 else ""
    return ", ".join(map(str, names[:20])) + rest
