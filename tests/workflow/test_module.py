"""The workflow as a module of another one: its rules under other names, as snakedeploy writes it, from a repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = ["Snakefile", "config", "envs", "resources", "workflow"]
TINY = {
    "dataset": "inner",
    "simulate": {"model": "resources/demo_molecule.cif", "particles": 8, "box": 16, "pixel_size": 16, "states": 3},
    "analyses": {"motion": {}},
}
OUTER = """
configfile: "config/config.yaml"
shell.prefix("set -euo pipefail; ours=kept; ")

module gaussemble:
    snakefile: {snakefile}
    config: config["heterogeneity"]

use rule * from gaussemble as gaussemble_*

use rule simulate from gaussemble as gaussemble_simulate with:
    threads: 1

rule count:
    input: "results/{{dataset}}/simulated/truth.csv"
    output: "counts/{{dataset}}.txt"
    threads: lambda wildcards, attempt: attempt
    shell: "echo $ours $(tail -n +2 {{input}} | wc -l) > {{output}}"

rule all:
    default_target: True
    input: "counts/inner.txt", "results/inner/provenance.json"
"""
# as snakedeploy 0.17 writes it
DEPLOYED = """
from snakemake.utils import min_version

min_version("6.10.0")

configfile: "config/config.yaml"

module gaussemble:
    snakefile:
        {snakefile}
    config:
        config

use rule * from gaussemble
"""


def outer(folder: Path, text: str, config: dict, snakefile: str = repr(str(ROOT / "workflow/Snakefile"))) -> Path:
    """A workflow in a folder, which names this one as a module."""
    for name in ("workflow", "config"):
        (folder / name).mkdir(parents=True)
    (folder / "workflow/Snakefile").write_text(text.format(snakefile=snakefile))
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    return folder


def snakemake(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call snakemake in the outer workflow's folder."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | variables, capture_output=True, text=True)


def jobs(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """How often each rule runs, as the plan's table says."""
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in (done.stdout + done.stderr).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


@pytest.fixture
def served() -> Iterator[str]:
    """The address under which this machine serves the checkout's files."""
    handler = partial(SimpleHTTPRequestHandler, directory=ROOT)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_rules_run_under_other_names_beside_the_outer_workflows_own(tmp_path):
    outer(tmp_path, OUTER, {"heterogeneity": TINY})
    done = snakemake(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "counts/inner.txt").read_text() == "kept 8\n", "the outer workflow's shell.prefix holds"
    record = json.loads((tmp_path / "results/inner/provenance.json").read_text())
    assert record["config"]["simulate"]["particles"] == 8
    assert record["config"]["neutral"]["target"] == 0.95, "defaults are filled in"
    again = snakemake(tmp_path, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_two_data_sets_are_two_modules(tmp_path):
    twice = OUTER.replace("module gaussemble:", "module other:").replace("from gaussemble", "from other")
    twice = twice.replace('config["heterogeneity"]', 'config["second"]').replace("gaussemble_", "other_")
    twice = twice[twice.index("module other") : twice.index("rule count")]
    text = OUTER.replace("rule count", twice + "\nrule count").replace(
        '"results/inner/provenance.json"', "rules.gaussemble_all.input, rules.other_all.input"
    )
    outer(tmp_path, text, {"heterogeneity": TINY, "second": TINY | {"dataset": "second"}})
    planned = jobs(snakemake(tmp_path, "--dry-run"))
    assert planned["gaussemble_heterogeneity"] == planned["other_heterogeneity"] >= 3
    done = snakemake(tmp_path, "--dry-run", "--quiet", "--profile", str(ROOT / "profiles/slurm"))
    assert done.stderr.count("Asked of the cluster") == 1, "one plan, of all that is submitted"
    assert re.search(r"^count +1 +1 +0 ", done.stderr, re.MULTILINE), "the outer workflow's rules are counted too"


def test_a_mistake_is_one_line(tmp_path):
    outer(tmp_path, OUTER, {"heterogeneity": TINY | {"neutral": {"resolutoin": 8}}})
    done = snakemake(tmp_path, "--dry-run")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "resolutoin" in line]
    assert line == "config/config.yaml: neutral.resolutoin: no such key; did you mean resolution?"
    assert "Traceback" not in done.stderr


def test_a_prefix_of_paths_is_refused(tmp_path):
    text = OUTER.replace('config: config["heterogeneity"]', 'config: config["heterogeneity"]\n    prefix: "inner"')
    outer(tmp_path, text, {"heterogeneity": TINY})
    done = snakemake(tmp_path, "--dry-run")
    assert done.returncode != 0
    assert "prefix and replace_prefix cannot be used with gaussemble" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_of_the_files_is_refused(tmp_path, served):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    for name in ("Snakefile", "workflow/Snakefile"):
        arguments = ["--dry-run", "--snakefile", f"{served}/{name}", "--configfile", "tiny.yaml"]
        done = snakemake(tmp_path, *arguments, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert done.returncode != 0
        assert done.stderr.splitlines()[-1].startswith(f"{served}: stages run from files")
        assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """This checkout, committed to a repository of its own."""
    folder = tmp_path_factory.mktemp("hosted") / "gaussemble"
    for name in FILES:  # not by git's own list: a checkout may be another user's, or no repository
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "-m", "all"], ["tag", "v1"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.mark.slow
def test_what_snakedeploy_writes_runs_from_a_hosted_repository(tmp_path, repository):
    """Git finds the repository on this disk in the place of the host's."""
    hosted = 'github("lab/gaussemble", path="workflow/Snakefile", tag="v1")'
    folder = outer(tmp_path / "run", DEPLOYED, TINY, hosted)
    (tmp_path / "gitconfig").write_text(f'[url "{repository}"]\n  insteadOf = https://github.com/lab/gaussemble\n')
    variables = {"GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    planned = jobs(snakemake(folder, "--dry-run", **variables))
    assert planned["everything"] == 1, "without a target, everything is made"
    assert planned["report"] == 1
    assert planned["heterogeneity"] >= 3
    done = snakemake(folder, "results/inner/provenance.json", "--printshellcmds", **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((folder / "results/inner/provenance.json").read_text())
    (model,) = [entry["path"] for entry in record["inputs"]]
    assert Path(model).is_relative_to(tmp_path / "cache"), "the code and files are those of the tag, not of a checkout"
    assert Path(model).is_file()


def test_what_the_workflow_catalog_asks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) <= {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["software-stack-deployment"] == {"conda": True, "apptainer": False, "apptainer+conda": False}
    for name in ("README.md", "config/README.md", "config/config.yaml", "workflow/Snakefile"):
        assert (ROOT / name).is_file(), name
    words = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in words
    assert "workflow" in words
    included = (ROOT / "Snakefile").read_text().split('include: "')[1:]
    assert all(line.split('"')[0].endswith(".smk") for line in included)
