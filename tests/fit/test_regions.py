"""Which Gaussians stand for which atoms, of seeds on a real model and after a neutral fit that moved them."""

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from gaussemble.fit.regions import Ground, inside_mask, of_selection, selected_atoms
from gaussemble.fit.seeds import model_beads
from gaussemble.io.atoms import read_atoms
from gaussemble.io.mixtures import write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.quantities import Map, Mixture

MODEL = Path(__file__).resolve().parents[2] / "resources/demo_molecule.cif"
FRAME = Map(torch.zeros(64, 64, 64), 4.0, (-100.0, -90.0, -120.0))


@pytest.fixture(scope="module")
def atoms():
    return read_atoms(MODEL)


def mixture_at(position: np.ndarray) -> Mixture:
    """Gaussians at places of the map frame (Å)."""
    center = torch.from_numpy(position - FRAME.center).float()
    return Mixture(center, torch.ones(len(center)), torch.full((len(center),), 4.0))


@pytest.mark.parametrize(("grouping", "count"), [("residue", None), ("calpha", None), ("residue", 256)])
def test_a_chain_is_the_gaussians_on_it(tmp_path, atoms, grouping, count):
    """Also of seeds by k-means, where neutral Gaussians have moved by 3 Å, and without Gaussians off the model."""
    beads = model_beads(atoms, grouping, count, 0)
    off = atoms.position.mean(0) + np.array([[0.0, 0.0, 400.0]])
    seed = mixture_at(np.concatenate([beads.position, off]))
    write_mixture(tmp_path / "seeds.npz", seed, FRAME)
    moved = Mixture(seed.center + 1.7 * torch.randn(seed.center.shape), seed.amplitude, seed.width)
    ground = Ground(moved, FRAME, tmp_path / "seeds.npz", MODEL)
    chains = list(dict.fromkeys(atoms.chain))
    found = torch.stack([of_selection("selection", str(name), ground) for name in chains])
    assert (found[:, :-1].sum(0) == 1).all(), "each Gaussian on the model has one chain"
    assert not found[:, -1].any()
    nearest = np.linalg.norm(beads.position[:, None] - atoms.position[None], axis=-1).argmin(1)
    expected = atoms.chain[atoms.residue[nearest]]
    assert [chains[number] for number in found[:, :-1].int().argmax(0)] == expected.tolist()


def test_gaussians_that_are_not_the_seeds_go_by_their_own_places(tmp_path, atoms, capsys):
    beads = model_beads(atoms, "residue", None, 0)
    write_mixture(tmp_path / "seeds.npz", mixture_at(beads.position), FRAME)
    shuffled = np.random.default_rng(0).permutation(len(beads))
    name = str(atoms.chain[0])
    for order in (shuffled, shuffled[:100]):
        ground = Ground(mixture_at(beads.position[order]), FRAME, tmp_path / "seeds.npz", MODEL)
        found = of_selection("selection", name, ground)
        assert (atoms.chain[order] == name).tolist() == found.tolist()
        assert "are not the seeds'" in capsys.readouterr().err


def test_a_selection_means_what_gemmi_says(atoms):
    name = str(atoms.chain[0])
    whole = selected_atoms("selection", name, atoms)
    assert set(atoms.chain[atoms.residue[whole]]) == {name}
    assert int(whole.sum()) == sum(len(residue) for residue in gemmi.read_structure(str(MODEL))[0][name])
    part = selected_atoms("selection", f"{name}/10-20", atoms)
    assert set(atoms.number[atoms.residue[part]]) == {str(number) for number in range(10, 21)}
    trace = selected_atoms("selection", "/1/*//CA", atoms)
    assert set(atoms.name[trace]) == {"CA"}
    assert int(trace.sum()) == int((atoms.name == "CA").sum())


def test_a_mask_counts_from_one_half(tmp_path):
    voxels = torch.zeros(64, 64, 64)
    voxels[40, 30, 20], voxels[40, 30, 21] = 0.5, 0.49
    write_map(tmp_path / "mask.mrc", Map(voxels, 4.0, FRAME.origin))
    places = np.array([[20, 30, 40], [21, 30, 40], [40, 30, 20]]) * 4.0 + np.array(FRAME.origin)
    assert inside_mask(tmp_path / "mask.mrc", mixture_at(places), FRAME).tolist() == [True, False, False]
