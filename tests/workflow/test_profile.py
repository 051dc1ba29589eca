"""The plan of what is submitted to a queue: the totals at its end, and what a profile says of the cluster."""

import re
from collections import Counter

import pytest

from dry_runs import DEMO, ROOT, changed, planned, saved, snakemake


def test_slurm_profile_plans_the_same_jobs(tmp_path, demo_jobs):
    jobs = planned(DEMO, tmp_path, "--profile", str(ROOT / "slurm"))
    assert Counter(job["rule"] for job in jobs) == Counter(job["rule"] for job in demo_jobs)


@pytest.mark.parametrize("more", [[], ["-q"], ["--directory", "else where"]], ids=["whole", "quiet", "directory"])
def test_a_dry_run_of_what_is_submitted_ends_with_its_totals(tmp_path, more):
    config = saved(DEMO, tmp_path)
    done = snakemake("-n", *more, "--profile", ROOT / "slurm", "--configfile", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, *lines = done.stderr.split("Asked of the cluster, at most:\n")[1].splitlines()
    rows = {name: values for name, *values in map(str.split, lines)}
    assert rows["heterogeneity"][1:3] == ["8", "1"], "cores of a node and a GPU, not the one core of a dry run"
    assert rows["volumes"][2] == "0"
    assert not {"figure", "report", "all"} & set(rows), "made where snakemake runs"
    assert int(rows["together"][0]) == sum(int(each[0]) for name, each in rows.items() if name != "together")


def test_what_a_user_sets_for_a_stage_leaves_what_the_profile_says_of_the_cluster(tmp_path):
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    for key, value in {"partition": "all", "account": "me-1", "gpu_partition": "fast", "gpu_type": "a100"}.items():
        text = re.sub(rf"^  {key}:", f"  {key}: {value}", text, flags=re.MULTILINE)
    (tmp_path / "site.yaml").write_text(text)
    jobs = planned(DEMO, tmp_path, "--profile", "site.yaml", "--set-resources", "heterogeneity:mem_mb=64123")
    found = {job["rule"]: dict(each.split("=", 1) for each in job["resources"].split(", ")) for job in jobs}
    assert found["heterogeneity"]["mem_mb"] == "64123"
    assert found["heterogeneity"]["slurm_extra"] == "--signal=TERM@120"
    for rule in ("neutral", "heterogeneity"):
        assert (found[rule]["slurm_partition"], found[rule]["gpu_model"], found[rule]["gpu"]) == ("fast", "a100", "1")
    assert found["volumes"]["slurm_partition"] == "all", "not Python's function of that name"
    assert found["volumes"]["slurm_account"] == "me-1"
    assert "gpu" not in found["volumes"]


def test_poses_ask_for_no_gpu_and_go_where_there_is_none(tmp_path):
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    for key, value in {"partition": "all", "gpu_partition": "fast", "gpu_type": "a100"}.items():
        text = re.sub(rf"^  {key}:", f"  {key}: {value}", text, flags=re.MULTILINE)
    (tmp_path / "site.yaml").write_text(text)
    poses = {"decoder": "pose", "domains": [{"selection": "B"}], "amplitude": False}
    analyses = {"poses": {"heterogeneity": poses}, "networks": {}}
    asked = {}
    for job in planned(changed(DEMO, analyses=analyses), tmp_path, "--profile", "site.yaml"):
        if job["rule"] in ("heterogeneity", "crossing"):
            resources = dict(each.split("=", 1) for each in job["resources"].split(", "))
            analysis = job["wildcards"].split("analysis=")[1]
            asked[job["rule"], analysis] = [resources.get(key) for key in ("gpu", "slurm_partition", "gpu_model")]
    for rule in ("heterogeneity", "crossing"):
        assert asked[rule, "networks"] == ["1", "fast", "a100"]
        assert asked[rule, "poses"][:2] == ["0", "all"] and "a100" not in asked[rule, "poses"]


def test_a_search_for_poses_asks_for_the_time_of_as_many_as_it_may_find(tmp_path):
    poses = {"decoder": "pose", "domains": [{"selection": "B"}], "amplitude": False}
    simulate = DEMO["simulate"] | {"particles": 60_000}
    analyses = {"few": {"heterogeneity": poses}, "many": {"heterogeneity": poses | {"landmarks": 4096}}}
    asked = {}
    for job in planned(changed(DEMO, simulate=simulate, analyses=analyses), tmp_path, "--profile", str(ROOT / "slurm")):
        if job["rule"] == "heterogeneity":
            resources = dict(each.split("=", 1) for each in job["resources"].split(", "))
            asked[job["wildcards"].split("split=")[1].split(",")[0], job["wildcards"].split("analysis=")[1]] = resources
    for split in ("full", "even", "odd"):
        assert int(asked[split, "many"]["runtime"]) > 2 * int(asked[split, "few"]["runtime"])


def test_latents_that_are_clustered_by_images_ask_for_more_memory(tmp_path):
    analyses = {"images": {"latent": {"method": "decoded"}}, "latents": {}}
    jobs = planned(changed(DEMO, analyses=analyses), tmp_path, "--profile", str(ROOT / "slurm"))
    asked = {}
    for job in jobs:
        if job["rule"] == "latent":
            resources = dict(each.split("=", 1) for each in job["resources"].split(", "))
            assert "gpu" not in resources
            split = job["wildcards"].split("split=")[1].split(",")[0]
            asked[job["wildcards"].split("analysis=")[1], split] = int(resources["mem_mb"])
    assert all(asked["images", split] > asked["latents", split] + 1000 for split in ("full", "even", "odd"))


def test_a_training_keeps_the_signal_before_its_time_ends(tmp_path):
    call = ["-n", "--profile", ROOT / "slurm", "--configfile", saved(DEMO, tmp_path)]
    dropped = snakemake(*call, "--set-resources", "heterogeneity:slurm_extra='--exclusive'", cwd=tmp_path)
    assert dropped.returncode == 1
    (line,) = [line for line in dropped.stderr.splitlines() if line.startswith("set-resources: ")]
    assert "heterogeneity:slurm_extra is --exclusive, without --signal=TERM@120" in line
    assert "Traceback" not in dropped.stderr
    both = "'--signal=TERM@300 --exclusive'"
    for allowed in (
        ["--set-resources", f"heterogeneity:slurm_extra={both}"],
        ["--set-resources", "volumes:slurm_extra='--exclusive'"],
    ):
        done = snakemake(*call, *allowed, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "--exclusive" in done.stdout + done.stderr
