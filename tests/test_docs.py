"""What the documentation tells a reader to type works, and what it points to is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# what a reader's own files stand for, in a checkout that has none
STAND_INS = {
    "--configfile my.yaml": "--configfile config/demo.yaml",
    "results/my_data": "results/demo",
    "motion": "domains",
}


def commands() -> list[str]:
    """The lines of the pages' console blocks, without comments."""
    blocks = [block for page in PAGES for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line})


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("snakemake")])
def test_snakemake_commands_plan_their_work(command):
    for theirs, ours in STAND_INS.items():
        command = command.replace(theirs, ours)
    words = command.split()[1:]
    if "--configfile" not in words:
        words += ["--configfile", "config/demo.yaml"]
    if "--cores" not in words and "-c" not in words:
        words += ["--cores", "1"]
    run = [sys.executable, "-m", "snakemake", *words, "--dry-run", "--quiet"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("make")])
def test_make_targets_exist(command):
    subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_there_are_commands_to_test():
    assert sum(line.startswith("snakemake") for line in commands()) >= 4
