"""Mixtures come back from files, in the map's frame."""

import math

import gemmi
import numpy as np
import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.io.mixtures import read_mixture, write_mixture, write_pseudo_atoms
from gaussemble.quantities import Map, Mixture


@pytest.fixture
def mixture() -> Mixture:
    center = torch.tensor([[1.0, 2, 3], [-4, 5, -6]])
    return Mixture(center, torch.tensor([2.0, 8.0]), torch.tensor([3.0, 4.0]))


FRAME = Map(torch.zeros(9, 9, 9), 2.0, (10.0, 20.0, 30.0))


def test_there_and_back(tmp_path, mixture):
    write_mixture(tmp_path / "mixture.npz", mixture, FRAME)
    again = read_mixture(tmp_path / "mixture.npz")
    assert torch.allclose(again.center, mixture.center, atol=1e-5)
    assert torch.equal(again.amplitude, mixture.amplitude)
    assert torch.equal(again.width, mixture.width)


def test_files_are_in_the_map_frame(tmp_path, mixture):
    write_mixture(tmp_path / "mixture.npz", mixture, FRAME)
    stored = np.load(tmp_path / "mixture.npz")["center"]
    # voxel 9 // 2 = 4 stands at 10 + 4 * 2 = 18, 28, 38 Å
    assert np.allclose(stored, [[19, 30, 41], [14, 33, 32]])
    write_pseudo_atoms(tmp_path / "mixture.cif", mixture, FRAME)
    atoms = [site.atom for site in gemmi.read_structure(str(tmp_path / "mixture.cif"))[0].all()]
    assert np.allclose([atom.pos.tolist() for atom in atoms], stored, atol=1e-3)
    assert [atom.occ for atom in atoms] == pytest.approx([0.25, 1.0])
    assert atoms[0].b_iso == pytest.approx(8 * math.pi**2 * 9, abs=0.01)


def test_another_file_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "other.npz", x=1)
    for name in ("other.npz", "absent.npz"):
        with pytest.raises(InputError, match=name):
            read_mixture(tmp_path / name)
