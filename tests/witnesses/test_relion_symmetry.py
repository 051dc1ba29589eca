"""Our symmetry expansion against relion_particle_symmetry_expand.

RELION is Debian's package `relion` (3.1); without it these tests are skipped.
"""

import shutil
import subprocess

import pytest
import torch

from gaussemble.io.star import read_star
from gaussemble.physics.rotations import euler_to_matrix, matrix_to_euler, random_rotations
from gaussemble.physics.symmetry import expand, operators
from made_particles import rows, write_star_text

pytestmark = pytest.mark.skipif(
    shutil.which("relion_particle_symmetry_expand") is None, reason="relion_particle_symmetry_expand is not installed"
)

COUNT = 3
OPTICS = {
    "rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["one"], "rlnVoltage": ["300"], "rlnSphericalAberration": ["2.7"],
    "rlnAmplitudeContrast": ["0.1"], "rlnImagePixelSize": ["2"], "rlnImageSize": ["64"],
    "rlnImageDimensionality": ["2"],
}  # fmt: skip


def theirs(folder, angles, name):
    """RELION's copies as matrices (particle, copy, 3, 3)."""
    degrees = torch.rad2deg(angles)
    columns = {f"rlnAngle{axis}": [f"{v:.6f}" for v in degrees[:, i]] for i, axis in enumerate(("Rot", "Tilt", "Psi"))}
    write_star_text(folder / "in.star", rows(len(angles), stack="x.mrcs", **columns), OPTICS)
    command = ["relion_particle_symmetry_expand", "--i", "in.star", "--o", "out.star", "--sym", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    table = read_star(folder / "out.star").particles
    found = torch.tensor(table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float))
    names = table["rlnImageName"].to_numpy().reshape(len(angles), -1)
    assert (names == names[:, :1]).all()  # a particle's copies stand together, particles in the input's order
    assert len(set(names[:, 0])) == len(angles)
    return euler_to_matrix(torch.deg2rad(found)).view(len(angles), -1, 3, 3)


@pytest.mark.parametrize("name", ["C4", "D2", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"])
def test_same_copies_as_relion(name, tmp_path, generator):
    """The same views of each particle; in the same order for Cn and Dn (RELION's is arbitrary for the others)."""
    angles = matrix_to_euler(random_rotations(COUNT, generator))
    expected = theirs(tmp_path, angles, name)
    found = euler_to_matrix(expand(angles, name)).view(COUNT, -1, 3, 3)
    assert found.shape == expected.shape
    assert len(operators(name)) == expected.shape[1]
    difference = (found[:, :, None] - expected[:, None]).abs().amax(dim=(3, 4))
    # 1e-4: RELION's axes have six digits; the nearest other operator is 0.5 away
    assert difference.amin(dim=2).max() < 1e-4
    assert difference.amin(dim=1).max() < 1e-4
    if name[0] in "CD":
        assert difference.diagonal(dim1=1, dim2=2).max() < 1e-4
