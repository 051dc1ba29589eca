"""The files that ship in resources/: made by their script, byte for byte, and what they claim to be."""

import hashlib
import importlib.util
import re
from types import ModuleType

import gemmi
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from conftest import ROOT

RESOURCES = ROOT / "resources"
MODEL = RESOURCES / "demo_molecule.cif"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_demo_molecule", RESOURCES / "build_demo_molecule.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def structure() -> gemmi.Structure:
    return gemmi.read_structure(str(MODEL))


def calphas(structure: gemmi.Structure, chain: str) -> np.ndarray:
    return np.array([residue["CA"][0].pos.tolist() for residue in structure[0][chain]])


def helices(structure: gemmi.Structure) -> list[np.ndarray]:
    """C-alphas of each helix that the file records."""
    return [
        calphas(structure, helix.start.chain_name)[helix.start.res_id.seqid.num - 1 : helix.end.res_id.seqid.num]
        for helix in structure.helices
    ]


def atom_of(residue: gemmi.Residue, name: str) -> np.ndarray:
    return np.array(residue[name][0].pos.tolist())


def torsion(points) -> float:
    return np.rad2deg(gemmi.calculate_dihedral(*(gemmi.Position(*point) for point in points)))


def test_a_rebuild_gives_the_same_bytes_and_the_written_checksum(builder, tmp_path):
    builder.write_molecule(tmp_path / "again.cif")
    assert (tmp_path / "again.cif").read_bytes() == MODEL.read_bytes()
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() in (RESOURCES / "README.md").read_text()


def test_three_chains_numbered_from_one_make_an_antibody_sized_molecule(structure):
    assert [chain.name for chain in structure[0]] == ["A", "B", "C"]
    mass = 0.0
    for chain in structure[0]:
        assert [residue.seqid.num for residue in chain] == list(range(1, len(chain) + 1))
        entity = structure.get_entity_of(chain.get_polymer())
        assert entity.polymer_type == gemmi.PolymerType.PeptideL
        assert entity.full_sequence == [residue.name for residue in chain]
        mass += sum(gemmi.find_tabulated_residue(residue.name).weight - 18.015 for residue in chain)
    assert 130e3 < mass < 160e3
    everything = np.concatenate([calphas(structure, name) for name in "ABC"])
    assert 110 < pdist(everything).max() < 151


def test_the_centroid_is_the_centre_of_a_box_of_64_voxels_of_4_angstroms(structure):
    positions = np.array([site.atom.pos.tolist() for site in structure[0].all()])
    np.testing.assert_allclose(positions.mean(0), 64 // 2 * 4.0, atol=1e-3)


def test_helices_are_ideal_and_right_handed(structure):
    # an alpha helix has 3.6 residues a turn and rises 1.5 Å a residue (Pauling, Corey & Branson 1951)
    assert len(helices(structure)) == 17 + 14 + 11
    for trace in helices(structure):
        np.testing.assert_allclose(np.linalg.norm(trace[1:] - trace[:-1], axis=1), 3.80, atol=0.03)
        np.testing.assert_allclose(np.linalg.norm(trace[3:] - trace[:-3], axis=1), 5.0, atol=0.15)
        np.testing.assert_allclose([torsion(trace[i : i + 4]) for i in range(len(trace) - 3)], 50, atol=3)


def test_backbone_torsions_of_helices_and_strands_are_those_asked_for(structure, builder):
    ranges = [(h.start, h.end, builder.HELIX) for h in structure.helices]
    ranges += [(s.start, s.end, builder.STRAND) for sheet in structure.sheets for s in sheet.strands]
    for start, end, fold in ranges:
        chain = structure[0][start.chain_name]
        for number in range(start.res_id.seqid.num + 1, end.res_id.seqid.num - 1):
            before, here, after = (chain[number - 1 + step] for step in (-1, 0, 1))
            n, ca, c = (atom_of(here, name) for name in ("N", "CA", "C"))
            assert torsion([atom_of(before, "C"), n, ca, c]) == pytest.approx(fold.phi, abs=0.3)  # the file's 0.001 Å
            assert torsion([n, ca, c, atom_of(after, "N")]) == pytest.approx(fold.psi, abs=0.3)


def test_residues_are_l_amino_acids(structure):
    for site in structure[0].all():
        if site.atom.name == "CB":
            n, ca, c = (atom_of(site.residue, name) for name in ("N", "CA", "C"))
            cb = np.array(site.atom.pos.tolist())
            # seen from H towards CA, CO, R and N go clockwise ("CORN")
            assert np.dot(np.cross(n - ca, c - ca), cb - ca) > 0


def test_chains_are_whole_and_do_not_clash(structure):
    for name in "ABC":
        trace = calphas(structure, name)
        np.testing.assert_allclose(np.linalg.norm(np.diff(trace, axis=0), axis=1), 3.80, atol=0.03)
        distance = np.linalg.norm(trace[:, None] - trace, axis=-1)
        assert distance[np.triu_indices(len(trace), 3)].min() > 4.0
    for first, second in ("AB", "AC", "BC"):
        distance = np.linalg.norm(calphas(structure, first)[:, None] - calphas(structure, second), axis=-1)
        assert distance.min() > 4.4
    traces = helices(structure)
    for i, first in enumerate(traces):
        for second in traces[:i]:  # axes 10 Å apart: C-alphas, 2.3 Å off the axis, hardly come nearer than 5
            assert np.linalg.norm(first[:, None] - second, axis=-1).min() > 4.2


def test_no_two_domains_are_alike(structure):
    # principal radii of gyration; a domain that superposes on another has the same three
    radii = []
    for name in "ABC":
        trace = calphas(structure, name)
        radii.append(np.sqrt(np.linalg.eigvalsh(np.cov(trace.T))))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(radii[first] - radii[second]).max() > 1.5
    assert re.search(r"_struct_conf\.", MODEL.read_text())
    assert re.search(r"_struct_sheet_range\.", MODEL.read_text())
