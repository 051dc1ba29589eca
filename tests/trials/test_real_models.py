"""Real atomic models, and the real maps that some of them are fitted in."""

import time
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, gaussian_filter, label

from gaussemble.errors import InputError
from gaussemble.fit.placement import check_fit, fit_score
from gaussemble.fit.seeds import Options, seeds
from gaussemble.io.atoms import Atoms, group_atoms, read_atoms, write_models
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import read_map, write_map
from gaussemble.physics.projection import mixture_to_map
from gaussemble.physics.rings import shell_correlation
from gaussemble.quantities import Map

# atoms: the manifest's counts less hydrogens, waters and second conformers; residues: as first read, held since
EXPECTED = {
    "1ake": (3426, 430),
    "1aon": (58870, 8029),
    "1hzh": (10576, 1349),
    "1oel": (26929, 3668),
    "3j6b_chain9": (1428, 195),
    "4ake": (3312, 428),
    "5dm6": (89337, 6587),
    "5dm7": (89361, 6576),
    "6xrz_FSE": (1868, 88),
    "6zwv": (24015, 3018),
    "7a4m": (1411, 174),
    "7cec_mapq": (17546, 2253),
    "7l2i": (17396, 2128),
    "7l2j": (17300, 2120),
    "8bk7_in_betaGal_frame": (32500, 4044),
    "8tso": (9298, 1152),
    "8tsq": (8918, 1150),
    "8wg7": (8123, 1030),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_model_is_read_whole(shared_data, name):
    path = next((shared_data / "models").glob(f"{name}.*"))
    start = time.monotonic()
    atoms = read_atoms(path)
    seconds = time.monotonic() - start
    assert (len(atoms), len(atoms.chain)) == EXPECTED[name]
    for grouping in ("residue", "calpha"):
        beads = group_atoms(atoms, grouping)
        assert len(beads) == len(atoms.chain)
        assert beads.weight.sum() == atoms.electrons.sum()
        # a residue's electrons are a few Å round it; 6 Å for lipid-like ligands
        assert beads.spread.max() < 6
    trace = np.isin(atoms.name, ["CA", "P"])
    print(f"{name}: {len(atoms)} atoms, {len(atoms.chain)} residues, {trace.sum()} C-alpha or P, {seconds:.2f} s")
    assert seconds < 5


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
        origin = tuple(float(file.header.origin[axis]) for axis in "xyz")
    edge = max(voxels.shape) + 16
    padded = np.zeros((edge, edge, edge), dtype=np.float32)
    padded[tuple(slice(8, 8 + n) for n in voxels.shape)] = voxels
    return Map(torch.from_numpy(padded), size, tuple(value - 8 * size for value in origin))  # type: ignore[arg-type]


def part(atoms: Atoms, chain: str | None) -> np.ndarray:
    chosen = np.ones(len(atoms), dtype=bool) if chain is None else atoms.chain[atoms.residue] == chain
    return atoms.position[chosen]


@pytest.mark.parametrize(
    ("map_name", "model_name", "chain", "resolution"),
    [
        ("ngl_betaGal.mrc", "8bk7_in_betaGal_frame.cif.gz", None, 10.0),
        ("daq_2566_3J6B_9.mrc", "3j6b_chain9.pdb", None, 3.5),
        ("mapq_emd_30342_A_z4.mrc", "7cec_mapq.cif.gz", "A", 4.0),
    ],
)
def test_fitted_models_are_told_from_shifted_ones(shared_data, map_name, model_name, chain, resolution):
    density = cubic(shared_data / "maps" / map_name)
    position = part(read_atoms(shared_data / "models" / model_name), chain)
    distance = max(1.5 * resolution, 10.0)
    in_place = fit_score(position, density, distance, 0)
    shifts = 30 * np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1], [-0.6, 0.64, 0.48]])
    shifted = [fit_score(position + shift, density, distance, 0) for shift in shifts]
    reversed_axes = fit_score((position - density.center)[:, ::-1] + density.center, density, distance, 0)
    print(f"{map_name}: z = {in_place:.1f}; by 30 Å: {np.round(shifted, 1)}; x and z swapped: {reversed_axes:.1f}")
    assert in_place > 6
    assert max(shifted) < 1.5
    assert reversed_axes < in_place / 2


def test_shifted_model_is_refused(shared_data):
    density = read_map(shared_data / "maps" / "ngl_betaGal.mrc")
    atoms = read_atoms(shared_data / "models" / "8bk7_in_betaGal_frame.cif.gz")
    check_fit(Path("m.cif"), Path("map.mrc"), atoms, density, 10.0, 0)
    atoms.position[:] += [0, 0, 30]
    with pytest.raises(InputError, match="not fitted"):
        check_fit(Path("m.cif"), Path("map.mrc"), atoms, density, 10.0, 0)
    atoms.position[:] += [0, 0, 100]
    with pytest.raises(InputError, match="model outside the map"):
        check_fit(Path("m.cif"), Path("map.mrc"), atoms, density, 10.0, 0)


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
