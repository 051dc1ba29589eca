"""Gaussians fitted to real maps, which have no half-maps: the consensus folder is made here from the map alone.

The quick version: the crop of EMD-30342 round one chain, to 8 Å, with and without its model (7CEC, chain A); and
beta-galactosidase to 7.2 Å, whose solvent lies below zero (a minute of processor time).
"""

import json
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.fit import neutral as neutral_stage
from gaussemble.fit import seeds as seeds_stage
from gaussemble.io.files import write_csv
from gaussemble.io.mrc import read_map, write_map
from gaussemble.physics.masks import soft_mask
from gaussemble.quantities import Map

RESOLUTION = 3.9  # Å, of EMD-30342


def padded(path: Path, edge: float) -> Map:
    """A cropped map in a cube with `edge` Å to spare on each side of its longest, in the same place."""
    with mrcfile.open(path, permissive=True) as file:
        voxels, pixel_size = np.array(file.data), float(file.voxel_size.x)
        origin = [float(file.header.origin[name]) for name in "xyz"]
    longest = max(voxels.shape)
    box = longest + longest % 2 + 2 * round(edge / pixel_size)
    before = [(box - size) // 2 for size in voxels.shape]
    around = [(first, box - size - first) for first, size in zip(before, voxels.shape, strict=True)]
    place = tuple(origin[axis] - before[2 - axis] * pixel_size for axis in range(3))
    return Map(torch.from_numpy(np.pad(voxels, around).astype(np.float32)), pixel_size, place)


def write_consensus(folder: Path, density: Map, resolution: float) -> None:
    """map.mrc, mask.mrc and an fsc.csv that is 1 up to the map's published resolution (Å)."""
    write_map(folder / "map.mrc", density)
    write_map(folder / "mask.mrc", density.with_voxels(soft_mask(density.voxels, density.pixel_size)))
    frequency = np.arange(density.box // 2 + 1) / (density.box * density.pixel_size)
    fsc = np.where(frequency <= 1 / resolution, 1.0, 0.0)
    rings = {"ring": range(len(fsc)), "frequency": frequency, "resolution": 0.0, "fsc": fsc, "fsc_masked": fsc}
    write_csv(folder / "fsc.csv", pd.DataFrame(rings))


@pytest.fixture(scope="module")
def integrin(shared_data, tmp_path_factory) -> Path:
    """A folder with consensus/ and model.cif."""
    folder = tmp_path_factory.mktemp("integrin")
    write_consensus(folder / "consensus", padded(shared_data / "maps/mapq_emd_30342_A_z4.mrc", 9.0), RESOLUTION)
    structure = gemmi.read_structure(str(shared_data / "models/7cec_mapq.cif.gz"))
    for name in [chain.name for chain in structure[0] if chain.name != "A"]:
        structure[0].remove_chain(name)
    structure.make_mmcif_document().write_file(str(folder / "model.cif"))
    return folder


def fit(folder: Path, model: Path | None, finest: float = 8.0, **options) -> tuple[Path, pd.DataFrame]:
    """Seeds and neutral fit to 8 Å, or finer; the neutral folder, and the rings of its FSC that are judged."""
    consensus, out = folder / "consensus", folder / f"neutral_{model is not None}_{options}"
    chosen = seeds_stage.Options(atoms="calpha", resolution=finest)
    paths = {"map": consensus / "map.mrc", "mask": consensus / "mask.mrc", "out": out / "seeds"}
    seeds_stage.seeds(**paths, model=model, options=chosen)
    chosen = neutral_stage.Options(resolution=finest, **options)
    neutral_stage.neutral(consensus=consensus, seeds=out / "seeds/seeds.npz", out=out, options=chosen)
    curve = pd.read_csv(out / "fsc.csv")
    return out, curve[(curve["ring"] > 0) & (curve["frequency"] <= 1 / finest)]


def test_the_map_alone_grows_its_gaussians(integrin):
    out, judged = fit(integrin, None, strict=True)
    assert judged["fsc_masked"].min() > 0.95
    growth = pd.read_csv(out / "growth.csv")
    # 256 reached 0.941 and 512 reached 0.997 when written
    assert growth["gaussians"].tolist() == sorted(growth["gaussians"])
    assert 256 <= growth["gaussians"].iloc[-1] <= 600


def test_the_model_explains_the_map_and_keeps_its_geometry(integrin):
    free, _ = fit(integrin, integrin / "model.cif", restraint=0.0)
    out, judged = fit(integrin, integrin / "model.cif")
    assert len(pd.read_csv(out / "growth.csv")) == 1
    assert judged["fsc_masked"].min() > 0.95  # 0.961 when written
    kept, loose = (json.loads((folder / "geometry.json").read_text()) for folder in (out, free))
    assert kept["bonds"] > 500
    assert kept["distance_rmsd"] < 0.4  # Å; 0.33 when written, 2.2 without restraints
    assert kept["angle_rmsd_degrees"] < 3.0  # 2.3, and 36
    assert loose["distance_rmsd"] > 1.0
    assert np.load(out / "mixture.npz")["center"].shape == (558, 3)


def test_gaussians_beside_a_stiff_model_reach_the_target(integrin):
    """The model's rows come first and keep its geometry; others draw what it cannot."""
    out, judged = fit(integrin, integrin / "model.cif", restraint=1.0)
    assert judged["fsc_masked"].min() > 0.97  # 0.996 when written; 0.919 with the model's alone
    growth = pd.read_csv(out / "growth.csv")
    assert growth["gaussians"].iloc[0] == 558
    assert growth["gaussians"].iloc[-1] == 837
    kept = json.loads((out / "geometry.json").read_text())
    assert kept["bonds"] > 500
    assert kept["distance_rmsd"] < 0.05
    assert kept["angle_rmsd_degrees"] < 0.5


def test_solvent_below_zero_takes_gaussians_of_both_signs(shared_data, tmp_path):
    """Positive ones alone reach 0.915 with 11,140."""
    write_consensus(tmp_path / "consensus", read_map(shared_data / "maps/ngl_betaGal.mrc"), 7.2)
    out, judged = fit(tmp_path, None, 7.2, strict=True)
    assert judged["fsc_masked"].min() > 0.95  # 0.957 when written, with 11,794, 2,609 of them negative
    growth = pd.read_csv(out / "growth.csv")
    assert growth["gaussians"].iloc[-1] < 16384
    assert 0 < growth["negative"].iloc[-1] < growth["gaussians"].iloc[-1] / 2
