"""Parts of the atomic model that move so far that the consensus map shows them smeared.

Fitted to the map their Gaussians would become the smear, which no rigid motion makes sharp again. So the map is fitted
by the others alone, round them, and these tell the scale and blur of those that move, which otherwise stay as the model
has them.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import curve_fit
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.asymmetric import joined
from gaussemble.io.files import read_npz
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.fourier import to_fourier_3d
from gaussemble.physics.masks import LEAST, soften
from gaussemble.physics.rings import ring_frequencies, shell_means
from gaussemble.physics.symmetry import operators
from gaussemble.quantities import Map, Mixture


def read_moving(seeds: Path, count: int, symmetry: str) -> Bool[Tensor, " gaussian"]:
    """Which of `count` Gaussians are of parts that move, as seeds.npz or mixture.npz says; none if it does not.

    Raises:
        InputError: an array of another kind, or one that leaves nothing to fit; a point group other than C1, since
            each copy moves by itself.
    """
    moving = read_npz(seeds, "seeds").get("moving", np.zeros(count, dtype=bool))
    if moving.dtype != bool or moving.shape != (count,) or moving.all():
        raise InputError(f"{seeds}: array moving is {moving.dtype} {moving.shape}; expected {count} bool, not all true")
    if moving.any() and len(operators(symmetry)) > 1:
        raise InputError(
            f"option symmetry is {symmetry}, but {seeds} has parts that move, each copy by itself; use C1, or leave "
            "seeds.moving out"
        )
    return torch.from_numpy(moving)


def mask_round(still: Mixture, frame: Map, finest: float) -> Float[Tensor, "z y x"]:
    """1 where these Gaussians draw density, on the frame's voxels, then softly 0 over `finest` Å."""
    drawn = band_limited_map(still, frame.box, frame.pixel_size)
    return soften((drawn > LEAST * drawn.max()).numpy(), 0.0, max(finest / frame.pixel_size, 3.0))


def scale_and_blur(still: Mixture, density: Map, mask: Float[Tensor, "z y x"], finest: float) -> tuple[float, float]:
    """By what the amplitudes of a mixture are to be multiplied, and Å² added to its squared widths, to be like a map.

    Least squares of transforms, inside the mask and up to `finest` Å: with M the mixture's and F the map's, of shell r
    at the frequency k,

        sum over r of |M|² ( Re<M, F> / |M|² - scale exp(-2 pi² blur k²) )²

    so noise, of which M knows nothing, does not bias them.

    Raises:
        InputError: fewer than three shells up to `finest`, or a map that is not like the mixture in any scale and blur.
    """
    drawn = to_fourier_3d((band_limited_map(still, density.box, density.pixel_size) * mask).double())
    seen = to_fourier_3d((density.voxels * mask).double())
    power, cross = (shell_means(part, density.box) for part in (drawn.abs().square(), (drawn.conj() * seen).real))
    frequency = ring_frequencies(density.box, density.pixel_size)
    shell = (frequency > 0) & (frequency <= 1 / finest) & (power > 0)
    if int(shell.sum()) < 3:
        raise InputError(
            f"option resolution: the box holds {int(shell.sum())} shells up to {finest:.3g} Å; set it finer"
        )
    weight = power * torch.arange(len(power)).square()  # means to sums, up to a factor
    try:
        (scale, blur), *_ = curve_fit(
            lambda square, scale, blur: scale * np.exp(-2 * np.pi**2 * blur * square),
            frequency[shell].square().numpy(),
            (cross / power)[shell].numpy(),
            p0=(1.0, 0.0),
            sigma=weight[shell].rsqrt().numpy(),
        )
    except RuntimeError:  # no convergence
        scale, blur = 0.0, 0.0
    if scale <= 0 or blur > finest**2:
        raise InputError(
            f"option moving: the map is not like the model's other parts (amplitudes times {scale:.2g}, {blur:.2g} Å² "
            "wider); is the model fitted in it?"
        )
    return float(scale), float(blur)


def among_moving(
    fitted: Mixture, seed: Mixture, moving: Bool[Tensor, " gaussian"], scale: float, blur: float, narrowest: float
) -> Mixture:
    """What was fitted, and in their places between the Gaussians of parts that move: as seeded, but for scale and blur.

    Args:
        fitted: first the seeds that do not move, in their order, then any that came beside them.
        seed: all seeds.
        moving: which of these move.
        scale: times amplitudes.
        blur: Å², added to squared widths.
        narrowest: Å, of the widths.
    """
    parts, count = seed.select(moving), int((~moving).sum())
    own, beside = fitted.select(torch.arange(count)), fitted.select(torch.arange(count, len(fitted)))
    width = (parts.width.square() + blur).clamp(min=narrowest**2).sqrt()
    place = torch.cat([torch.nonzero(~moving), torch.nonzero(moving)]).flatten().argsort()
    model = joined(own, Mixture(parts.center, scale * parts.amplitude, width))
    return joined(model.select(place), beside)
