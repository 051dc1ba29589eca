"""Build the demo's molecule: three domains of ideal helices and sheets in a Y, written as mmCIF.

    python resources/build_demo_molecule.py [OUT.cif]

Chain A is the core: a bundle of seventeen helices. Chain B is an arm on a neck of two long helices, with a bundle and a
beta sandwich at its tip. Chain C is another arm: a parallel sheet between layers of helices. No two of them are alike.

Helices and strands have ideal internal coordinates: backbone and CB grow atom by atom from phi, psi and omega. Each is
moved onto its axis as a rigid body; loops are circular arcs of C-alphas 3.8 Å apart, with a planar peptide on each.
Side chains stop at CB. Nothing is random and coordinates are rounded to 0.001 Å: a rebuild gives the same bytes.

It is no model of a real protein and no energy was minimised; its purpose is density that looks like a protein's at 4 Å
or worse, with known motion and occupancy.
"""

import sys
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import gemmi
import numpy as np
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation

CENTER = np.full(3, 128.0)  # Å: the origin of a box of 64 voxels of 4 Å whose corner voxel is at 0
LINK = 3.80  # Å between neighbouring C-alphas of trans peptides
TAU = np.deg2rad(111.0)  # the angle N-CA-C

# Engh & Huber (1991) bond lengths in Å and angles in degrees.
N_CA, CA_C, C_N, C_O = 1.458, 1.525, 1.329, 1.231
CA_C_N, C_N_CA, CA_C_O = 117.2, 121.7, 120.1


@dataclass(frozen=True)
class Fold:
    """A kind of secondary structure: its torsion angles in degrees and the residue names that it cycles through."""

    phi: float
    psi: float
    omega: float
    names: str


# 1.50 Å a residue and 2.96 Å from O to the N four residues on
HELIX = Fold(-63.0, -42.0, 178.0, "LEKALRELVKKAEEIMQKAAEQL")
STRAND = Fold(-125.0, 130.0, 180.0, "VTIKVEYRVTFQIHVS")
LOOP_NAMES = "GDSNGTKPEDGSAN"


@dataclass(frozen=True)
class Element:
    """One helix or strand: from start to end (Å); CBs of a strand point along +-normal."""

    fold: Fold
    start: np.ndarray
    end: np.ndarray
    normal: np.ndarray

    @property
    def direction(self) -> np.ndarray:
        """The unit vector from start to end."""
        return unit(self.end - self.start)


@dataclass(frozen=True)
class Chain:
    """A built chain: backbone (residue, atom N CA C O, 3) in Å, a letter h, e or l and a residue name per residue."""

    backbone: np.ndarray
    kind: str
    sequence: str


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length one."""
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def place_atom(a: np.ndarray, b: np.ndarray, c: np.ndarray, bond: float, angle: float, torsion: float) -> np.ndarray:
    """The atom d with |cd| = bond (Å), angle bcd and torsion abcd in degrees (NeRF: Parsons et al. 2005)."""
    angle, torsion = np.deg2rad([angle, torsion])
    along = unit(c - b)
    normal = unit(np.cross(b - a, along))
    local = np.array([-np.cos(angle), np.sin(angle) * np.cos(torsion), np.sin(angle) * np.sin(torsion)])
    return c + bond * local @ np.stack([along, np.cross(normal, along), normal])


def grow_backbone(fold: Fold, residues: int) -> np.ndarray:
    """(residue, 4, 3): N, CA, C, O of an ideal stretch, in an arbitrary frame."""
    n = np.zeros(3)
    ca = np.array([N_CA, 0.0, 0.0])
    c = ca + CA_C * np.array([-np.cos(TAU), np.sin(TAU), 0.0])
    backbone = []
    for _ in range(residues):
        next_n = place_atom(n, ca, c, C_N, CA_C_N, fold.psi)
        oxygen = place_atom(n, ca, c, C_O, CA_C_O, fold.psi + 180.0)
        backbone.append([n, ca, c, oxygen])
        next_ca = place_atom(ca, c, next_n, N_CA, C_N_CA, fold.omega)
        next_c = place_atom(c, next_n, next_ca, CA_C, np.rad2deg(TAU), fold.phi)
        n, ca, c = next_n, next_ca, next_c
    return np.array(backbone)


def screw_of(backbone: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Direction and a point of the screw axis that takes each residue to the next, and the rise along it in Å."""
    first, second = backbone[0, :3], backbone[1, :3]
    rotation, _ = Rotation.align_vectors(second - second.mean(0), first - first.mean(0))
    direction = unit(rotation.as_rotvec())
    move = second.mean(0) - rotation.apply(first.mean(0))
    rise = move @ direction
    point = np.linalg.lstsq(np.eye(3) - rotation.as_matrix(), move - rise * direction, rcond=None)[0]
    return (direction, point, rise) if rise > 0 else (-direction, point, -rise)


