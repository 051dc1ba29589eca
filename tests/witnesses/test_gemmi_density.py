"""Seeds on the atoms of a model give the map that gemmi calculates from it: same shape, same place, same weights."""

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from gaussemble.fit.seeds import Options, seeds
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import write_map
from gaussemble.physics.projection import mixture_to_map
from gaussemble.physics.rings import shell_correlation
from gaussemble.quantities import Map, Mixture
from made_density import gemmi_density

MODEL = Path(__file__).parents[2] / "resources/demo_molecule.cif"
PIXEL, RESOLUTION = 4.0, 10.0
ORIGIN = (-11.3, 7.9, 23.2)  # Å; whole voxels would hide a wrong sign of a part of one


@pytest.fixture(scope="module", params=[64, 63], ids=["even", "odd"])
def study(request, tmp_path_factory) -> dict:
    """gemmi's map of the demo's molecule, moved along with an origin, and the files for the stage."""
    folder = tmp_path_factory.mktemp("gemmi")
    structure = gemmi.read_structure(str(MODEL))
    for site in structure[0].all():
        site.atom.pos += gemmi.Position(*ORIGIN)
    structure.make_mmcif_document().write_file(str(folder / "model.cif"))
    density = gemmi_density(structure, request.param, PIXEL, RESOLUTION, ORIGIN)
    write_map(folder / "map.mrc", density)
    write_map(folder / "mask.mrc", density.with_voxels(torch.ones_like(density.voxels)))
    return {"density": density, "folder": folder}


def seeded(study: dict, out: Path, **options) -> Mixture:
    folder = study["folder"]
    seeds(
        map=folder / "map.mrc",
        mask=folder / "mask.mrc",
        model=folder / "model.cif",
        out=out,
        options=Options(resolution=RESOLUTION, **options),
    )
    return read_mixture(out / "seeds.npz")


def agreement(density: Map, mixture: Mixture) -> np.ndarray:
    """FSC with gemmi's map, from the first ring to the resolution."""
    found = mixture_to_map(mixture, density.box, density.pixel_size)
    last = int(density.box * density.pixel_size / RESOLUTION) - 1  # the cut goes through the next ring
    return shell_correlation(found, density.voxels)[1 : last + 1].numpy()


@pytest.mark.parametrize(
    ("options", "least"),
    # found: 0.9985, 0.9978, 0.9938, 0.9946; a bead is worse than its atoms by what it says of their places
    [({"atoms": "atom"}, 0.997), ({"atoms": "residue"}, 0.996), ({"atoms": "calpha"}, 0.99), ({"count": 1299}, 0.99)],
    ids=["atom", "residue", "calpha", "count"],
)
def test_seeds_give_gemmis_map(study, tmp_path, options, least):
    mixture = seeded(study, tmp_path, residual=False, **options)
    found = agreement(study["density"], mixture)
    print(f"{len(mixture)} Gaussians: FSC {found.min():.4f} at worst, {found.mean():.4f} on average")
    assert found.min() > least
    for axis in range(3):
        center = mixture.center.clone()
        center[:, axis] += PIXEL / 2
        assert (
            agreement(study["density"], replace(mixture, center=center)).min() < 0.87
        )  # sinc(2 pi 2 Å / 10.7 Å) = 0.79
