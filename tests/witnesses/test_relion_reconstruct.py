"""Our reconstruction against relion_reconstruct, from the same images, poses, shifts and CTFs.

RELION is Debian's package `relion` (3.1); without it these tests are skipped.
"""

import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from gaussemble.io.mrc import write_map, write_stack
from gaussemble.physics.backprojection import divide, empty_sums, insert, reconstruct, weighted_slices
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.masks import low_pass, soft_mask, within_sphere
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.rings import shell_correlation
from gaussemble.physics.rotations import matrix_to_euler
from gaussemble.physics.symmetric_sums import symmetrised
from gaussemble.physics.symmetry import operators
from gaussemble.prepare.fsc import half_map_table
from gaussemble.quantities import Map, Mixture
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


def relions(mixture, particles, box, folder, generator, symmetry="C1"):
    """Noisy images, and relion_reconstruct's map of them."""
    transform = project(mixture, particles.rotation, box, PIXEL) * evaluate(particles.ctf, box, PIXEL)
    images = to_real(transform * shift_phases(particles.shift, box, PIXEL), box)
    images = images + 0.5 * images.std() * torch.randn(images.shape, generator=generator)
    write_stack(folder / "images.mrcs", images, PIXEL)
    write_star(folder, particles, box)
    command = ["relion_reconstruct", "--i", "images.star", "--o", "map.mrc", "--ctf", "--angpix", str(PIXEL)]
    done = subprocess.run([*command, "--sym", symmetry], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with mrcfile.open(folder / "map.mrc") as file:
        return images, torch.from_numpy(np.array(file.data))


def test_same_map_as_relion(tmp_path, generator):
    """Scale, hand, centre: voxel by voxel, and both against the density.

    Even boxes alone: RELION 3.1 has the centre of an odd box at pixel D//2 + 1, so that it makes another map of images
    with ours at D//2 (correlation with the density 0.68, ours 0.9999).
    """
    box = BOX
    particles = make_particles(COUNT, generator)
    images, theirs = relions(lopsided(), particles, box, tmp_path, generator)
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


@pytest.mark.parametrize("name", ["C3", "D2", "T", "O", "I1", "I3"])
def test_same_symmetric_map_as_relion(name, tmp_path, generator):
    """A density with the group's symmetry from 1,000 views; another orientation of the axes has an error above 0.5."""
    group = operators(name).float()
    asymmetric = lopsided()
    center = (asymmetric.center @ group).flatten(end_dim=1)
    amplitude = asymmetric.amplitude.repeat(len(group)) / len(group)
    mixture = Mixture(center, amplitude, torch.full((len(center),), 7.0))
    particles = make_particles(COUNT, generator)
    images, theirs = relions(mixture, particles, BOX, tmp_path, generator, name)
    data, weights = weighted_slices(images, particles, PIXEL)
    sums = empty_sums(1, BOX, 2)
    insert(sums, data, weights, particles.rotation, torch.stack([torch.arange(COUNT), torch.zeros(COUNT).long()], -1))
    sphere = torch.from_numpy(within_sphere(BOX))
    first, second = divide(symmetrised(sums, name))[sphere], theirs[sphere]
    truth = mixture_to_map(mixture, BOX, PIXEL)[sphere]
    assert torch.corrcoef(torch.stack([first, second]))[0, 1] > 0.995
    assert (first @ truth / (truth @ truth)).item() == pytest.approx(1, abs=0.04)  # 1,000 views, FLOOR
    # RELION leaves in what the second interpolation damps where cells do not fall on cells: 4 % here
    assert (first @ second / (second @ second)).item() == pytest.approx(1, abs=0.05)
    assert (first - truth).norm() < 1.1 * (second - truth).norm()
    assert (first - truth).norm() < 0.15 * truth.norm()


@pytest.mark.skipif(shutil.which("relion_postprocess") is None, reason="relion_postprocess is not installed")
def test_same_corrected_fsc_as_relion(tmp_path, generator):
    """relion_postprocess's curves of the same half-maps and mask; its random phases are others."""
    signal = low_pass(mixture_to_map(lopsided(), 64, PIXEL), PIXEL, 15.0)
    pair = [signal + 0.05 * signal.max() * torch.randn(signal.shape, generator=generator) for _ in range(2)]
    mask = soft_mask(signal, PIXEL, extend=20.0)
    for name, voxels in {"half1": pair[0], "half2": pair[1], "mask": mask}.items():
        write_map(tmp_path / f"{name}.mrc", Map(voxels, PIXEL))
    command = ["relion_postprocess", "--i", "half1.mrc", "--mask", "mask.mrc", "--angpix", str(PIXEL), "--o", "out"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)  # without Ghostscript it fails, at the end
    theirs = starfile.read(tmp_path / "out.star")["fsc"]
    ours = half_map_table(*pair, mask, PIXEL)
    prefix = "rlnFourierShellCorrelation"
    for name, column in (("fsc", "UnmaskedMaps"), ("fsc_masked", "MaskedMaps")):
        assert np.abs(ours[name] - theirs[f"{prefix}{column}"])[1:24].max() < 0.02
    # one draw of random phases each: two of ours differ by 0.1 in a ring
    random = "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"
    start = int(np.argmax(ours["fsc"] < 0.8)) + 2
    assert np.abs(ours["fsc_randomised"] - theirs[random])[start:24].mean() < 0.15
    assert np.abs(ours["fsc_corrected"] - theirs[f"{prefix}Corrected"])[start:24].mean() < 0.06
    assert np.abs(ours["fsc_corrected"] - theirs[f"{prefix}Corrected"])[1:start].max() < 0.02
    assert ours["fsc_randomised"][start : start + 3].mean() > 0.1  # there is something to take off
