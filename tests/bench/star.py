"""Seconds and memory that a large STAR file takes, beside pandas.read_csv of the same table.

    PYTHONPATH=workflow .venv/bin/python tests/bench/star.py [rows]

Every figure is of a process of its own, with its peak memory, imports included.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from gaussemble.io.relion import interpret
from gaussemble.io.star import read_star, write_star

COLUMNS = {  # of a run_data.star of RELION 3.1, and how it writes them
    "rlnCoordinateX": "%12.6f", "rlnCoordinateY": "%12.6f", "rlnImageName": "%06d@Extract/job133/Micrographs/18aug10a_"
    "FoilHole_10984848_Data_10985376_20180810_2123-144102_DW.mrcs", "rlnMicrographName": "MotionCorr/job005/18aug10a_"
    "FoilHole_10984848_Data_%d_20180810_2123-144102_DW.mrc", "rlnCtfMaxResolution": "%12.6f",
    "rlnCtfFigureOfMerit": "%12.6f", "rlnDefocusU": "%12.6f", "rlnDefocusV": "%12.6f", "rlnDefocusAngle": "%12.6f",
    "rlnCtfBfactor": "%12.6f", "rlnCtfScalefactor": "%12.6f", "rlnPhaseShift": "%12.6f", "rlnAngleRot": "%12.6f",
    "rlnAngleTilt": "%12.6f", "rlnAnglePsi": "%12.6f", "rlnClassNumber": "%12d", "rlnNormCorrection": "%12.6f",
    "rlnRandomSubset": "%12d", "rlnLogLikeliContribution": "%12.6e", "rlnMaxValueProbDistribution": "%12.6f",
    "rlnNrOfSignificantSamples": "%12d", "rlnOpticsGroup": "%12d", "rlnOriginXAngst": "%12.6f",
    "rlnOriginYAngst": "%12.6f", "rlnGroupNumber": "%12d",
}  # fmt: skip
OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnAmplitudeContrast #3
_rlnSphericalAberration #4
_rlnVoltage #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
           1 opticsGroup1     0.100000     2.700000   300.000000     1.403000          256            2


# version 30001

data_particles

loop_
"""
BLOCK = 20_000  # different rows; they repeat


def make(path: Path, rows: int) -> None:
    """A run_data.star."""
    generator = np.random.default_rng(0)
    values = generator.uniform(1.0, 180.0, (BLOCK, len(COLUMNS)))
    values[:, list(COLUMNS).index("rlnOpticsGroup")] = 1
    values[:, list(COLUMNS).index("rlnImageName")] = np.arange(BLOCK) + 1
    line = " ".join(COLUMNS.values()) + " \n"
    block = "".join(line % tuple(row) for row in values)
    with path.open("w") as file:
        file.write(OPTICS + "".join(f"_{name} #{i}\n" for i, name in enumerate(COLUMNS, 1)))
        for _ in range(rows // BLOCK):
            file.write(block)


def measure(what: str, path: Path) -> tuple[float, float]:
    """Seconds by the clock and of the processor that one of the things takes that are done with a file."""
    star = None if what in ("pandas.read_csv", "read_star") else read_star(path)
    start = time.perf_counter(), time.process_time()
    if what == "pandas.read_csv":
        skipped = len(OPTICS.splitlines()) + len(COLUMNS)
        pd.read_csv(path, sep=r"\s+", header=None, skiprows=skipped, names=list(COLUMNS))
    elif star is None:
        read_star(path)
    elif what == "interpret":
        interpret(star)
    elif what == "rows":
        star.rows(np.arange(0, len(star), 2))
    else:
        write_star(path.with_name("out.star"), star)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    """Measure all, each in its process."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run_data.star"
        make(path, rows)
        print(f"{rows} rows x {len(COLUMNS)} columns, {path.stat().st_size / 1e6:.0f} MB")
        print(f"{'':16}{'seconds':>9}{'CPU':>9}{'rows/s':>10}{'peak MB':>9}")
        for what in ("pandas.read_csv", "read_star", "interpret", "rows", "write_star"):
            command = [sys.executable, __file__, "measure", what, str(path)]
            printed = subprocess.run(command, check=True, capture_output=True).stdout.split()
            seconds, processor, peak = map(float, printed)
            print(f"{what:16}{seconds:9.2f}{processor:9.2f}{rows / seconds:10.0f}{peak:9.0f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(*measure(sys.argv[2], Path(sys.argv[3])), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        main()
