"""What reruns after a change, and where results may be taken: runs whose stages only pretend to work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dry_runs import DEMO, ROOT, changed, files, is_of_null, planned, saved, snakemake

COPIED = ["Snakefile", "config", "envs", "profiles", "resources", "workflow"]

# In the place of the command line: a stage's outputs are copied from where the test put empty ones.
PRETENDER = """
import os, shutil, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
made = Path(os.environ["MADE"]) / out
if sys.argv[1] == "figure":
    for path in made.glob(sys.argv[2] + ".*"):
        shutil.copy(path, out)
elif made.is_dir():
    shutil.copytree(made, out, dirs_exist_ok=True)
else:
    shutil.copy(made, out)
print("pretended", sys.argv[1], file=sys.stderr)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """A copy of the checkout, and a folder in which its demo ran with stages that only pretend to work."""
    root, folder, made = (tmp_path_factory.mktemp(name) for name in ("checkout", "run", "made"))
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    (root / "workflow/gaussemble/__main__.py").write_text(PRETENDER)
    for name in (name for job in planned(DEMO, folder, root=root) for name in files(job, "output")):
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix else path.mkdir(exist_ok=True)
    environment = {**os.environ, "MADE": str(made)}
    done = snakemake("--cores", "4", "--configfile", folder / "config.yaml", root=root, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return root, folder


def rerun(finished: tuple[Path, Path], config: dict = DEMO) -> set[str]:
    """The rules that would run again for the data set; its null runs begin anew with whatever they are made from."""
    root, folder = finished
    return {job["rule"] for job in planned(config, folder, root=root) if not is_of_null(job)}


def test_what_a_stage_says_is_in_its_log(finished):
    assert (finished[1] / "results/demo/logs/odd/consensus.txt").read_text() == "pretended consensus\n"


def test_nothing_reruns_without_a_change(finished):
    assert planned(DEMO, finished[1], root=finished[0]) == []


def pretended(root: Path, folder: Path, made: Path, config: dict, *targets: str) -> subprocess.Popen:
    """A run in a folder, of a data set of any name, whose stages copy the files of a finished one."""
    (folder / "made/results").mkdir(parents=True, exist_ok=True)
    (folder / "made/results" / config["dataset"]).symlink_to(made / "results/demo")
    path = saved(config, folder).rename(folder / f"{config['dataset']}.yaml")
    wanted = [f"results/{config['dataset']}/{target}" for target in targets]
    command = [sys.executable, "-m", "snakemake", *wanted, "--snakefile", root / "Snakefile", "--cores", "2"]
    command += ["--configfile", path, "--directory", folder]
    environment = {**os.environ, "MADE": str(folder / "made")}
    return subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)


MAPS = [f"{split}/consensus/map.mrc" for split in ("full", "even", "odd")]


def test_two_data_sets_run_at_the_same_time_from_one_checkout_in_one_folder(finished, tmp_path):
    folder = tmp_path / "data sets"
    runs = [pretended(finished[0], folder, finished[1], changed(DEMO, dataset=name), *MAPS) for name in ("a", "b")]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert len(list(folder.glob("results/*/*/consensus/map.mrc"))) == 6


def test_results_and_checkout_that_move_to_another_machine_rerun_nothing(finished, tmp_path):
    folder, made = tmp_path / "here", finished[1]
    folder.mkdir()
    (folder / "run data.star").touch()
    (folder / "run data.star").chmod(0o444)
    given = {"star": "run data.star"}
    config = changed(DEMO, dataset="real", simulate=None, seeds={"count": 512}, particles=given)
    targets = ["provenance.json", "odd/domains/heterogeneity/latent.csv", *MAPS]
    run = pretended(finished[0], folder, made, config, *targets)
    said = run.communicate()[1]
    assert run.returncode == 0, said
    root, there = shutil.copytree(finished[0], tmp_path / "another root"), shutil.copytree(folder, tmp_path / "there")
    wanted = [f"results/real/{target}" for target in targets]
    assert planned(config, there, *wanted, root=root) == []
    shutil.rmtree(there / ".snakemake")
    assert planned(config, there, *wanted, root=root) == []


def test_a_changed_option_reruns_its_stage_and_what_depends_on_it(finished):
    config = changed(DEMO, analyses={"domains": {"latent": {"clusters": 3}}})
    assert rerun(finished, config) == {
        "latent", "volumes", "models", "agreement", "truth", "figure", "provenance", "report",
    }  # fmt: skip


def test_changed_code_reruns_the_stages_that_import_it_and_a_comment_none(finished):
    path = finished[0] / "workflow/gaussemble/analysis/agreement.py"
    text = path.read_text()
    path.write_text("# A comment.\n" + text.replace('"""', '"""Another docstring. ', 1))
    assert rerun(finished) == set()
    path.write_text(text + "\nCHANGED = 1\n")
    assert rerun(finished) == {"agreement", "truth", "figure", "report"}
    path.write_text(text)


def test_code_of_a_lower_layer_reruns_whatever_reaches_it(finished):
    path = finished[0] / "workflow/gaussemble/model/networks.py"
    text = path.read_text()
    path.write_text(text + "\nCHANGED = 1\n")
    again = rerun(finished)
    path.write_text(text)
    assert "heterogeneity" in again
    assert not {"simulate", "particles", "seeds"} & again


def test_a_failed_stage_fails_the_run_and_shows_why(finished):
    root, folder = finished
    target = "results/demo/full/seeds/seeds.npz"
    done = snakemake(
        target, "--forcerun", "seeds", "--cores", "1", "--configfile", folder / "config.yaml", root=root, cwd=folder
    )  # without MADE the pretender fails
    assert done.returncode == 1
    assert "KeyError: 'MADE'" in done.stderr
    assert "KeyError: 'MADE'" in (folder / "results/demo/logs/full/seeds.txt").read_text()
    assert not (folder / target).exists()
