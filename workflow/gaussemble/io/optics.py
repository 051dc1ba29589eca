"""Optics groups, made for particles of programs that have none: one for each combination of what a group shares."""

import numpy as np
import pandas as pd
from jaxtyping import Int

GROUP, GROUP_NAME = "rlnOpticsGroup", "rlnOpticsGroupName"


def optics_table(
    columns: dict[str, np.ndarray], origin: np.ndarray | None = None
) -> tuple[pd.DataFrame, Int[np.ndarray, " image"]]:
    """RELION's optics table, and (image,) each particle's group, counted from 1 in ascending order of the values.

    Args:
        columns: (image,) values by RELION's name; particles of one group have equal ones.
        origin: (image,) number of the group in the other program, which keeps groups apart and is in their name.
    """
    count = len(next(iter(columns.values())))
    numbers = np.zeros(count) if origin is None else origin
    values = np.stack([numbers, *columns.values()], axis=1).astype(np.float64)
    shared, group = np.unique(values, axis=0, return_inverse=True)
    table = pd.DataFrame(shared[:, 1:], columns=list(columns))
    table.insert(0, GROUP, np.arange(1, len(shared) + 1))
    names = (
        [f"group{int(number)}" for number in shared[:, 0]]
        if origin is not None
        else [f"group{g}" for g in table[GROUP]]
    )
    repeats = pd.Series(names).groupby(names).cumcount()
    names = [f"{name}_{again + 1}" if again else name for name, again in zip(names, repeats, strict=True)]
    table.insert(1, GROUP_NAME, names)
    for name in ("rlnImageSize", "rlnImageDimensionality"):
        if name in table:
            table[name] = table[name].astype(np.int64)
    return table, group.reshape(-1) + 1
