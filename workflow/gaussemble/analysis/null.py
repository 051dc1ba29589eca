"""A null: particles in which nothing varies, with the poses, CTF, shifts and noise of one half of the data.

What a whole analysis finds in them is what its methods find in noise: latents that read the noise of an image, classes
of images whose noise is alike, maps in which that noise adds up. Every image is the projection of the half's neutral
mixture, times a factor per ring (least squares, particles against projections), with normal noise of the spectrum that
was measured for its optics group. Poses are right by construction, which those of real particles are not.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from pydantic import Field
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.particles import read_noise
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.store import ImageStore, open_store, write_particles, written_images
from gaussemble.options import StageOptions
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_fourier, to_real
from gaussemble.physics.projection import project, shift_phases
from gaussemble.physics.rings import ring_index, ring_sums
from gaussemble.progress import progress, say
from gaussemble.quantities import Mixture, Particles

BLOCK = 64  # images at a time
MEASURED = 5000  # particles, evenly from all, on which the factor per ring is measured


class Options(StageOptions):
    """Options of the stage `null`; the workflow counts the runs, the config says how many (agreement.null)."""

    run: int = Field(default=1, ge=1, description="Number of the run; with the particles' numbers it seeds the noise.")


def null(*, particles: Path, consensus: Path, neutral: Path, out: Path, options: Options) -> None:
    """Write a store of simulated particles, and particles.star, whose rows are those of the real particles.

    Args:
        particles: folder of the half's image store, with particles.star.
        consensus: folder of the half's consensus, with noise.csv.
        neutral: mixture.npz of the half.
        out: folder to write: images.npy, particles.npz, particles.star.
        options: see `Options`.
    """
    store, mixture = open_store(particles), read_mixture(neutral)
    star = particles / "particles.star"
    if not star.is_file():
        raise InputError(f"{star}: no such file; run the stage particles again")
    power = read_noise(consensus / "noise.csv", store)
    gain = measured_gain(store, mixture)
    first = first_rows(store)
    with written_images(out, store.box, "float16" if store.images.dtype == np.float16 else "float32") as writer:
        blocks = first.split(BLOCK)
        for rows in progress(blocks, "null"):
            known = store.particles[rows]
            clean = prediction(known, mixture, store) * on_grid(gain, store.box)
            writer.append(to_real(clean + noise(known, power, store.box, options.run), store.box))
    write_particles(
        out, store.particles, store.box, store.pixel_size, half=store.half.numpy(), image=store.image.numpy()
    )
    shutil.copyfile(star, out / "particles.star")
    say(f"null: {len(first)} particles of {len(mixture)} Gaussians that do not vary, run {options.run}")


def first_rows(store: ImageStore) -> Int[Tensor, " image"]:
    """The first row of each image; copies of a particle share it."""
    first = torch.full((len(store.images),), len(store))
    return first.scatter_reduce(0, store.image, torch.arange(len(store)), "amin")


def prediction(known: Particles, mixture: Mixture, store: ImageStore) -> Complex[Tensor, "image y half_x"]:
    """Images of the mixture without noise (`quantities`' image model)."""
    transform = project(mixture, known.rotation.float(), store.box, store.pixel_size)
    transform = transform * evaluate(known.ctf.to(torch.float32), store.box, store.pixel_size)
    return transform * shift_phases(known.shift.float(), store.box, store.pixel_size)


def measured_gain(store: ImageStore, mixture: Mixture) -> Float[Tensor, " ring"]:
    """Least-squares factor of each ring between particles and projections; 0 where they are opposed."""
    cross, power = torch.zeros(2, store.box // 2 + 1, dtype=torch.float64)
    for rows in torch.arange(len(store))[:: -(-len(store) // MEASURED)].split(BLOCK):
        expected = prediction(store.particles[rows], mixture, store)
        images = to_fourier(store.read(rows))
        cross += ring_sums((expected.conj() * images).real, store.box).sum(0)
        power += ring_sums(expected.abs().square(), store.box).sum(0)
    return (cross / power.clamp(min=1e-30)).clamp(min=0).float()


def noise(
    known: Particles, power: Float[Tensor, "group ring"], box: int, run: int
) -> Complex[Tensor, "image y half_x"]:
    """Transforms of normal noise of each particle's spectrum, as a function of the run and the particles' numbers."""
    seed = np.random.SeedSequence([run, int(known.particle[0])]).generate_state(1, np.uint64)[0]
    white = torch.randn(len(known), box, box, generator=torch.Generator().manual_seed(int(seed >> np.uint64(1))))
    deviation = on_grid(power.nan_to_num(0).clamp(min=0).sqrt().float() / box, box)  # white noise has box² in a ring
    return to_fourier(white) * deviation[known.optics_group]


def on_grid(rings: Float[Tensor, "*batch ring"], box: int) -> Float[Tensor, "*batch y half_x"]:
    """A value per ring on the half transform; the corners have the last ring's."""
    return rings[..., ring_index(box).clamp(max=box // 2)]
