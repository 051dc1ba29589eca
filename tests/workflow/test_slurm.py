"""The tiny data set on a real SLURM: killed jobs go on where they were, mistakes are told, a killed run is taken up.

SLURM is brought up by slurm/up.sh, from Debian's packages, with GPUs that only pretend to be there; torch sees none of
them and trains on cores. What a cluster with cgroups does beyond that (kills for want of memory) cannot be tried here.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "slurm"
SPLITS = ["full", "even", "odd"]
HALVES = ["even", "odd"]
NEEDED = ["munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol"]
TINY = yaml.safe_load((ROOT / "tests/workflow/tiny.yaml").read_text())
THREADED = ["simulate", "particles", "consensus", "neutral", "heterogeneity", "crossing", "latent", "volumes"]
TRAINING = {"epochs": 6, "hidden": 64, "checkpoint_seconds": 0}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's programs find a cluster of ours."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [program for program in NEEDED if not shutil.which(program, path=path)]
    if absent:
        pytest.skip(f"SLURM is not installed here (no {', '.join(absent)}); .ci/run installs it where it may")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([SCRIPTS / "up.sh", folder, "64", "512000"], check=True)
        yield os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder}/bin:{path}"}
    finally:  # also what came up of one that did not
        subprocess.run([SCRIPTS / "down.sh", folder], check=True)


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    """The profile as a user fills it in."""
    folder = tmp_path_factory.mktemp("site") / "slurm"
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    for key, value in {"partition": "batch", "gpu_partition": "gpu", "gpu_type": "pretend"}.items():
        text, count = re.subn(rf"^  {key}:", f"  {key}: {value}", text, flags=re.MULTILINE)
        assert count == 1, key
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    return folder


def command(profile: Path, folder: Path, config: dict, *arguments: str) -> list[str]:
    """Snakemake's command in a folder; jobs have one core each, for this machine has few."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    threads = [f"{rule}=1" for rule in THREADED]
    called = [sys.executable, "-m", "snakemake", *arguments, "--snakefile", ROOT / "Snakefile", "--profile", profile]
    called += ["--directory", folder, "--configfile", folder / "config.yaml", "--set-threads", *threads]
    return list(map(str, [*called, "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10"]))


def queue(cluster: dict[str, str], *columns: str) -> list[list[str]]:
    """The columns of every job that SLURM has seen, the first one first."""
    asked = ["squeue", "--noheader", "--states=all", "--sort=i", "--format", "|".join(columns)]
    found = subprocess.run(asked, env=cluster, capture_output=True, text=True, check=True)
    return [line.split("|") for line in found.stdout.splitlines()]


def described(cluster: dict[str, str]) -> list[dict[str, str]]:
    """What SLURM says of every job, by its own names."""
    asked = ["scontrol", "--oneliner", "show", "job"]
    found = subprocess.run(asked, env=cluster, capture_output=True, text=True, check=True)
    return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in found.stdout.splitlines()]


def until(found: Callable[[], object], what: str, seconds: float = 1500) -> None:
    """Wait until something is there."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.2)


def training(folder: Path, split: str) -> int | None:
    """The process that trains in a folder of results, if it has written a checkpoint."""
    checkpoint = f"results/tiny/{split}/domains/checkpoints/heterogeneity.pt"
    if not (folder / checkpoint).exists():
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if words[1:3] == ["-m", "gaussemble"] and checkpoint in words and (process / "cwd").readlink() == folder:
                return int(process.name)
        except OSError:  # it has ended
            continue
    return None


def job_of(cluster: dict[str, str], split: str) -> str:
    """SLURM's number of the running training of a split."""
    jobs = queue(cluster, "%i", "%T", "%k")
    return next(
        job for job, state, text in jobs if state == "RUNNING" and f"heterogeneity_wildcards_tiny_{split}" in text
    )


def log_of(folder: Path, split: str) -> str:
    """What the training that runs, or ran last, has said."""
    path = folder / f"results/tiny/logs/{split}/domains/heterogeneity.txt"
    return path.read_text() if path.exists() else ""