def beta_carbons(backbone: np.ndarray) -> np.ndarray:
    """(residue, 3): CB at its ideal place on an L residue."""
    n, ca, c = backbone[:, 0], backbone[:, 1], backbone[:, 2]
    b, c = ca - n, c - ca
    return ca - 0.58273431 * np.cross(b, c) + 0.56802827 * b - 0.54067466 * c


def build_element(element: Element) -> np.ndarray:
    """(residue, 4, 3): an ideal helix or strand that lies on the element's axis, centred between its ends."""
    direction, point, rise = screw_of(grow_backbone(element.fold, 2))
    residues = 1 + round(float(np.linalg.norm(element.end - element.start)) / rise)
    backbone = grow_backbone(element.fold, residues)
    side = beta_carbons(backbone) - backbone[:, 1]
    side = (side * (-1.0) ** np.arange(residues)[:, None]).sum(0) if element.fold is STRAND else side[0]
    frame = axis_frame(direction, side)
    middle = point + direction * (direction @ (backbone[:, 1].mean(0) - point))
    turned = (backbone - middle) @ frame.T @ axis_frame(element.direction, element.normal)
    return turned + (element.start + element.end) / 2


def axis_frame(axis: np.ndarray, side: np.ndarray) -> np.ndarray:
    """(3, 3): rows are an orthonormal frame with z along the axis and x as near to the side as can be."""
    z = unit(axis)
    x = unit(side - z * (side @ z))
    return np.stack([x, np.cross(z, x), z])


# --- loops -----------------------------------------------------------------------------------------------------------


def arc(start: np.ndarray, end: np.ndarray, outward: np.ndarray, links: int, zigzag: float) -> np.ndarray:
    """(links + 1, 3): C-alphas from start to end on a circular arc that bulges outward, all links LINK Å long.

    `zigzag` (radians) is how far links lean out of the arc's plane, by turns to either side; for even numbers of links.
    """
    chord = float(np.linalg.norm(end - start)) / np.cos(zigzag)
    turn = brentq(lambda t: LINK * np.sin(links * t / 2) / np.sin(t / 2) - chord, 1e-6, 2 * np.pi / links - 1e-9)
    angles = turn * (np.arange(links) - (links - 1) / 2)
    along = unit(end - start)
    out = unit(outward - along * (outward @ along))
    planar = np.cos(angles)[:, None] * along - np.sin(angles)[:, None] * out
    aside = np.sin(zigzag) * (-1.0) ** np.arange(links)[:, None] * np.cross(along, out)
    return np.concatenate([start[None], start + np.cumsum(LINK * (np.cos(zigzag) * planar + aside), 0)])


def loop_penalty(trace: np.ndarray, first_n: np.ndarray, last_c: np.ndarray, others: np.ndarray) -> float:
    """Degrees by which angles at C-alphas leave what peptides allow, and 20 for each Å below 5 Å to other C-alphas."""
    inside = excess(np.rad2deg(bend(trace[:-2], trace[1:-1], trace[2:])), 92, 130)
    ends = excess(np.rad2deg(bend(first_n, trace[0], trace[1])), 94, 128)
    ends += excess(np.rad2deg(bend(trace[-2], trace[-1], last_c)), 98, 124)
    distances = np.linalg.norm(trace[1:-1, None] - others[None], axis=-1)
    return float(inside.sum() + ends + 20 * np.maximum(5.0 - distances, 0).sum() + 1.5 * len(trace))


