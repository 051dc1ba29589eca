"""Snakemake called on a checkout, and what a dry run says: shared by the tests of the workflow."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DEMO = yaml.safe_load((ROOT / "config/demo.yaml").read_text())


def snakemake(
    *arguments: str | Path, root: Path = ROOT, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Call snakemake on a checkout."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", root / "Snakefile", *arguments]
    return subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)


def planned(config: dict, folder: Path, *arguments: str, root: Path = ROOT) -> list[dict[str, str]]:
    """The jobs of a dry run in a folder: each with rule, input, output, wildcards, reason as the run prints them."""
    done = snakemake("-n", *arguments, "--cores", "2", "--configfile", saved(config, folder), root=root, cwd=folder)
    assert done.returncode == 0, done.stderr
    blocks = re.split(r"^(?:local)?rule (\w+):\n", done.stdout + done.stderr, flags=re.MULTILINE)
    jobs = []
    for rule, text in zip(blocks[1::2], blocks[2::2], strict=True):
        fields = re.findall(r"^(?:    |Shell )(\w+): (.*)$", text, flags=re.MULTILINE)
        jobs.append({"rule": rule, **dict(fields)})
    return [job for job in jobs if job["rule"] != "all"]


def saved(config: dict, folder: Path) -> Path:
    """A config as a file."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def files(job: dict[str, str], field: str) -> list[str]:
    """The input or output files of a job."""
    return [name for name in job.get(field, "").split(", ") if name]


def changed(config: dict, **sections: dict) -> dict:
    """The demo's config with other sections."""
    return {key: value for key, value in (config | sections).items() if value is not None}


def varied(**values) -> dict:
    """The demo's analysis with other values of its heterogeneity."""
    return {"analyses": {"domains": {"heterogeneity": values}}}


def is_of_null(job: dict[str, str]) -> bool:
    """Whether a job belongs to a null run, which is a data set of its own."""
    return "dataset=demo/null" in job.get("wildcards", "")