def killed(cluster: dict[str, str], folder: Path) -> None:
    """End the trainings as soon as they can go on from a checkpoint; one of them twice, in different ways."""
    until(lambda: training(folder, "odd"), "a checkpoint of odd")
    asleep = training(folder, "odd")  # until SLURM's signal, which wakes it
    assert asleep is not None
    os.kill(asleep, signal.SIGSTOP)
    # The signal comes two minutes before the end of a job's time, hence now; the job ends well before its time does
    limit = ["scontrol", "update", f"JobId={job_of(cluster, 'odd')}", "TimeLimit=2"]
    subprocess.run(limit, env=cluster, check=True)
    until(lambda: training(folder, "even"), "a checkpoint of even")
    subprocess.run(["scancel", job_of(cluster, "even")], env=cluster, check=True)
    until(lambda: "going on" in log_of(folder, "even") and training(folder, "even"), "even to go on")
    again = training(folder, "even")
    assert again is not None
    os.kill(again, signal.SIGKILL)


@pytest.fixture(scope="module")
def run(cluster, profile, tmp_path_factory) -> tuple[Path, str]:
    """Where a run went to its end although its trainings were killed, and what it said."""
    folder = tmp_path_factory.mktemp("data sets of a user")
    latent = TINY["analyses"]["domains"]["latent"] | {"umap": False, "components": 1, "points": 2}
    analyses = {"domains": {"heterogeneity": TRAINING, "latent": latent, "agreement": {"null": 0}}}
    config = TINY | {"simulate": TINY["simulate"] | {"particles": 600}, "analyses": analyses}
    with (folder / "said.txt").open("w") as said:
        call = command(profile, folder, config, "results/tiny/agreement/domains/verdict.json")
        child = subprocess.Popen(call, env=cluster, stdout=said, stderr=said)
        try:
            killed(cluster, folder)
            code = child.wait(timeout=1500)
        finally:
            child.kill()
    text = (folder / "said.txt").read_text()
    assert code == 0, text[-5000:]
    return folder, text


def test_the_plan_is_told_before_anything_is_submitted(run):
    plan = re.search(r"^Asked of the cluster, at most:\n(.*\n)+?together.*$", run[1], re.MULTILINE)
    assert plan is not None
    assert plan.end() < run[1].index("has been submitted")
    assert "heterogeneity" in plan.group()


def test_only_mixtures_and_networks_have_a_gpu_and_both_halves_train_at_the_same_time(run, cluster):
    first: dict[str, dict[str, str]] = {}
    for job in described(cluster):
        rule = job["Comment"]
        asked = rule.startswith(("rule_neutral", "rule_heterogeneity", "rule_crossing"))
        assert ("pretend:1" in job.get("TresPerJob", "")) == asked, job
        assert job["Partition"] == ("gpu" if asked else "batch")
        for half in HALVES:
            if f"heterogeneity_wildcards_tiny_{half}" in rule:
                first.setdefault(half, job)
    assert first["even"]["StartTime"] < first["odd"]["EndTime"]
    assert first["odd"]["StartTime"] < first["even"]["EndTime"]


def test_every_kill_was_seen_and_followed_by_another_job(run, cluster):
    states = {half: [] for half in HALVES}
    for rule, state in queue(cluster, "%k", "%T"):
        for half in HALVES:
            if f"heterogeneity_wildcards_tiny_{half}" in rule:
                states[half].append(state)
    assert states == {"even": ["CANCELLED", "FAILED", "COMPLETED"], "odd": ["FAILED", "COMPLETED"]}
    assert run[1].count("Trying to restart job") == 3


