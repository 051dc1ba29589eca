"""What fewer bits would do to the separable form, whose cost is matrix products: rounded factors, float32 sums.

Tensor cores multiply TF32 (10 bits behind the point) and bfloat16 (7 bits) many times as fast as float32. Their factors
are rounded here as they would be there, on the CPU. The measure is the one that spreading keeps to: errors of a
coefficient over the sum of the amplitudes, 2e-5 for each of two errors. Found for 2,048 Gaussians in 128 pixels (256 in
64), widths of 1.2 to 1.7 pixels, at most; of the gradients the norm, for white residuals:

    float32                 2e-7 (3e-7)    gradients 7e-7
    TF32, to the nearest    2e-5 (4e-5)              3e-4
    TF32, cut off           5e-4 (5e-4)              7e-4
    bfloat16                1e-4 (3e-4)              2e-3

TF32 to the nearest would just do, for many Gaussians; cut off, as hardware may, it makes all images fainter by 4e-4.
bfloat16 is several times beyond, some hundredth of a particle's noise, and as large as what such Gaussians leave at
Nyquist (1e-5 of the sum), which the neutral fit weighs as much as any ring. So products stay in float32; what latents
would lose has not been measured.
"""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gaussemble
from gaussemble.physics.fourier import axis_frequencies
from gaussemble.physics.projection import project
from gaussemble.physics.rotations import random_rotations
from gaussemble.physics.spreading import TOLERANCE
from gaussemble.quantities import Mixture


def nearest_tf32(values: Tensor) -> Tensor:
    """float32 rounded to 10 bits, ties to even."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def cut_tf32(values: Tensor) -> Tensor:
    """float32 without its last 13 bits."""
    return (values.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def bfloat16(values: Tensor) -> Tensor:
    """float32 rounded to 7 bits."""
    return values.bfloat16().float()


FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda values: values,
    "TF32, to the nearest": nearest_tf32,
    "TF32, cut off": cut_tf32,
    "bfloat16": bfloat16,
}


def problem(gaussians: int, box: int) -> tuple[Mixture, Tensor]:
    """A batch in pixels, as in the benchmarks, and its views."""
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(4, gaussians, 3, generator=generator) * box / 10
    amplitude = 0.5 + torch.rand(4, gaussians, generator=generator)
    width = 1.2 + 0.5 * torch.rand(4, gaussians, generator=generator)
    return Mixture(center, amplitude, width), random_rotations(4, generator)


def factors(mixture: Mixture, rotation: Tensor, box: int) -> tuple[Tensor, Tensor]:
    """(image, gaussian, k) along x, and along y with the amplitudes."""
    frequency_y, frequency_x = axis_frequencies(box, 1.0, mixture.center.dtype)
    place = mixture.center @ rotation[:, :2].to(mixture.center).mT

    def factor(position: Tensor, frequency: Tensor) -> Tensor:
        magnitude = torch.exp(-2 * math.pi**2 * mixture.width.square()[..., None] * frequency.square())
        return torch.polar(magnitude, -2 * math.pi * position[..., None] * frequency)

    return factor(place[..., 0], frequency_x), factor(place[..., 1], frequency_y) * mixture.amplitude[..., None]


def rounded(values: Tensor, kind: str) -> Tensor:
    """Complex numbers as tensor cores take them."""
    return torch.view_as_complex(FORMATS[kind](torch.view_as_real(values)))


def transform_error(gaussians: int, box: int, kind: str) -> float:
    """The largest of all coefficients, over the sum of the amplitudes."""
    mixture, rotation = problem(gaussians, box)
    exact = project(mixture.to(torch.float64), rotation, box, 1.0, "separable")
    along_x, along_y = (rounded(part, kind) for part in factors(mixture, rotation, box))
    return float(((along_y.mT @ along_x - exact).abs().amax((1, 2)) / mixture.amplitude.sum(-1)).max())


def gradient_error(gaussians: int, box: int, kind: str) -> float:
    """Of the derivatives by y, 2 pi Im sum_k k (X conj(W)') Y, for a white W; the norm's, relative."""
    mixture, rotation = problem(gaussians, box)
    white = torch.randn(4, box, box // 2 + 1, generator=torch.Generator().manual_seed(1), dtype=torch.complex64)
    found = []
    for number_type, name in ((torch.float32, kind), (torch.float64, None)):
        along_x, along_y = factors(mixture.to(number_type), rotation, box)
        residual = white.conj().mT.to(along_x.dtype)
        if name is not None:
            along_x, residual = rounded(along_x, name), rounded(residual.resolve_conj().contiguous(), name)
        frequency = axis_frequencies(box, 1.0, number_type)[0]
        found.append(((along_x @ residual) * along_y).imag @ frequency)
    return float((found[0] - found[1]).norm() / found[1].norm())


@pytest.mark.parametrize(
    ("kind", "gaussians", "box", "least", "most", "gradient"),
    [
        ("float32", 256, 64, 0, 1e-6, 2e-6),
        ("float32", 2048, 128, 0, 1e-6, 2e-6),
        ("TF32, to the nearest", 256, 64, TOLERANCE, 1e-4, 1e-3),
        ("TF32, to the nearest", 2048, 128, 0, 2 * TOLERANCE, 1e-3),
        ("TF32, cut off", 256, 64, 10 * TOLERANCE, 1e-3, 2e-3),
        ("TF32, cut off", 2048, 128, 10 * TOLERANCE, 1e-3, 2e-3),
        ("bfloat16", 256, 64, 10 * TOLERANCE, 1e-3, 1e-2),
        ("bfloat16", 2048, 128, 2 * TOLERANCE, 5e-4, 1e-2),
    ],
)
def test_what_rounded_factors_do_to_a_projection(kind, gaussians, box, least, most, gradient):
    """The module's table; whoever wants tensor cores finds here what to improve, and by how much."""
    error, slope = transform_error(gaussians, box, kind), gradient_error(gaussians, box, kind)
    print(f"{kind}, {gaussians} Gaussians, {box} pixels: {error:.1e} of the sum, gradients {slope:.1e}")
    assert least <= error < most
    assert slope < gradient


def test_physics_and_models_leave_the_precision_of_products_alone():
    """TF32 is off unless someone switches it on; torch's default says so, and no module of these changes it."""
    switches = ("allow_tf32", "float32_matmul_precision", "fp32_precision", "autocast", "bfloat16", ".half()")
    root = Path(gaussemble.__file__).parent
    for path in [*(root / "physics").glob("*.py"), *(root / "model").glob("*.py")]:
        assert not [switch for switch in switches if switch in path.read_text()], path