def excess(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """How far values are outside a range."""
    return np.maximum(values - high, 0) + np.maximum(low - values, 0)


def choose_loop(before: np.ndarray, after: np.ndarray, outward: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(links + 1, 3): the best arc from the last residue before to the first one after, their C-alphas included.

    Args:
        before: (4, 3) backbone of the residue from which the loop starts.
        after: (4, 3) backbone of the residue at which it ends.
        outward: (3,) direction of the bulge.
        others: (n, 3) C-alphas to keep away from.
    """
    start, end = before[1], after[1]
    axis, chord = unit(end - start), float(np.linalg.norm(end - start))
    candidates = []
    for links, zigzag, tilt in product(
        range(3, 10), np.deg2rad([0, -30, -20, 20, 30]), np.deg2rad(np.arange(-90, 91, 15))
    ):
        if links * LINK * np.cos(zigzag) > chord + 0.05 and (zigzag == 0 or links % 2 == 0):
            trace = arc(start, end, Rotation.from_rotvec(tilt * axis).apply(outward), links, float(zigzag))
            candidates.append((round(loop_penalty(trace, before[0], after[2], others), 6), len(candidates), trace))
    return min(candidates)[2]


def peptide_atoms(start: np.ndarray, end: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(angle, 3, 3): C, O and the next N of planar trans peptides between two C-alphas, turned about the link."""
    ca, c = np.zeros(3), np.array([CA_C, 0.0, 0.0])
    aside = np.array([0.0, 1.0, 0.0])
    n = place_atom(aside, ca, c, C_N, CA_C_N, 180.0)
    oxygen = place_atom(aside, ca, c, C_O, CA_C_O, 0.0)
    next_ca = place_atom(ca, c, n, N_CA, C_N_CA, 180.0)
    planar = np.stack([c, oxygen, n]) @ axis_frame(next_ca, c).T
    planar[:, 2] *= np.linalg.norm(end - start) / np.linalg.norm(next_ca)
    along = unit(end - start)
    reference = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
    frames = np.stack([axis_frame(along, Rotation.from_rotvec(angle * along).apply(reference)) for angle in angles])
    return start + planar @ frames


def bend(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The angle a-b-c in radians."""
    return np.arccos((unit(a - b) * unit(c - b)).sum(-1).clip(-1, 1))


def lay_peptides(trace: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(link, 3, 3): C, O, next N for each link of a C-alpha trace, each peptide turned about its link.

    The turns, 36 a link, are those on the path of least strain: N-CA-C near to ideal, each O 3 Å from the N after next.

    Args:
        trace: (link + 1, 3) C-alphas, Å.
        before: (2, 4, 3) backbone of the last two residues of the element before; the second one is trace[0]'s.
        after: (2, 4, 3) backbone of the first two of the element after; the first one is trace[-1]'s.
    """
    turns = np.deg2rad(np.arange(0, 360, 10) + 0.5)
    peptides = [peptide_atoms(a, b, turns) for a, b in pairwise(trace)]
    cost = strain(before[1, 0], trace[0], peptides[0][:, 0], before[0, 3], peptides[0][:, 2])
    came_from = []
    for ca, here, there in zip(trace[1:-1], peptides[:-1], peptides[1:], strict=True):
        c, n, oxygen = there[None, :, 0], here[:, None, 2], here[:, None, 1]
        total = cost[:, None] + strain(n, ca, c, oxygen, there[None, :, 2])
        came_from.append(total.argmin(0))
        cost = total.min(0)
    cost = cost + strain(peptides[-1][:, 2], trace[-1], after[0, 2], peptides[-1][:, 1], after[1, 0])
    path = [int(cost.argmin())]
    for choice in reversed(came_from):
        path.append(int(choice[path[-1]]))
    return np.stack([peptide[turn] for peptide, turn in zip(peptides, reversed(path), strict=True)])


def strain(n: np.ndarray, ca: np.ndarray, c: np.ndarray, oxygen: np.ndarray, next_n: np.ndarray) -> np.ndarray:
    """Of one residue: (N-CA-C minus ideal)² in rad², plus 0.1 for each Å below 3 Å from the O before to the N after."""
    near = np.maximum(3.0 - np.linalg.norm(oxygen - next_n, axis=-1), 0)
    return (bend(n, ca, c) - TAU) ** 2 + 0.1 * near


def build_chain(elements: list[Element]) -> Chain:
    """Place the elements and join them by loops."""
    parts = [build_element(element) for element in elements]
    occupied = np.concatenate([part[:, 1] for part in parts])
    backbone, kind, sequence = (
        [parts[0]],
        residue_kind(elements[0]) * len(parts[0]),
        names_of(elements[0].fold, parts, 0),
    )
    for index in range(1, len(elements)):
        before, after = backbone[-1], parts[index].copy()
        outward = elements[index - 1].direction - elements[index].direction
        far = np.linalg.norm(occupied[:, None] - np.stack([before[-1, 1], after[0, 1]])[None], axis=-1).min(1) > 1e-6
        trace = choose_loop(before[-1], after[0], outward, occupied[far])
        peptides = lay_peptides(trace, before[-2:], after[:2])
        loop = np.empty((len(trace) - 2, 4, 3))
        loop[:, 1] = trace[1:-1]
        before[-1, 2:] = peptides[0, :2]
        loop[:, 0], loop[:, 2:] = peptides[:-1, 2], peptides[1:, :2]
        after[0, 0] = peptides[-1, 2]
        backbone += [loop, after]
        occupied = np.concatenate([occupied, loop[:, 1]])
        kind += "l" * len(loop) + residue_kind(elements[index]) * len(after)
        sequence += "".join(LOOP_NAMES[(3 * index + i) % len(LOOP_NAMES)] for i in range(len(loop)))
        sequence += names_of(elements[index].fold, parts, index)
    return Chain(np.concatenate(backbone), kind, sequence)


def residue_kind(element: Element) -> str:
    """The letter of an element's residues: h or e."""
    return "h" if element.fold is HELIX else "e"


def names_of(fold: Fold, parts: list[np.ndarray], index: int) -> str:
    """One-letter names of an element's residues; each element enters the cycle elsewhere."""
    return "".join(fold.names[(7 * index + i) % len(fold.names)] for i in range(len(parts[index])))


# --- the three domains, each in its own frame ------------------------------------------------------------------------


def twisted(fold: Fold, columns: list[tuple[float, float]], levels: list[float], twist: float) -> list[Element]:
    """Elements side by side, alternately up and down, joined at the levels.

    Args:
        fold: of all elements.
        columns: (x, y) of each element's axis in Å.
        levels: height of each joint in Å, one more than there are columns; element i goes from level i to i + 1.
        twist: radians per Å by which the arrangement turns about x.
    """
    return [
        column_element(fold, x, y, low, high, twist)
        for (x, y), low, high in zip(columns, levels[:-1], levels[1:], strict=True)
    ]


def column_element(fold: Fold, x: float, y: float, start: float, end: float, twist: float) -> Element:
    """An element along z at (x, y), from height start to end, after the turn about x."""
    turn = Rotation.from_rotvec([twist * x, 0, 0])
    return Element(fold, turn.apply([x, y, start]), turn.apply([x, y, end]), turn.apply([0.0, 1.0, 0.0]))


def moved(elements: list[Element], rotation: Rotation, shift: list[float]) -> list[Element]:
    """The elements after a rotation and then a shift in Å."""
    return [
        Element(e.fold, rotation.apply(e.start) + shift, rotation.apply(e.end) + shift, rotation.apply(e.normal))
        for e in elements
    ]


def core_domain() -> list[Element]:
    """Chain A: seventeen helices on a hexagonal lattice of 10 Å, of 20 to 32 residues."""
    rows = [
        (0.0, [-18, -8, 2, 12]),
        (8.7, [17, 7, -3, -13]),
        (17.3, [-18, -8, 2, 12]),
        (26.0, [7, -3, -13]),
        (34.6, [-8, 2]),
    ]
    columns = [(float(x), y - 16) for y, row in rows for x in row]
    levels = [-18, 17, -21, 20, -22, 22, -18, 24, -16, 21, -20, 26, -17, 22, -14, 18, -16, 14]
    return twisted(HELIX, columns, levels, 0.012)


def swinging_domain() -> list[Element]:
    """Chain B: fourteen helices, two of which are the neck (z < 0), and a beta sandwich across the tip."""
    rows = [(-17.3, [-10, 0, 10]), (-8.7, [15, 5, -5, -15]), (0.0, [-10, 0, 10]), (8.7, [15, 5, -5, -15])]
    columns = [(float(x), y) for y, row in rows for x in row]
    levels = [21, 3, 24, 1, 26, 2, 25, 0, 27, -20, 26, 1, 28, 4, 25.0]
    sheets = [(5.2 * i - 10.4, -5.0) for i in range(5)] + [(10.4 - 5.2 * i, 5.0) for i in range(5)]
    heights = [0.0, 24, 1, 23, -1, 25, 1, 26, 0, 22, 2]
    sandwich = moved(
        twisted(STRAND, sheets, heights, -0.04),
        Rotation.from_euler("xyz", [90, 0, 25], degrees=True),
        [-7.0, 9.0, 43.0],
    )
    return twisted(HELIX, columns, levels, 0.010) + sandwich


def optional_domain() -> list[Element]:
    """Chain C: eight parallel strands, crossed over by helices on both sides, and a second layer of helices on one."""
    twist, helix, strand = -0.036, HELIX, STRAND
    order = [9.6, 4.8, 0.0, 14.4, 19.2, 24.0, 28.8, 33.6]  # x of the strands, in the order of the chain
    over = [(10.0, 10.0), (0.0, 10.0), (8.0, -10.0), (18.0, -10.0), (28.0, -10.0), (21.5, 10.0), (31.5, 10.0)]
    elements = [column_element(strand, order[0], 0.0, -13.0, 13.0, twist)]
    for x, (helix_x, helix_y) in zip(order[1:], over, strict=True):
        elements.append(column_element(helix, helix_x, helix_y, 13.0, -13.0, twist))
        elements.append(column_element(strand, x, 0.0, -13.0, 13.0, twist))
    outer = [(38.0, -10.0), (33.0, -19.0), (23.0, -19.0), (13.0, -19.0)]
    return elements + twisted(helix, outer, [13.0, -13.0, 12.0, -14.0, 10.0], twist)


# --- the molecule ----------------------------------------------------------------------------------------------------

# Where each domain's own origin goes, in Å, and how it is turned (Euler angles xyz in degrees).
PLACES = {
    "A": (core_domain, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    "B": (swinging_domain, [-26.0, 0.0, 47.0], [0.0, -52.0, 0.0]),
    "C": (optional_domain, [27.0, 3.0, 43.0], [20.0, 45.0, 0.0]),
}


def build_molecule() -> dict[str, Chain]:
    """The three chains in place, their C-alphas' centroid at CENTER."""
    chains = {}
    for name, (domain, shift, angles) in PLACES.items():
        chain = build_chain(domain())
        turned = Rotation.from_euler("xyz", angles, degrees=True).apply(chain.backbone.reshape(-1, 3))
        chains[name] = Chain(turned.reshape(chain.backbone.shape) + shift, chain.kind, chain.sequence)
    return chains


def to_structure(chains: dict[str, Chain]) -> gemmi.Structure:
    """A gemmi structure with its atoms' centroid at CENTER, entities, sequences, helices and strands."""
    structure = gemmi.Structure()
    structure.name = "gaussemble_demo_molecule"
    model = gemmi.Model(1)
    for name, chain in chains.items():
        model.add_chain(to_gemmi_chain(name, chain))
        add_secondary_structure(structure, name, chain.kind, chain.sequence)
    structure.add_model(model)
    center_atoms(structure[0])
    structure.setup_entities()
    for chain in structure[0]:
        structure.get_entity_of(chain.get_polymer()).full_sequence = [residue.name for residue in chain]
    structure.assign_label_seq_id()
    structure.assign_serial_numbers()
    return structure


def to_gemmi_chain(name: str, chain: Chain) -> gemmi.Chain:
    """Residues numbered from 1, atoms N CA C O CB (no CB on glycine)."""
    built = gemmi.Chain(name)
    carbons = beta_carbons(chain.backbone)
    for number, (letter, atoms, carbon) in enumerate(
        zip(chain.sequence, chain.backbone, carbons, strict=True), start=1
    ):
        residue = gemmi.Residue()
        residue.name = gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA)
        residue.seqid = gemmi.SeqId(str(number))
        for atom_name, position in zip(["N", "CA", "C", "O", "CB"], [*atoms, carbon], strict=True):
            if atom_name != "CB" or letter != "G":
                residue.add_atom(to_atom(atom_name, position))
        built.add_residue(residue)
    return built


def to_atom(name: str, position: np.ndarray) -> gemmi.Atom:
    """One atom at full occupancy; element from its name's first letter."""
    atom = gemmi.Atom()
    atom.name, atom.element, atom.occ, atom.b_iso = name, gemmi.Element(name[0]), 1.0, 50.0
    atom.pos = gemmi.Position(*position)
    return atom


def center_atoms(model: gemmi.Model) -> None:
    """Shift the model so that the mean of its atoms is CENTER; round to the file's 0.001 Å."""
    atoms = [atom for chain in model for residue in chain for atom in residue]
    shift = CENTER - np.mean([atom.pos.tolist() for atom in atoms], axis=0)
    for atom in atoms:
        atom.pos = gemmi.Position(*np.round(np.array(atom.pos.tolist()) + shift, 3))


def add_secondary_structure(structure: gemmi.Structure, name: str, kind: str, sequence: str) -> None:
    """Records of the chain's helices and strands (each strand of a chain in one sheet)."""
    sheet = gemmi.Sheet(name)
    for letter, first, last in runs(kind):
        start, end = (address(name, number, sequence) for number in (first, last))
        if letter == "h":
            helix = gemmi.Helix()
            helix.start, helix.end, helix.length = start, end, last - first + 1
            helix.pdb_helix_class = gemmi.Helix.HelixClass.RAlpha
            structure.helices.append(helix)
        elif letter == "e":
            strand = gemmi.Sheet.Strand()
            strand.start, strand.end, strand.name = start, end, str(len(sheet.strands) + 1)
            sheet.strands.append(strand)
    if len(sheet.strands):
        structure.sheets.append(sheet)


def runs(kind: str) -> list[tuple[str, int, int]]:
    """(letter, first, last) of each stretch of equal letters, counted from 1."""
    starts = [i for i in range(len(kind)) if i == 0 or kind[i] != kind[i - 1]]
    return [(kind[start], start + 1, end) for start, end in zip(starts, [*starts[1:], len(kind)], strict=True)]


def address(chain: str, number: int, sequence: str) -> gemmi.AtomAddress:
    """Where a residue is, for the secondary structure records."""
    name = gemmi.expand_one_letter(sequence[number - 1], gemmi.ResidueKind.AA)
    return gemmi.AtomAddress(chain, gemmi.SeqId(str(number)), name, "CA", "\0")


def write_molecule(path: Path) -> None:
    """Build the molecule and write it as mmCIF."""
    structure = to_structure(build_molecule())
    path.write_text(structure.make_mmcif_document().as_string())


if __name__ == "__main__":
    write_molecule(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("demo_molecule.cif"))
