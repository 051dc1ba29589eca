"""Real atomic models, and the real maps that some of them are fitted in."""

import gzip
import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import binary_dilation, gaussian_filter, label
from scipy.spatial import KDTree

from gaussemble.errors import InputError
from gaussemble.fit.placement import check_fit, fit_score
from gaussemble.fit.seeds import Options, model_beads, seeds
from gaussemble.io.atoms import Atoms, group_atoms, read_atoms, write_models
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import read_map, write_map
from gaussemble.io.structures import Choice
from gaussemble.physics.projection import mixture_to_map
from gaussemble.physics.rings import shell_correlation
from gaussemble.quantities import Map

NAMES = [
    *("1ake", "1aon", "1hzh", "1oel", "3j6b_chain9", "4ake", "5dm6", "5dm7", "6xrz_FSE", "6zwv", "7a4m", "7cec_mapq"),
    *("7l2i", "7l2j", "8bk7_in_betaGal_frame", "8tso", "8tsq", "8wg7"),
]
RESIDUE = ["chain", "number", "insertion", "residue"]


@dataclass
class Counted:
    """What a file holds, counted in its table of atoms."""

    waters: int
    hydrogens: int
    conformers: int
    kept: pd.DataFrame  # x y z, name, element and RESIDUE


def pdb_table(path: Path) -> pd.DataFrame:
    """The lines of the first model of a PDB file, by columns."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = itertools.takewhile(lambda line: not line.startswith("ENDMDL"), content.decode().splitlines())
    rows = [
        {
            "name": line[12:16].strip(),
            "altloc": line[16].strip(),
            "residue": line[17:20].strip(),
            "chain": line[21],
            "number": line[22:26].strip(),
            "insertion": line[26].strip(),
            "occupancy": float(line[54:60]),
            "element": line[76:78].strip(),
            **{axis: float(line[start : start + 8]) for axis, start in zip("xyz", (30, 38, 46), strict=True)},
        }
        for line in lines
        if line.startswith(("ATOM  ", "HETATM"))
    ]
    return pd.DataFrame(rows)


def cif_table(path: Path) -> pd.DataFrame:
    """The loop of atoms of an mmCIF file, its first model."""
    columns = gemmi.cif.read(str(path)).sole_block().get_mmcif_category("_atom_site.")
    table: Any = pd.DataFrame(columns).replace({None: ""})
    named = {
        "auth_atom_id": "name",
        "label_alt_id": "altloc",
        "auth_comp_id": "residue",
        "auth_asym_id": "chain",
        "auth_seq_id": "number",
        "pdbx_PDB_ins_code": "insertion",
        "occupancy": "occupancy",
        "type_symbol": "element",
        "Cartn_x": "x",
        "Cartn_y": "y",
        "Cartn_z": "z",
    }
    if "pdbx_PDB_model_num" in table:
        table = table[table["pdbx_PDB_model_num"] == table["pdbx_PDB_model_num"].iloc[0]]
    for ours, other in (("auth_atom_id", "label_atom_id"), ("auth_comp_id", "label_comp_id")):
        table[ours] = table[ours] if ours in table else table[other]
    table = pd.DataFrame({ours: table[theirs] for theirs, ours in named.items()})
    return table.astype({each: float for each in ("occupancy", "x", "y", "z")})


def counted(path: Path) -> Counted:
    """By the rules that the package states, applied to the table with pandas."""
    table = cif_table(path) if ".cif" in path.suffixes else pdb_table(path)
    table["element"] = table["element"].str.upper()
    water: Any
    hydrogen: Any
    water, hydrogen = table["residue"].isin(["HOH", "DOD"]), table["element"].isin(["H", "D"])
    rest: Any = table[~water & ~hydrogen]
    # a letter's total occupancy in its residue says which conformer is kept; of equals the first
    total = rest.groupby([*RESIDUE, "altloc"])["occupancy"].transform("sum")
    ordered = rest.assign(total=total, row=range(len(rest))).sort_values(["total", "row"], ascending=[False, True])
    kept = ordered.drop_duplicates([*RESIDUE, "name"]).sort_values("row")
    return Counted(int(water.sum()), int((hydrogen & ~water).sum()), len(rest) - len(kept), kept)


@pytest.mark.parametrize("name", NAMES)
def test_model_is_read_whole(shared_data, name):
    path = next((shared_data / "models").glob(f"{name}.*"))
    start = time.monotonic()
    atoms = read_atoms(path)
    seconds = time.monotonic() - start
    expected = counted(path)
    kept: Any
    kept, residues = expected.kept, expected.kept.drop_duplicates(RESIDUE)
    assert atoms.left_out == {
        "water": expected.waters,
        "hydrogen": expected.hydrogens,
        "other conformers": expected.conformers,
    }
    assert len(atoms) == len(kept)
    assert len(atoms.chain) == len(residues)
    assert set(atoms.chain) == set(kept["chain"])
    # files order their atoms as they like; positions say which is which
    place = np.array(kept[["x", "y", "z"]])
    order, found = (np.lexsort(np.round(each, 3).T) for each in (place, atoms.position))
    assert np.allclose(atoms.position[found], place[order], atol=1e-3)
    assert list(atoms.name[found]) == list(np.array(kept["name"])[order])
    electrons = [gemmi.Element(each).atomic_number for each in kept["element"]]
    assert atoms.electrons.sum() == sum(electrons)
    check_groups(atoms, kept)
    print(
        f"{name}: {len(atoms)} atoms, {len(residues)} residues, {kept['chain'].nunique()} chains; out: "
        f"{expected.waters} water, {expected.hydrogens} H, {expected.conformers} conformers; {seconds:.2f} s"
    )
    assert seconds < 5


def check_groups(atoms: Atoms, kept: pd.DataFrame) -> None:
    """Beads of each grouping: as many as there are, where they should be, with all electrons."""
    assert len(group_atoms(atoms, "atom")) == len(kept)
    alpha = (kept["name"] == "CA") & (kept["element"] == "C")
    sugar = kept["name"].eq("C4'").groupby([kept[each] for each in RESIDUE]).transform("any")
    trace = kept[alpha | ((kept["name"] == "P") & sugar)]
    for grouping in ("residue", "calpha"):
        beads = group_atoms(atoms, grouping)
        assert len(beads) == len(kept.drop_duplicates(RESIDUE))
        assert beads.weight.sum() == atoms.electrons.sum()
        # a residue's electrons are a few Å round it; 6 Å for lipid-like ligands
        assert beads.spread.max() < 6
        at_trace, _ = KDTree(beads.position).query(np.array(trace[["x", "y", "z"]]))
        assert (at_trace.max() < 2e-3) == (grouping == "calpha")


def test_fifty_s_is_clustered_in_seconds(shared_data):
    """89,337 atoms: 3082 Gaussians, as many as a published study took for this molecule."""
    atoms = read_atoms(shared_data / "models/5dm6.cif.gz")
    start = time.monotonic()
    beads = model_beads(atoms, "residue", 3082, 0)
    seconds = time.monotonic() - start
    distance, _ = KDTree(beads.position).query(atoms.position)
    print(f"50S: 3082 of {len(atoms)} atoms in {seconds:.1f} s; atoms at {np.median(distance):.1f} Å from their bead")
    assert len(beads) == 3082
    assert beads.weight.sum() == pytest.approx(atoms.electrons.sum())
    # a cell of 29 atoms in a solid of 16 Å³ an atom is a ball of radius 4.8 Å
    assert np.median(distance) < 4.8
    assert seconds < 20


def test_apoferritin_is_built_from_one_chain(shared_data):
    """Its NCS operators and its assembly say the same, and 24 copies fill a shell."""
    path = shared_data / "models/7a4m.cif"
    one, ncs, assembly = (read_atoms(path, choice) for choice in (Choice(), Choice(ncs=True), Choice(assembly="1")))
    assert len(set(ncs.chain)) == len(set(assembly.chain)) == 24
    assert len(ncs) == len(assembly)
    # atoms on an axis (metals) are there once
    assert 24 * len(one) - 100 < len(ncs) <= 24 * len(one)
    distance, _ = KDTree(ncs.position).query(assembly.position)
    assert distance.max() < 1e-3
    radius = np.linalg.norm(ncs.position - ncs.position.mean(0), axis=1)
    assert np.percentile(radius, 1) > 35
    assert np.percentile(radius, 99) < 66  # apoferritin: a shell of 40 to 60 Å, and some side chains


def test_groel_has_two_rings(shared_data):
    two = read_atoms(shared_data / "models/1oel.pdb.gz", Choice(assembly="1"))
    assert len(two) == 2 * 26929
    assert len(set(two.chain)) == 14


def test_chosen_model_of_an_ensemble(shared_data):
    path = shared_data / "models/6xrz_FSE.pdb.gz"
    first, tenth = read_atoms(path), read_atoms(path, Choice(model_number=10))
    assert list(first.name) == list(tenth.name)
    assert np.abs(first.position - tenth.position).max() > 1


@pytest.mark.parametrize("name", ["5dm6", "1hzh", "7a4m"])
def test_numbering_survives_writing(shared_data, tmp_path, name):
    atoms = read_atoms(next((shared_data / "models").glob(f"{name}.*")))
    write_models(tmp_path / "out.cif", atoms, [atoms.position, atoms.position + 1])
    again = read_atoms(tmp_path / "out.cif")
    for field in ("name", "chain", "number", "residue_name", "residue", "electrons"):
        assert np.array_equal(getattr(again, field), getattr(atoms, field)), field
    assert np.allclose(again.position, atoms.position, atol=1e-3)
    helices = len(gemmi.read_structure(str(tmp_path / "out.cif")).helices)
    assert helices == len(atoms.structure.helices)


def cubic(path: Path) -> Map:
    """A map padded with zeros to a cube (crops are not cubic, and the pipeline takes cubes)."""
    with mrcfile.open(path, permissive=True) as file:
        assert file.data is not None
        voxels = np.array(file.data, dtype=np.float32)
        size = float(file.voxel_size.x)
        header: Any = file.header
        origin = tuple(float(header.origin[axis]) for axis in "xyz")
    edge = max(voxels.shape) + 16
    padded = np.zeros((edge, edge, edge), dtype=np.float32)
    padded[tuple(slice(8, 8 + n) for n in voxels.shape)] = voxels
    return Map(torch.from_numpy(padded), size, tuple(value - 8 * size for value in origin))  # type: ignore[arg-type]


PAIRS = {
    "betaGal": ("ngl_betaGal.mrc", "8bk7_in_betaGal_frame.cif.gz", None, 10.0),
    "3J6B": ("daq_2566_3J6B_9.mrc", "3j6b_chain9.pdb", None, 3.5),
    "7CEC": ("mapq_emd_30342_A_z4.mrc", "7cec_mapq.cif.gz", "A", 4.0),
}
DIRECTIONS = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1], [-0.6, 0.64, 0.48]])


@dataclass
class Pair:
    """A real map and the model that was fitted in it."""

    density: Map
    atoms: Atoms
    resolution: float  # Å

    def check(self, density: Map | None = None, shift=(0.0, 0.0, 0.0)) -> None:
        atoms = replace(self.atoms, position=self.atoms.position + np.asarray(shift, float))
        check_fit(Path("m.cif"), Path("map.mrc"), atoms, density or self.density, self.resolution, 0)

    def score(self, shift=(0.0, 0.0, 0.0)) -> float:
        distance = max(1.5 * self.resolution, 10.0)
        return fit_score(self.atoms.position + np.asarray(shift, float), self.density, distance, 0)


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, shared_data) -> Pair:
    map_name, model_name, chain, resolution = PAIRS[request.param]
    atoms = read_atoms(shared_data / "models" / model_name, Choice(selection=chain))
    return Pair(cubic(shared_data / "maps" / map_name), atoms, resolution)


def shift_told(message: str) -> list[float]:
    return [float(value) for value in message.split("shift the model by (")[1].split(")")[0].split(",")]


def test_fitted_model_is_accepted(pair, capsys):
    pair.check()
    told = capsys.readouterr().err
    print(told)
    assert "WARNING" not in told
    assert pair.score() > 9  # 10.5, 27 and 16


def test_model_moved_by_10_or_20_or_30_is_refused_with_the_way_back(pair):
    for length in (10, 20, 30):
        scores = [pair.score(length * direction) for direction in DIRECTIONS]
        print(f"by {length} Å: z = {np.round(scores, 1)}")
        assert max(scores) < (2.0 if length == 10 else 1.0)
        with pytest.raises(InputError, match="shift the model by") as error:
            pair.check(shift=length * DIRECTIONS[3])
        # half an Å is less than half a voxel of the finest of the maps
        assert np.allclose(shift_told(str(error.value)), -length * DIRECTIONS[3], atol=0.5)


def test_model_moved_by_5_is_doubted_or_refused_with_the_way_back(pair, capsys):
    direction = DIRECTIONS[3]
    try:
        pair.check(shift=5 * direction)
        told = capsys.readouterr().err
        assert "WARNING: m.cif: shift the model by" in told
    except InputError as error:
        told = str(error)
    assert np.allclose(shift_told(told), -5 * direction, atol=0.5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_map_of_the_other_hand_is_told(pair, axis, capsys):
    flipped = pair.density.with_voxels(pair.density.voxels.flip(axis))
    try:
        pair.check(flipped)
        told = capsys.readouterr().err
    except InputError as error:
        told = str(error)
    assert "the map seems to be of the other hand" in told


def test_wrong_frames_are_recognised(pair):
    origin = np.asarray(pair.density.origin)
    with pytest.raises(InputError, match="the model seems to be in the frame of origin") as error:
        pair.check(shift=-origin)
    assert np.allclose(shift_told(str(error.value)), origin, atol=0.06)
    with pytest.raises(InputError, match="starts at the box's centre") as error:
        pair.check(shift=-pair.density.center)
    assert np.allclose(shift_told(str(error.value)), pair.density.center, atol=0.06)
    with pytest.raises(InputError, match=r"give the map the origin \((.*)\) Å") as error:
        pair.check(replace(pair.density, origin=(0.0, 0.0, 0.0)))
    told = str(error.value).split("the origin (")[1].split(")")[0]
    assert np.allclose([float(value) for value in told.split(",")], origin, atol=0.5)


@pytest.mark.parametrize("other", ["1ake", "8wg7", "6xrz_FSE", "8tso"])
def test_model_of_another_map_is_refused(pair, shared_data, other):
    atoms = read_atoms(next((shared_data / "models").glob(f"{other}.*")))
    centred = atoms.position - atoms.position.mean(0) + pair.atoms.position.mean(0)
    stranger = replace(pair, atoms=replace(atoms, position=centred))
    try:
        stranger.check()
    except InputError as error:
        assert "shift the model" not in str(error)
        assert "other hand" not in str(error)
    else:
        assert stranger.score() < 3  # and then there is a warning


@pytest.fixture(scope="module")
def betagal(tmp_path_factory, shared_data) -> dict[str, Path]:
    """The real beta-galactosidase map, a mask of it, and its model without chain A."""
    folder = tmp_path_factory.mktemp("betagal")
    path = shared_data / "maps" / "ngl_betaGal.mrc"
    density = read_map(path)
    blobs, _ = label(gaussian_filter(density.voxels.numpy(), 2) > 0.02)  # type: ignore[misc]
    largest = np.bincount(blobs[blobs > 0]).argmax()
    solid = binary_dilation(blobs == largest, iterations=3)
    mask = gaussian_filter(solid.astype(np.float32), 1.0)
    write_map(folder / "mask.mrc", density.with_voxels(torch.from_numpy(mask * (mask > 0.02))))
    structure = read_atoms(shared_data / "models" / "8bk7_in_betaGal_frame.cif.gz").structure
    del structure[0]["A"]
    structure.make_mmcif_document().write_file(str(folder / "three_chains.cif"))
    return {"map": path, "mask": folder / "mask.mrc", "part": folder / "three_chains.cif"}


def band_correlation(betagal: dict[str, Path], mixture_path: Path, resolution: float) -> float:
    """Mean FSC of the seeds' density against the map, both masked, to a resolution."""
    density, mask = read_map(betagal["map"]), read_map(betagal["mask"]).voxels
    found = mixture_to_map(read_mixture(mixture_path), density.box, density.pixel_size)
    correlation = shell_correlation(found * mask, density.voxels * mask)
    rings = int(density.box * density.pixel_size / resolution)
    return float(correlation[1 : rings + 1].mean())