@pytest.mark.parametrize("split", HALVES)
def test_a_killed_training_goes_on_and_ends_with_the_same_numbers(run, split, tmp_path):
    folder, said = run
    assert "going on after epoch" in log_of(folder, split)
    assert not (folder / f"results/tiny/{split}/domains/checkpoints").exists()
    lines = re.findall(r"^Shell command: (python -m gaussemble heterogeneity .*?) 2>&1", said, re.MULTILINE)
    words = next(shlex.split(line) for line in lines if f"/{split}/particles" in line)
    words[words.index("--out") + 1] = str(tmp_path)
    del words[words.index("--checkpoint") :][:2]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}
    again = subprocess.run([sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "going on" not in again.stderr
    name = f"results/tiny/{split}/domains/heterogeneity/latent.csv"
    assert (folder / name).read_bytes() == (tmp_path / "latent.csv").read_bytes()


@pytest.mark.parametrize("split", HALVES)
def test_a_training_that_the_queue_ends_is_heard_to_its_end(run, split):
    """SIGTERM reaches python through shell and pipe, and neither ends before it does."""
    said = re.findall(
        rf"Logfile results/tiny/logs/{split}/domains/heterogeneity.txt:\n=+\n(.*?)\n=+", run[1], re.DOTALL
    )
    assert len(said) == {"even": 2, "odd": 1}[split]
    assert "Gaussians, on cpu" in said[0]
    assert not any(word in text for text in said for word in ("Traceback", "BrokenPipe"))


def test_nothing_is_left_to_do_wherever_the_results_are_taken(run, profile, tmp_path):
    folder = tmp_path / "another machine"
    shutil.copytree(run[0], folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    again = command(profile, folder, config, "results/tiny/agreement/domains/verdict.json", "--dry-run")
    done = subprocess.run(again, capture_output=True, text=True)  # where there is no SLURM
    assert "Nothing to be done" in done.stdout + done.stderr, done.stderr[-3000:]


@pytest.fixture(scope="module")
def refused(run, cluster, profile, tmp_path_factory) -> tuple[Path, str, str, int]:
    """A run that was killed with one of its jobs, and whose consensus of all particles cannot be made.

    Returns its folder, what the run after the kill said, what the last one said, and that one's exit code.
    """
    folder = tmp_path_factory.mktemp("refused")
    (folder / "mask.mrc").write_bytes(bytes(1024))
    given = {"star": str(run[0] / "results/tiny/simulated/particles.star"), "datadir": str(run[0])}
    config = {"dataset": "tiny", "particles": given, "consensus": {"mask": "mask.mrc"}, "analyses": {"domains": {}}}
    targets = [f"results/tiny/{split}/consensus/mask.mrc" for split in SPLITS]
    call = command(profile, folder, config, *targets, "--retries", "0")
    child = subprocess.Popen(call, env=cluster, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waiting = len(queue(cluster, "%i")) + 3
    until(lambda: len(queue(cluster, "%i")) == waiting, "the first jobs")
    child.kill()
    child.wait()
    last, text = queue(cluster, "%i", "%k")[-1]
    assert text.startswith("rule_particles")
    subprocess.run(["scancel", last], env=cluster, check=True)
    until(lambda: not {"RUNNING", "PENDING", "COMPLETING"} & {row[0] for row in queue(cluster, "%T")}, "the jobs' end")
    locked = subprocess.run(call, env=cluster, capture_output=True, text=True)
    assert locked.returncode == 1
    subprocess.run([*call, "--unlock"], env=cluster, check=True)
    done = subprocess.run(call, env=cluster, capture_output=True, text=True)
    return folder, locked.stderr, done.stdout + done.stderr, done.returncode


def test_a_run_after_a_killed_one_says_how_to_go_on_and_makes_what_no_job_has_ended(refused):
    assert "--unlock" in refused[1]
    assert refused[2].count("\nrule particles:\n") == 1


def test_a_rule_that_fails_shows_its_own_line_and_the_others_go_on(refused):
    folder, _, said, code = refused
    lines = [line for line in said.splitlines() if line.startswith("gaussemble consensus: ")]
    assert code == 1
    assert len(set(lines)) == 1
    assert "mask.mrc" in lines[0]
    assert "Traceback" not in said
    made = [split for split in SPLITS if (folder / f"results/tiny/{split}/consensus/mask.mrc").exists()]
    assert made == ["even", "odd"]
