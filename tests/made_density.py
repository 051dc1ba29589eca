"""Densities of atomic models by gemmi's calculator: electron scattering factors (Mott-Bethe), sampled on a grid.

The second opinion on where atoms stand in a map: gemmi's grid, frame and factors, none of ours.
"""

import gemmi
import numpy as np
import torch

from gaussemble.quantities import Map

B_FACTOR = 300.0  # Å²: a standard deviation of 1.9 Å, so that gemmi's grid of 2 Å holds what it samples


def gemmi_density(
    structure: gemmi.Structure,
    box: int,
    pixel_size: float,
    resolution: float,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Map:
    """The potential of the first model, low-passed by a hard cut, on a grid whose voxel 0 is at `origin`.

    Calculated on a grid twice as fine and cropped in Fourier space.
    """
    model = structure[0].clone()
    for site in model.all():
        site.atom.pos -= gemmi.Position(*origin)
        site.atom.b_iso = B_FACTOR
        site.atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
    edge = box * pixel_size
    calculator = gemmi.DensityCalculatorE()
    calculator.grid.set_unit_cell(gemmi.UnitCell(edge, edge, edge, 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    calculator.grid.set_size(2 * box, 2 * box, 2 * box)
    calculator.add_model_density_to_grid(model)
    fine = np.fft.rfftn(np.array(calculator.grid.array, dtype=np.float64).transpose())  # z, y, x
    low = np.fft.fftfreq(box, 1 / box).astype(int)
    coarse = fine[np.ix_(low, low, np.arange(box // 2 + 1))]
    frequency = low / edge
    squared = frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + (np.arange(box // 2 + 1) / edge) ** 2
    coarse[squared > 1 / resolution**2] = 0
    voxels = np.fft.irfftn(coarse, (box, box, box), (0, 1, 2)) / 8
    return Map(torch.from_numpy(voxels).float(), pixel_size, origin)
