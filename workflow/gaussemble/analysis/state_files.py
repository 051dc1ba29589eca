"""The files of the stage volumes: what it reads of the particles, and the folder of each state."""

import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from gaussemble.analysis.reconstruction import MAPS
from gaussemble.analysis.states import State
from gaussemble.errors import InputError
from gaussemble.io.files import write_csv
from gaussemble.io.mrc import read_map
from gaussemble.io.refinement import NAMES, Refinement, read_written
from gaussemble.io.store import ImageStore, open_store
from gaussemble.quantities import Map

FILES = (*(f"{name}.mrc" for name in MAPS), "fsc.csv", "weights.csv", *NAMES)
OURS = r"cluster_\d+|trajectory_pc\d+_\d+|selection_.+|motion_corrected"  # folders


def write_subset(folder: Path, state: State, refinement: Refinement, store: ImageStore) -> None:
    """The state's particles for other programs; where they count unlike, how much each does."""
    refinement.rows(state.subset).write(folder)
    path = folder / "weights.csv"
    path.unlink(missing_ok=True)
    if state.count is not None:
        columns = {"particle": store.particles.particle[state.rows].numpy(), "weight": state.count.numpy()}
        write_csv(path, pd.DataFrame(columns))


def remove_stale(out: Path, names: Collection[str]) -> None:
    """Remove what an earlier run left of states other than these; only files that this stage writes."""
    for folder in out.glob("*_*"):
        if re.fullmatch(OURS, folder.name) and folder.name not in names:
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def read_inputs(particles: Path, consensus: Path) -> tuple[ImageStore, Refinement, Map]:
    """The store, its particles' metadata and the consensus mask, with which the maps share their frame."""
    store, refinement = open_store(particles), read_written(particles)
    if len(refinement) != len(store):
        raise InputError(
            f"{refinement.star.path}: {len(refinement)} rows, but the image store beside it has {len(store)}; "
            "run particles again"
        )
    mask = read_map(consensus / "mask.mrc")
    if mask.box != store.box:
        raise InputError(
            f"{consensus / 'mask.mrc'}: box {mask.box}, but the particles of {particles} have box {store.box}; "
            "run consensus again"
        )
    return store, refinement, Map(mask.voxels, store.pixel_size, mask.origin)