def test_density_alone_is_seeded_in_seconds(betagal, tmp_path):
    start = time.monotonic()
    paths = {"map": betagal["map"], "mask": betagal["mask"], "out": tmp_path}
    seeds(**paths, options=Options(count=2000, resolution=10))
    seconds = time.monotonic() - start
    correlation = band_correlation(betagal, tmp_path / "seeds.npz", 15)
    print(f"2000 Gaussians on beta-galactosidase: {seconds:.1f} s, mean FSC to 15 Å {correlation:.3f}")
    assert seconds < 10
    assert correlation > 0.9  # before anything is fitted


def test_missing_chain_is_filled_again(betagal, shared_data, tmp_path):
    paths = {"map": betagal["map"], "mask": betagal["mask"], "out": tmp_path, "model": betagal["part"]}
    seeds(**paths, options=Options(resolution=10))
    mixture = read_mixture(tmp_path / "seeds.npz")
    given = len(read_atoms(betagal["part"]).chain)
    rest = mixture.center[given:].double().numpy() + read_map(betagal["map"]).center
    whole = read_atoms(shared_data / "models" / "8bk7_in_betaGal_frame.cif.gz")
    missing = whole.position[whole.chain[whole.residue] == "A"]
    near = np.array([np.linalg.norm(missing - place, axis=1).min() for place in rest])
    share = float(mixture.amplitude[given:].sum() / mixture.amplitude.sum())
    complete = band_correlation(betagal, tmp_path / "seeds.npz", 15)
    seeds(**paths, options=Options(resolution=10, residual=False))
    lacking = band_correlation(betagal, tmp_path / "seeds.npz", 15)
    print(f"{given} beads + {len(rest)} for the chain, {share:.0%} of the mass; FSC {lacking:.3f} to {complete:.3f}")
    assert (near < 5).mean() > 0.95  # Å: they stand where the chain was
    assert 0.15 < share < 0.27  # a chain is a quarter, some of it within reach of its neighbours
    assert complete > lacking + 0.05
