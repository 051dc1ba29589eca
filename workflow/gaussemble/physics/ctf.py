"""The contrast transfer function (Mindell & Grigorieff 2003), in RELION's sign.

Protein is positive in images and the function starts at +amplitude_contrast: `CTF = sin(chi)` with
`chi = pi lambda dz k² - pi/2 Cs lambda³ k⁴ + phase_shift + asin(amplitude_contrast)`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.physics.fourier import frequencies
from gaussemble.quantities import ContrastTransfer


def wavelength(voltage: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
    """Relativistic electron wavelength in Å of a voltage in V."""
    return 12.2643247 / torch.sqrt(voltage * (1 + 0.978466e-6 * voltage))


def evaluate(ctf: ContrastTransfer, box: int, pixel_size: float) -> Float[Tensor, "image y half_x"]:
    """The function of each particle on its half transform, with scale and envelope."""
    frequency = frequencies(box, pixel_size, ctf.defocus_u.dtype, ctf.defocus_u.device)
    squared = frequency.square().sum(-1)
    azimuth = torch.atan2(frequency[..., 1], frequency[..., 0])

    def each(values: Tensor) -> Tensor:
        return values[:, None, None]

    mean, half_difference = (ctf.defocus_u + ctf.defocus_v) / 2, (ctf.defocus_u - ctf.defocus_v) / 2
    defocus = each(mean) + each(half_difference) * torch.cos(2 * (azimuth - each(ctf.defocus_angle)))
    electron = wavelength(ctf.voltage)
    phase = math.pi * each(electron) * defocus * squared
    phase = phase - math.pi / 2 * each(ctf.spherical_aberration * electron**3) * squared.square()
    phase = phase + each(ctf.phase_shift + torch.asin(ctf.amplitude_contrast))
    return each(ctf.scale) * torch.sin(phase) * torch.exp(-each(ctf.b_factor) / 4 * squared)
