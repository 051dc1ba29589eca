"""What a run found, in a few lines on the terminal."""

from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from gaussemble.errors import InputError
from gaussemble.io.files import read_json
from gaussemble.options import StageOptions


class Options(StageOptions):
    """Options of the command `summary`."""

    times: bool = Field(default=False, description="Also print the seconds and the memory of every stage.")


def summary(results: Path, options: Options) -> None:
    """Print what the analyses of results/DATASET found and where its report is."""
    report = results / "report.html"
    if not report.is_file():
        raise InputError(f"{report}: no such file; run the workflow to its end first")
    if options.times:
        print(times(results).to_string(index=False), end="\n\n")
    for verdict in sorted(results.glob("agreement/*/verdict.json")):
        analysis = verdict.parent.name
        truth = results / "truth" / f"{analysis}.json"
        parts = [
            read_json(verdict)["summary"],
            *([found(read_json(truth))] * truth.is_file()),
        ]
        print(f"{analysis}: {' '.join(parts)}")
    print(f"report: {report}")


def found(scores: dict[str, Any]) -> str:
    """How much of a simulation's truth was found, beside the most that any method could find on these particles."""
    ours, best = scores["analysis"], scores["oracle"]
    words = {"swing_r2": "swing found with R²", "occupancy_linear_probe": "occupancy with balanced accuracy"}
    parts = [
        f"{text} {ours[key]:.3f} (best possible {best[key]:.3f})"
        for key, text in words.items()
        if ours[key] is not None and best[key] is not None
    ]
    return "Of the simulated truth: " + ", ".join(parts) + "." if parts else ""


def times(results: Path) -> pd.DataFrame:
    """Seconds and largest memory (MB) of each job, null runs' too, as Snakemake measured them; the longest first."""
    rows = []
    for path in sorted([*results.glob("benchmarks/**/*.tsv"), *results.glob("null*/benchmarks/**/*.tsv")]):
        measured = pd.read_csv(path, sep="\t").iloc[0]
        job = str(path.relative_to(results).with_suffix("")).replace("benchmarks/", "", 1)
        rows.append({"job": job, "s": measured["s"], "MB": measured["max_rss"]})
    if not rows:
        raise InputError(f"{results}: no benchmarks; Snakemake writes them when it runs the stages")
    return pd.DataFrame(rows).sort_values("s", ascending=False)
