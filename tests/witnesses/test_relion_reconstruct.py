"""Our reconstruction against relion_reconstruct, from the same images, poses, shifts and CTFs.

RELION is Debian's package `relion` (3.1); without it these tests are skipped.
"""

import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import torch

from gaussemble.io.mrc import write_stack
from gaussemble.physics.backprojection import reconstruct
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.masks import within_sphere
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.rings import shell_correlation
from gaussemble.physics.rotations import matrix_to_euler
from made_particles import rows, write_star_text
from made_store import BOX, PIXEL, lopsided, make_particles

pytestmark = pytest.mark.skipif(
    shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed"
)

COUNT = 1000


def write_star(folder, particles, box):
    angles = torch.rad2deg(matrix_to_euler(particles.rotation)).numpy()
    ctf = particles.ctf
    columns = {f"rlnAngle{name}": angles[:, i] for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= {f"rlnOrigin{name}Angst": particles.shift[:, i].numpy() for i, name in enumerate("XY")}
    columns |= {"rlnDefocusU": ctf.defocus_u.numpy(), "rlnDefocusV": ctf.defocus_v.numpy()}
    columns |= {"rlnDefocusAngle": torch.rad2deg(ctf.defocus_angle).numpy()}
    table = rows(COUNT, stack="images.mrcs", **{name: [f"{v:.6f}" for v in values] for name, values in columns.items()})
    optics = {
        "rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["one"], "rlnVoltage": ["300"],
        "rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.1"], "rlnImagePixelSize": [str(PIXEL)],
        "rlnImageSize": [str(box)], "rlnImageDimensionality": ["2"],
    }  # fmt: skip
    return write_star_text(folder / "images.star", table, optics)


def test_same_map_as_relion(tmp_path, generator):
    """Scale, hand, centre: voxel by voxel, and both against the density.

    Even boxes alone: RELION 3.1 has the centre of an odd box at pixel D//2 + 1, so that it makes another map of images
    with ours at D//2 (correlation with the density 0.68, ours 0.9999).
    """
    box = BOX
    particles = make_particles(COUNT, generator)
    transform = project(lopsided(), particles.rotation, box, PIXEL) * evaluate(particles.ctf, box, PIXEL)
    images = to_real(transform * shift_phases(particles.shift, box, PIXEL), box)
    images = images + 0.5 * images.std() * torch.randn(images.shape, generator=generator)
    write_stack(tmp_path / "images.mrcs", images, PIXEL)
    write_star(tmp_path, particles, box)
    command = ["relion_reconstruct", "--i", "images.star", "--o", "map.mrc", "--ctf", "--angpix", str(PIXEL)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with mrcfile.open(tmp_path / "map.mrc") as file:
        theirs = torch.from_numpy(np.array(file.data))

    ours = reconstruct(images, particles, PIXEL)
    sphere = torch.from_numpy(within_sphere(box))
    first, second = ours[sphere], theirs[sphere]
    truth = mixture_to_map(lopsided(), box, PIXEL)[sphere]
    assert torch.corrcoef(torch.stack([first, second]))[0, 1] > 0.99
    assert (first @ second / (second @ second)).item() == pytest.approx(1, abs=0.03)
    assert (first - truth).norm() < 1.1 * (second - truth).norm()  # ours is not the worse one
    # the same data: where there is signal every shell agrees; in the noise beyond, weights between few views differ
    shells = shell_correlation(ours, theirs)
    assert shells[1:9].min() > 0.99
    assert shells[9 : box // 2 - 1].min() > 0.75
