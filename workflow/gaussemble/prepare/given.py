"""A user's map or mask: brought to the particles' grid and grey scale."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import read_json
from gaussemble.io.mrc import read_map
from gaussemble.io.store import ImageStore
from gaussemble.physics.fourier import to_fourier_3d, to_real_3d
from gaussemble.physics.masks import within_sphere
from gaussemble.prepare.contrast import coarse
from gaussemble.progress import say
from gaussemble.quantities import Map

SAME = 0.01  # relative difference of pixel sizes and fields of view that counts as none


def crop_map(voxels: Float[Tensor, "z y x"], box: int) -> Float[Tensor, "box box box"]:
    """A map resampled to a smaller box over the same field of view, mean density kept."""
    size = voxels.shape[-1]
    upper, lower = (box + 1) // 2, (box - 1) // 2  # an even box's Nyquist is left out: it aliases two frequencies
    source = torch.cat([torch.arange(upper), torch.arange(size - lower, size)])
    target = torch.cat([torch.arange(upper), torch.arange(box - lower, box)])
    transform = torch.zeros(box, box, box // 2 + 1, dtype=torch.complex64)
    original = to_fourier_3d(voxels)
    transform[target[:, None], target[None, :], :upper] = original[source[:, None], source[None, :], :upper]
    return to_real_3d(transform, box) * (box / size) ** 3


def on_grid(path: Path, store: ImageStore) -> Map:
    """A map file on the store's grid: as it is, or Fourier-cropped from a finer grid over the same field of view.

    Raises:
        InputError: box and pixel size fit neither way.
    """
    given = read_map(path)
    if given.box == store.box and abs(given.pixel_size / store.pixel_size - 1) < SAME:
        return Map(given.voxels, store.pixel_size, given.origin)
    field, wanted = given.box * given.pixel_size, store.box * store.pixel_size
    if given.box <= store.box or abs(field / wanted - 1) >= SAME:
        raise InputError(
            f"{path}: box {given.box} at {given.pixel_size:.4g} Å/pixel, but the particles of {store.folder} have box "
            f"{store.box} at {store.pixel_size:.4g} Å/pixel; give a map over the same field of view ({wanted:.4g} Å)"
        )
    say(f"{path}: Fourier-cropped from box {given.box} to {store.box}")
    center = given.center
    origin = tuple(float(value) for value in center - store.box // 2 * store.pixel_size)
    return Map(crop_map(given.voxels, store.box), store.pixel_size, (origin[0], origin[1], origin[2]))


def frame_origin(store: ImageStore) -> tuple[float, float, float]:
    """Å, of voxel 0 in the frame of the refinement's maps, whose own voxel 0 is at 0 (RELION's).

    Not 0 where an odd box was cropped: D//2 of the two boxes then differ. The refinement's box is in report.json.
    """
    path = store.folder / "report.json"
    if not path.is_file():
        return (0.0, 0.0, 0.0)
    report = read_json(path)
    center = report["image_size"] // 2 * report["image_pixel_size"]
    return (center - store.box // 2 * store.pixel_size,) * 3


def read_mask(path: Path, store: ImageStore) -> Float[Tensor, "z y x"]:
    """A user's mask on the store's grid; raises InputError where it is not between 0 and 1 or is empty."""
    mask = on_grid(path, store).voxels
    low, high = float(mask.min()), float(mask.max())
    if low < -0.2 or high > 1.2 or high < 0.5:
        raise InputError(f"{path}: values from {low:.3g} to {high:.3g}; a mask goes from 0 to 1")
    return mask.clamp(0, 1)


def matched_scale(given: Map, own: Map) -> Map:
    """A user's map in the particles' grey scale: least squares on the low-passed density."""
    sphere = within_sphere(own.box)
    first, second = coarse(own)[sphere], coarse(given)[sphere]
    first, second = first - first.mean(), second - second.mean()
    scale = float((first * second).sum() / (second * second).sum())
    say(f"the map is multiplied by {scale:.4g}: the particles' grey scale")
    return given.with_voxels(given.voxels * scale)
