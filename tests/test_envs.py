"""The lists of packages say the same and name all that is imported; rules run in conda's environment and in an image.

Neither conda nor apptainer is needed: stand-ins take Snakemake's calls and lead to this interpreter. So what is tested
is how the workflow asks for them, not that a channel can solve the environment or that an image can be built.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / "envs"
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
IMPORTED_AS = {"scikit-learn": "sklearn", "umap-learn": "umap"}
WITH_ANOTHER = {"llvmlite": "numba", "cycler": "matplotlib"}  # of one project, and never apart
STAND_IN_FOR_CONDA = """#!/bin/bash
# conda as Snakemake calls it; an environment is a folder whose python is that of the tests
echo "conda $*" >> "$CALLS"
case "$*" in
  *--version*) echo "conda 25.5.1" ;;
  *info*) echo '{{"conda_prefix": "{folder}", "platform": "linux-64"}}' ;;
  *"env create"*|*"create "*)
    while [ $# -gt 0 ]; do
      case "$1" in --prefix|-p) shift; place="$1" ;; --prefix=*) place="${{1#--prefix=}}" ;; esac
      shift
    done
    mkdir -p "$place/bin" "$place/conda-meta"
    printf '#!/bin/sh\\necho ran >> "%s"\\nexec {python} "$@"\\n' "$RAN" > "$place/bin/python"
    chmod +x "$place/bin/python" ;;
  *config*) echo '{{"channel_priority": "strict", "get": {{"channel_priority": "strict"}}}}' ;;
esac
"""
ACTIVATE = 'export PATH="$1/bin:$PATH" CONDA_PREFIX="$1"\n'
STAND_IN_FOR_APPTAINER = """#!/bin/bash
# apptainer as Snakemake calls it: exec [options] IMAGE bash -c COMMAND, run here
if [ "$1" = --version ]; then echo "apptainer version 1.3.4"; exit; fi
echo "$*" >> "$CALLS"
while [ "$1" != bash ]; do shift; done
exec "$@"
"""


def listed(name: str) -> set[str]:
    """The packages of a list for pip, and of those that it takes in."""
    lines = [line.strip() for line in (ENVS / name).read_text().splitlines()]
    found = {line for line in lines if line and line[0] not in "#-"}
    return found.union(*(listed(line.removeprefix("-r ")) for line in lines if line.startswith("-r ")))


def constraints() -> dict[str, str]:
    """The pinned version of every package."""
    lines = [line for line in (ENVS / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    return {name.lower().replace("_", "-"): version for name, version in pins.items()}


def dependencies() -> set[str]:
    """What the package says that it needs."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])


def conda() -> dict:
    """The environment for conda."""
    return yaml.safe_load((ENVS / "gaussemble.yaml").read_text())


def test_environments_hold_the_same_packages_and_versions():
    assert dependencies() | {"snakemake", "snakemake-executor-plugin-slurm"} == listed("run.txt")
    assert listed("run.txt") < listed("requirements.txt") <= set(constraints())
    pinned = {f"{CONDA_NAMES.get(name, name)}={constraints()[name]}" for name in dependencies()}
    assert set(conda()["dependencies"]) == pinned | {"python=3.11"}


def test_conda_reads_nothing_but_conda_forge():
    """`nodefaults` keeps a machine's own channels out, which may need a licence."""
    assert conda()["channels"] == ["conda-forge", "nodefaults"]
    assert set(conda()) == {"channels", "dependencies"}
    assert all(re.fullmatch(r"[a-z0-9-]+=\d+(\.\d+)+", each) for each in conda()["dependencies"])


def test_constraints_hold_no_local_version_and_no_address():
    """So pip takes torch with CUDA or without it, from the index that it is given."""
    assert not any("+" in version or "@" in version for version in constraints().values())
    assert constraints()["torch"] == "2.13.0"


def test_all_that_is_imported_is_listed():
    found = set()
    for path in (ROOT / "workflow/gaussemble").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    imported = {WITH_ANOTHER.get(name, name) for name in found - sys.stdlib_module_names - {"gaussemble"}}
    assert imported <= {IMPORTED_AS.get(name, name) for name in dependencies()}


def test_the_image_is_made_of_the_same_lists():
    recipe = (ENVS / "gaussemble.def").read_text()
    copied = dict(re.findall(r"^    (envs/\S+) (\S+)$", recipe, flags=re.MULTILINE))
    assert set(copied) == {"envs/constraints.txt", "envs/run.txt"}
    assert all((ROOT / name).is_file() for name in copied)
    (install,) = re.findall(r"^    python -m pip install (.*)$", recipe, flags=re.MULTILINE)
    assert re.findall(r"--(?:constraint|requirement) (\S+)", install) == list(copied.values())
    assert "From: python:3.11-" in recipe
    (tested,) = re.findall(r'python -c "import ([^"]*)"', recipe)
    assert set(tested.split(", ")) <= {IMPORTED_AS.get(name, name) for name in listed("run.txt")}


def executable(path: Path, text: str) -> Path:
    """A program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def provenance(folder: Path, *arguments: str, **variables: str) -> str:
    """Run the cheapest rule with the stand-ins on PATH; returns what they were called with."""
    calls = folder / "calls.txt"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["--configfile", str(ROOT / "config/demo.yaml"), *arguments, "--", "results/demo/provenance.json"]
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "CALLS": str(calls), "RAN": str(folder / "ran.txt")} | variables
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "results/demo/provenance.json").is_file()
    return calls.read_text()


@pytest.mark.slow
def test_rules_run_in_the_environment_that_conda_makes(tmp_path):
    """Snakemake takes PYTHONPATH away there, and the checkout's package is found nevertheless."""
    text = STAND_IN_FOR_CONDA.format(folder=tmp_path, python=sys.executable)
    executable(tmp_path / "bin/conda", text)
    executable(tmp_path / "bin/activate", ACTIVATE)
    calls = provenance(tmp_path, "--sdm", "conda")
    assert "create" in calls
    assert (tmp_path / "ran.txt").read_text() == "ran\n", "by the environment's python"


@pytest.mark.slow
def test_rules_run_in_the_image_that_is_named(tmp_path):
    executable(tmp_path / "bin/apptainer", STAND_IN_FOR_APPTAINER)
    image = executable(tmp_path / "gaussemble.sif", "")
    arguments = ("--sdm", "apptainer", "--apptainer-args=--nv --bind /data")
    calls = provenance(tmp_path, *arguments, GAUSSEMBLE_IMAGE=str(image))
    assert "--nv --bind /data" in calls
    assert f" {image} bash -c " in calls
    assert "python -m gaussemble provenance" in calls
