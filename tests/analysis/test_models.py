"""Atoms follow the Gaussians near them, keep their names, and never become NaN."""

from pathlib import Path

import gemmi
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.transform import Rotation

from gaussemble.analysis.models import (
    Options,
    displacement_table,
    gaussian_displacements,
    models,
    transition_to_atoms,
)
from gaussemble.errors import InputError
from gaussemble.io.atoms import read_atoms
from gaussemble.io.files import read_csv, write_csv
from gaussemble.io.mixtures import write_mixture
from gaussemble.io.mrc import write_map
from gaussemble.model.heterogeneity import DeformableMixture, Design, build_model, save_model, single_design
from gaussemble.quantities import Map, Mixture

FRAME = Map(torch.zeros(32, 32, 32), 4.0, (50.0, -30.0, 11.0))


def cube_of_gaussians(edge: int = 7, spacing: float = 6.0) -> np.ndarray:
    """A jittered lattice round the origin, as seeds fill a molecule."""
    axis = (np.arange(edge) - edge // 2) * spacing
    lattice = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return lattice + np.random.default_rng(0).normal(scale=0.8, size=lattice.shape)


def write_model(path: Path, position: np.ndarray) -> Path:
    """Two atoms a residue; chain A until the middle, then B, numbers from 101, one with an insertion code."""
    structure, model = gemmi.Structure(), gemmi.Model(1)
    residues = position.reshape(-1, 2, 3)
    for name, part in (("A", residues[: len(residues) // 2]), ("B", residues[len(residues) // 2 :])):
        chain = gemmi.Chain(name)
        for index, places in enumerate(part):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "SER", gemmi.SeqId(101 + index, "C" if index == 2 else " ")
            for atom_name, element, place in zip(("CA", "OG"), ("C", "O"), places, strict=True):
                atom = gemmi.Atom()
                atom.name, atom.element, atom.pos = atom_name, gemmi.Element(element), gemmi.Position(*place)
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(path))
    return path


class Linear(DeformableMixture):
    """A known field in place of a trained decoder: centre(z) = c + bias + sum_l z_l direction_l."""

    def __init__(self, neutral: Mixture, direction: torch.Tensor, bias: torch.Tensor):
        torch.nn.Module.__init__(self)
        self.mixture, self.direction, self.bias = neutral, direction, bias

    @property
    def neutral(self) -> Mixture:
        return self.mixture

    @property
    def latent_dim(self) -> int:
        return len(self.direction)

    def decode(self, latent: torch.Tensor) -> Mixture:
        center = self.mixture.center + self.bias + torch.einsum("pl,lgd->pgd", latent, self.direction)
        points = len(latent)
        return Mixture(center, self.mixture.amplitude.expand(points, -1), self.mixture.width.expand(points, -1))


def design(gaussians: int, latent_dim: int = 2) -> Design:
    return single_design(
        gaussians=gaussians, latent_dim=latent_dim, inputs=3, decoder="dense", anchors=1, hidden=8, layers=1,
        dropout=0.0, position=True, amplitude=False, width=False, length=10.0, field=128.0,
    )  # fmt: skip


def neutral_mixture(center: np.ndarray) -> Mixture:
    count = len(center)
    return Mixture(torch.from_numpy(center).float(), torch.ones(count), torch.full((count,), 3.0))


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A stage's inputs on disk, with a model that moves all by (20, 0, -8) z1 + (0, 10, 0) z2 Å from a biased zero."""
    gaussian = cube_of_gaussians()
    mixture = neutral_mixture(gaussian)
    direction = torch.tensor([[20.0, 0, -8], [0, 10, 0]])[:, None, :].expand(2, len(gaussian), 3)
    decoder = Linear(mixture, direction, torch.tensor([3.0, 3.0, 3.0]))
    monkeypatch.setattr("gaussemble.analysis.models.load_model", lambda path: decoder)
    position = np.random.default_rng(1).uniform(-17, 17, size=(24, 3)) + FRAME.center
    write_map(tmp_path / "map.mrc", FRAME)
    write_mixture(tmp_path / "mixture.npz", mixture, FRAME)
    for number, z in ((1, [[-0.5, 0], [0, 0], [0.5, 0]]), (2, [[0, -1], [0, 1]])):
        points = {"point": np.arange(1, len(z) + 1), "percentile": 50.0, f"pc{number}": 0.0}
        columns = {f"z{axis + 1}": value for axis, value in enumerate(np.transpose(z))}
        write_csv(tmp_path / f"analysis/latent/trajectories/pc{number}.csv", pd.DataFrame(points | columns))
    return {
        "model": write_model(tmp_path / "model.cif", position),
        "neutral": tmp_path / "mixture.npz",
        "analysis": tmp_path / "analysis",
        "map": tmp_path / "map.mrc",
        "out": tmp_path / "models",
    }


def test_rows_sum_to_one_and_prefer_the_near():
    gaussian = cube_of_gaussians()
    atom = np.random.default_rng(1).uniform(-17, 17, size=(50, 3))
    transition = transition_to_atoms(atom, gaussian)
    assert np.allclose(transition.weight.sum(1), 1)
    assert (np.diff(transition.weight, axis=1) <= 1e-12).all()  # neighbours are in order of distance
    on_gaussian = transition_to_atoms(gaussian[:5], gaussian, reach=0.5)
    assert np.array_equal(on_gaussian.gaussian[:, 0], np.arange(5))
    assert np.allclose(on_gaussian.weight[:, 0], 1)


def test_weights_are_the_gaussian_of_the_distance():
    transition = transition_to_atoms(np.zeros((1, 3)), np.array([[1.0, 0, 0], [0, 2, 0]]), reach=1.5)
    expected = np.exp(-np.array([1, 4]) / (2 * 1.5**2))
    assert np.allclose(transition.weight[0], expected / expected.sum())


def test_translation_is_exact():
    gaussian = cube_of_gaussians()
    atom = np.random.default_rng(1).uniform(-40, 40, size=(200, 3))  # also outside the Gaussians
    moved = transition_to_atoms(atom, gaussian)(np.broadcast_to([3.0, -5, 8], gaussian.shape))
    assert np.allclose(moved, [3, -5, 8], atol=1e-12)


@pytest.mark.parametrize("axis", [[0, 0, 1.0], [1.0, 2, -1]])
def test_rotation_turns_the_inside_rigidly(axis):
    gaussian = cube_of_gaussians()
    atom = np.random.default_rng(1).uniform(-12, 12, size=(200, 3))
    turn = Rotation.from_rotvec(np.radians(15) * np.array(axis) / np.linalg.norm(axis))
    found = atom + transition_to_atoms(atom, gaussian)(turn.apply(gaussian) - gaussian)
    error = np.linalg.norm(found - turn.apply(atom), axis=1)
    # an atom moves as the centroid of its neighbours, which is off it by a part of the spacing (6 Å): times sin 15°
    assert error.mean() < 0.5
    assert error.max() < 1.0
    assert np.linalg.norm(found - atom, axis=1).max() > 3  # Å: that was a motion to be seen
    fitted, _ = Rotation.align_vectors(found - found.mean(0), atom - atom.mean(0))
    assert np.allclose(fitted.as_rotvec(), turn.as_rotvec(), atol=np.radians(1))


def test_two_domains_move_apart():
    gaussian = np.concatenate([cube_of_gaussians(4) - [20, 0, 0], cube_of_gaussians(4) + np.array([20, 0, 0])])
    field = np.where(gaussian[:, :1] > 0, [[0.0, 9, 0]], [[0.0, 0, 0]])
    atom = np.array([[-20.0, 0, 0], [20, 0, 0]])
    assert np.allclose(transition_to_atoms(atom, gaussian)(field), [[0, 0, 0], [0, 9, 0]], atol=1e-3)


def test_far_atom_moves_with_its_nearest_and_is_finite():
    gaussian = cube_of_gaussians()
    field = np.random.default_rng(2).normal(size=gaussian.shape)
    far = np.array([[1e4, 0, 0], [0, -3e5, 0]])
    moved = transition_to_atoms(far, gaussian)(field)
    assert np.isfinite(moved).all()
    nearest = [np.linalg.norm(gaussian - place, axis=1).argmin() for place in far]
    assert np.allclose(moved, field[nearest], atol=0.05)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_gaussians_than_neighbours(count):
    gaussian = np.zeros((count, 3))  # and on one spot, so that their spacing is nothing
    moved = transition_to_atoms(np.ones((3, 3)), gaussian)(np.full((count, 3), 2.0))
    assert np.allclose(moved, 2)


def test_displacements_are_from_the_decoded_zero():
    gaussian = cube_of_gaussians(3)
    direction = torch.tensor([[1.0, 0, 0], [0, 2, 0]])[:, None, :].expand(2, len(gaussian), 3)
    decoder = Linear(neutral_mixture(gaussian), direction, torch.tensor([5.0, 5.0, 5.0]))
    found = gaussian_displacements(decoder, torch.tensor([[0.0, 0], [2, 0], [1, -1]]))
    assert np.allclose(found[:, 7], [[0, 0, 0], [2, 0, 0], [1, -2, 0]], atol=1e-5)


def test_stage_moves_the_model_and_keeps_its_numbering(study):
    models(**study, options=Options())
    atoms = read_atoms(study["model"])
    structure = gemmi.read_structure(str(study["out"] / "pc1.cif"))
    assert [model.num for model in structure] == [1, 2, 3]
    for model, z in zip(structure, (-0.5, 0, 0.5), strict=True):
        sites = list(model.all())
        assert np.allclose([s.atom.pos.tolist() for s in sites], atoms.position + z * np.array([20, 0, -8]), atol=2e-3)
        assert [str(s.residue.seqid) for s in sites] == list(atoms.number[atoms.residue])
        assert [s.chain.name for s in sites] == list(atoms.chain[atoms.residue])
        assert [s.atom.name for s in sites] == list(atoms.name)
    assert "103C" in atoms.number
    assert len(gemmi.read_structure(str(study["out"] / "pc2.cif"))) == 2


def test_stage_lists_displacements(study):
    models(**study, options=Options())
    table = read_csv(study["out"] / "displacement.csv")
    assert list(table.columns) == ["trajectory", "chain", "residue", "name", "displacement", "d1", "d2", "d3"]
    assert list(table["trajectory"]) == ["pc1"] * 12 + ["pc2"] * 12
    assert list(table["chain"][:12]) == ["A"] * 6 + ["B"] * 6
    assert list(table["residue"][:4].astype(str)) == ["101", "102", "103C", "104"]
    length = np.hypot(20, 8)
    first, second = table[:12], table[12:]
    assert np.allclose(first["displacement"], length, rtol=1e-4)
    assert np.allclose(first[["d1", "d2", "d3"]], [[length / 2, 0, length / 2]], atol=2e-3)
    assert np.allclose(second["displacement"], 20, rtol=1e-4)
    assert second["d3"].isna().all()  # pc2 has two points


def test_stage_uses_the_maps_frame(study, monkeypatch):
    """Only the Gaussians of one corner move: so do the atoms that stand there in the frame of the files."""
    gaussian = cube_of_gaussians()
    corner = torch.from_numpy(gaussian > 0).all(1)
    direction = torch.zeros(2, len(gaussian), 3)
    direction[0, corner, 1] = 9.0
    decoder = Linear(neutral_mixture(gaussian), direction, torch.zeros(3))
    monkeypatch.setattr("gaussemble.analysis.models.load_model", lambda path: decoder)
    position = np.repeat([[12.0, 12, 12], [-12, 12, 12], [12, -12, 12], [12, 12, -12]], 2, axis=0) + FRAME.center
    study["model"] = write_model(study["model"], position)
    models(**study, options=Options())
    moved = np.array([s.atom.pos.tolist() for s in gemmi.read_structure(str(study["out"] / "pc1.cif"))[2].all()])
    # z1 = 0.5; 12 Å = two spacings deep on either side of the corner's faces
    assert np.allclose((moved - position)[:2], [0, 4.5, 0], atol=0.2)
    assert np.allclose((moved - position)[2:], 0, atol=0.2)


def test_far_atoms_are_told(study, tmp_path, capsys):
    models(**study, options=Options())
    assert "WARNING" not in capsys.readouterr().err
    position = read_atoms(study["model"]).position.copy()
    position[:4] += 500
    study["model"] = write_model(tmp_path / "far.cif", position)
    models(**study, options=Options())
    assert "WARNING: 4 of 24 atoms" in capsys.readouterr().err
    moved = [s.atom.pos.tolist() for s in gemmi.read_structure(str(study["out"] / "pc1.cif"))[2].all()]
    assert np.allclose(moved, position + np.array([10, 0, -4]), atol=2e-3)
    study["model"] = write_model(tmp_path / "away.cif", position + 500)
    with pytest.raises(InputError, match=r"away\.cif: 24 of 24 atoms are over .* Å from any Gaussian"):
        models(**study, options=Options())


def test_stage_reads_a_saved_model(study, tmp_path, monkeypatch):
    monkeypatch.undo()
    gaussian = cube_of_gaussians()
    everywhere = torch.ones(len(gaussian), dtype=torch.bool)
    trained = build_model(design(len(gaussian)), neutral_mixture(gaussian), [everywhere], seed=0)
    for parameter in trained.decoders.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_model(tmp_path / "analysis" / "heterogeneity" / "model.pt", trained)
    models(**study, options=Options())
    models_of_pc1 = gemmi.read_structure(str(study["out"] / "pc1.cif"))
    positions = [np.array([s.atom.pos.tolist() for s in model.all()]) for model in models_of_pc1]
    assert np.allclose(positions[1], read_atoms(study["model"]).position, atol=2e-3)  # z = 0 is the input
    assert np.abs(positions[2] - positions[0]).max() > 0.1


def test_refuses_what_does_not_belong_together(study, tmp_path):
    write_mixture(tmp_path / "other.npz", neutral_mixture(np.zeros((4, 3))), FRAME)
    with pytest.raises(InputError, match=r"other.npz: 4 Gaussians, but the heterogeneity model has 343"):
        models(**study | {"neutral": tmp_path / "other.npz"}, options=Options())
    moved = neutral_mixture(cube_of_gaussians() + 1.0)
    write_mixture(tmp_path / "moved.npz", moved, FRAME)
    with pytest.raises(InputError, match=r"moved.npz: not the neutral mixture"):
        models(**study | {"neutral": tmp_path / "moved.npz"}, options=Options())
    with pytest.raises(InputError, match="no trajectories"):
        models(**study | {"analysis": tmp_path}, options=Options())
    path = study["analysis"] / "latent" / "trajectories" / "pc1.csv"
    write_csv(path, read_csv(path).drop(columns="z2"))
    with pytest.raises(InputError, match="the model has 2 latent dimensions"):
        models(**study, options=Options())
    assert not list(tmp_path.glob("models/*"))


def test_table_moves_residues_by_their_centroids(study):
    atoms = read_atoms(study["model"])
    change = np.zeros_like(atoms.position)
    change[0] = [7, 0, 0]  # C-alpha of the first residue: 6 of its 14 electrons
    table = displacement_table("pc1", atoms, [np.zeros_like(change), change])
    assert table["displacement"].iloc[0] == pytest.approx(7 * 6 / 14)
    assert (table["displacement"].iloc[1:] == 0).all()
