"""posterior.npz: each particle's latent vector as a normal distribution, and the prior that all of them share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from gaussemble.errors import InputError
from gaussemble.io.files import read_npz, written

FORMAT = 1
SHAPES = {
    "particle": ("particle",),
    "latent": ("particle", "latent"),
    "covariance": ("particle", "latent", "latent"),
    "prior_mean": ("latent",),
    "prior_covariance": ("latent", "latent"),
}


@dataclass(frozen=True)
class Posteriors:
    """What the file holds; rows are in the order of latent.csv."""

    particle: Int[np.ndarray, " particle"]  # 0-based row in the input STAR file
    latent: Float[np.ndarray, "particle latent"]  # posterior means
    covariance: Float[np.ndarray, "particle latent latent"]
    prior_mean: Float[np.ndarray, " latent"]
    prior_covariance: Float[np.ndarray, "latent latent"]

    def __len__(self) -> int:
        return len(self.particle)


def write_posteriors(path: Path, posteriors: Posteriors) -> None:
    """Write the arrays, numbers in float32, and the format's number."""
    arrays = {name: np.asarray(getattr(posteriors, name)) for name in SHAPES}
    arrays = {name: values if name == "particle" else values.astype(np.float32) for name, values in arrays.items()}
    with written(path) as temporary:
        np.savez(temporary, format=FORMAT, **arrays)  # type: ignore[arg-type]


def read_posteriors(path: Path) -> Posteriors:
    """Read the file; raises InputError where it is not one of ours, or its numbers are none."""
    data = read_npz(path, f"posteriors ({', '.join(SHAPES)}, format)")
    if missing := {*SHAPES, "format"} - data.keys():
        raise InputError(f"{path}: not posteriors: no array {', '.join(sorted(missing))}; it has {', '.join(data)}")
    if int(data["format"]) != FORMAT:
        raise InputError(f"{path}: format {int(data['format'])}, this version reads {FORMAT}")
    arrays = {name: data[name] for name in SHAPES}
    _refuse_unfit(path, arrays)
    return Posteriors(**arrays)


def _refuse_unfit(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise InputError where the arrays' shapes do not belong together, or a number is not finite."""
    latent = arrays["latent"].shape
    sizes = dict(zip(("particle", "latent"), latent, strict=False)) if len(latent) == 2 else {}
    for name, axes in SHAPES.items():
        expected = tuple(sizes.get(axis, -1) for axis in axes)
        if arrays[name].shape != expected:
            raise InputError(
                f"{path}: {name} has shape {arrays[name].shape}; expected ({', '.join(axes)}) as latent has {latent}; "
                "run the stage heterogeneity again"
            )
        finite = np.isfinite(arrays[name]).reshape(len(arrays[name]), -1).all(1)
        if not finite.all():
            raise InputError(f"{path}: {name} of row {int(finite.argmin())} is not finite; expected numbers")
