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


def test_negative_gaussians_are_a_chain_of_their_own(tmp_path, mixture):
    """No occupancy is negative; the residue's number is the Gaussian's."""
    both = Mixture(mixture.center, torch.tensor([-2.0, 8.0]), mixture.width)
    write_pseudo_atoms(tmp_path / "mixture.cif", both, FRAME)
    chains = {chain.name: chain for chain in gemmi.read_structure(str(tmp_path / "mixture.cif"))[0]}
    assert list(chains) == ["A", "B"]
    assert [(residue.name, residue.seqid.num) for residue in chains["A"]] == [("GAU", 2)]
    assert [(residue.name, residue.seqid.num) for residue in chains["B"]] == [("NEG", 1)]
    assert chains["B"][0][0].occ == pytest.approx(0.25)
    assert chains["B"][0][0].pos.tolist() == pytest.approx([19, 30, 41])


def test_another_file_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "other.npz", x=1)
    for name in ("other.npz", "absent.npz"):
        with pytest.raises(InputError, match=name):
            read_mixture(tmp_path / name)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"center": np.zeros((2, 2))}, r"are \(2, 2\), \(3,\), \(2,\), \(2,\); expected \(N, 3\)"),
        ({"amplitude": np.ones(3)}, r"are \(2, 3\), \(3,\), \(3,\), \(2,\); expected \(N, 3\)"),
        ({"center": np.zeros((0, 3)), "amplitude": np.ones(0), "width": np.ones(0)}, "with N > 0"),
        ({"amplitude": np.array([1, np.nan])}, "Gaussian 1 has center .*, amplitude nan, width 4; expected finite"),
        ({"width": np.array([1.0, 0])}, "Gaussian 1 has center .*, width 0; expected finite numbers, width > 0"),
    ],
)
def test_what_makes_no_gaussians_is_told_in_one_line(tmp_path, mixture, wrong, message):
    write_mixture(tmp_path / "mixture.npz", mixture, FRAME)
    np.savez(tmp_path / "wrong.npz", **dict(np.load(tmp_path / "mixture.npz")) | wrong)
    with pytest.raises(InputError, match=message) as caught:
        read_mixture(tmp_path / "wrong.npz")
    assert "\n" not in str(caught.value)


def test_another_file_of_ours_is_not_taken_for_an_old_mixture(tmp_path):
    np.savez(tmp_path / "particles.npz", format=2, rotation=np.zeros((4, 3, 3)))
    with pytest.raises(InputError, match="not a mixture: no array 'center'; it has format, rotation"):
        read_mixture(tmp_path / "particles.npz")
