"""Particles beside what the consensus says that they should look like: are sign, CTF, views and shifts right?

A test of consistency. Where everything is as the file says, images resemble the projections of a map that was made
without them, and resemble them less in the views of other particles, with reversed shifts, or with another CTF.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from gaussemble.physics.backprojection import project_map
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import frequencies, to_fourier, to_real
from gaussemble.physics.projection import shift_phases
from gaussemble.physics.rings import ring_index
from gaussemble.quantities import Particles

WIENER = 0.1  # added to CTF² in the correction of pictures: noise is amplified 1.6 times at the most
AS_GIVEN = "as the file says"


@dataclass(frozen=True)
class Sample:
    """Some particles on a grid of coarse pixels, with the map that each is held against."""

    images: Float[Tensor, "image y x"]
    particles: Particles
    maps: Float[Tensor, "map z y x"]
    which: Int[Tensor, " image"]  # the map of each image
    pixel_size: float  # Å

    def __len__(self) -> int:
        return len(self.images)

    @property
    def box(self) -> int:
        """Pixels along an edge."""
        return self.images.shape[-1]

    @cached_property
    def ctf(self) -> Float[Tensor, "image y half_x"]:
        """The contrast transfer function of each image."""
        return evaluate(self.particles.ctf, self.box, self.pixel_size)

    def projections(self, rotation: Float[Tensor, "image 3 3"]) -> Complex[Tensor, "image y half_x"]:
        """Centred transforms of each image's map."""
        found = torch.zeros(len(self), self.box, self.box // 2 + 1, dtype=torch.complex64)
        for number, voxels in enumerate(self.maps):
            mine = self.which == number
            if mine.any():
                found[mine] = project_map(voxels, rotation[mine])
        return found


def low_pass(
    transform: Complex[Tensor, "image y half_x"], pixel_size: float, resolution: float
) -> Complex[Tensor, "image y half_x"]:
    """Weighted by a Gaussian that is 1/2 at `resolution` Å."""
    squared = frequencies(transform.shape[-2], pixel_size).square().sum(-1)
    return transform * torch.exp2(-squared * resolution**2)


def pictures(sample: Sample, resolution: float) -> dict[str, Float[Tensor, "image y x"]]:
    """What the eye can compare, low-passed: image and expectation, corrected image and projection.

    The expectation is the map's projection with the particle's CTF and shift; the corrected image is centred and
    divided by the CTF after Wiener.
    """
    shift = shift_phases(sample.particles.shift, sample.box, sample.pixel_size)
    image, projection = to_fourier(sample.images), sample.projections(sample.particles.rotation)
    transforms = {
        "image": image,
        "expectation": projection * sample.ctf * shift,
        "corrected": image * shift.conj() * sample.ctf / (sample.ctf.square() + WIENER),
        "projection": projection,
    }
    return {
        name: to_real(low_pass(transform, sample.pixel_size, resolution), sample.box)
        for name, transform in transforms.items()
    }


def compare(sample: Sample) -> pd.DataFrame:
    """comparison, correlation (mean over the images), error (standard error): as given, and with one thing wrong.

    What counts is what sets the views apart: the maps' spherical means are taken away, so that views of other
    particles correlate by 0 in the mean where views are even.
    """
    sample = replace(sample, maps=torch.stack([without_spherical_mean(voxels) for voxels in sample.maps]))
    known, ctf = sample.particles, sample.ctf
    other = torch.arange(len(sample)).roll(1)
    variants = {
        AS_GIVEN: (known.rotation, known.shift, ctf),
        "views and shifts of other particles": (known.rotation[other], known.shift[other], ctf),
        "shifts reversed": (known.rotation, -known.shift, ctf),
        "as if phase-flipped": (known.rotation, known.shift, ctf.abs()),
        "as if there were no CTF": (known.rotation, known.shift, torch.ones_like(ctf)),
    }
    images = to_fourier(sample.images)
    rows = []
    for name, (rotation, shift, transfer) in variants.items():
        model = sample.projections(rotation) * transfer * shift_phases(shift, sample.box, sample.pixel_size)
        values = correlation(images, model).double()
        error = float(values.std() / len(values) ** 0.5)
        rows.append({"comparison": name, "correlation": float(values.mean()), "error": error})
    return pd.DataFrame(rows)


def correlation(a: Complex[Tensor, "image y half_x"], b: Complex[Tensor, "image y half_x"]) -> Float[Tensor, " image"]:
    """Pearson's, of images given as half transforms, over all rings but F(0) and the corners."""
    box = a.shape[-2]
    once = (torch.arange(box // 2 + 1) == 0) | (torch.arange(box // 2 + 1) * 2 == box)
    weight = torch.where(once, 1.0, 2.0) * (ring_index(box) <= (box - 1) // 2)
    weight[0, 0] = 0

    def product(first: Tensor, second: Tensor) -> Tensor:
        return ((first.conj() * second).real * weight).sum(dim=(1, 2))

    return product(a, b) / (product(a, a) * product(b, b)).sqrt().clamp(min=1e-30)


def without_spherical_mean(voxels: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """A map less its mean over each sphere about the origin."""
    axis = torch.arange(voxels.shape[-1]) - voxels.shape[-1] // 2
    squared = axis[:, None, None].square() + axis[:, None].square() + axis.square()
    shell = (squared.sqrt() + 0.5).long().flatten()
    mean = torch.bincount(shell, weights=voxels.flatten()) / torch.bincount(shell).clamp(min=1)
    return voxels - mean[shell].view_as(voxels).to(voxels)
