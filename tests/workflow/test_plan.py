"""The plan: which jobs a config makes, what each reads and asks for, and what the halves share."""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

from dry_runs import DEMO, ROOT, changed, files, is_of_null, planned, saved, snakemake, varied
from gaussemble.fit import heterogeneity

TRAININGS = 5  # of the three splits, and of both halves of a null run
SPLIT_RULES = ["particles", "consensus", "seeds", "neutral", "heterogeneity", "latent", "volumes"]


def test_every_stage_runs_once_for_each_split(demo_jobs):
    count = Counter(job["rule"] for job in demo_jobs if not is_of_null(job))
    assert {rule: count[rule] for rule in SPLIT_RULES} == dict.fromkeys(SPLIT_RULES, 3)
    once = ["simulate", "models", "agreement", "truth", "report", "provenance"]
    assert {rule: count[rule] for rule in once} == dict.fromkeys(once, 1)


def test_a_null_run_takes_the_way_of_both_halves(demo_jobs):
    count = Counter(job["rule"] for job in demo_jobs if is_of_null(job))
    assert count == dict.fromkeys([*SPLIT_RULES[1:], "crossing"], 2) | {"agreement": 1}
    (verdict,) = [job for job in demo_jobs if job["rule"] == "agreement" and not is_of_null(job)]
    assert "results/demo/null1/agreement/domains/verdict.json" in files(verdict, "input")


def test_null_runs_are_as_many_as_the_analysis_says(tmp_path):
    for runs in (0, 2):
        config = changed(DEMO, analyses={"domains": {"agreement": {"null": runs}}})
        jobs = planned(config, tmp_path, "-p", "results/demo/agreement/domains/verdict.json")
        assert Counter(job["rule"] for job in jobs)["null"] == 2 * runs
        (meeting,) = [job for job in jobs if job["rule"] == "agreement" and not is_of_null(job)]
        verdicts = [f"results/demo/null{run}/agreement/domains/verdict.json" for run in range(1, runs + 1)]
        assert [word for word in shlex.split(meeting["command"]) if "/null" in word] == verdicts


def test_halves_share_nothing_but_the_input(demo_jobs):
    for job in demo_jobs:
        for half, others in {"even": ("full", "odd"), "odd": ("full", "even")}.items():
            if f"split={half}" in job.get("wildcards", ""):
                shared = [name for name in files(job, "input") if any(f"/{other}/" in name for other in others)]
                assert not shared, f"{job['rule']} of {half} reads {shared}"


def test_what_crosses_between_the_halves_comes_back_to_none(demo_jobs):
    reads = {job["rule"] for job in demo_jobs if any("/crossed/" in name for name in files(job, "input"))}
    assert reads == {"agreement"}
    met = {job["rule"] for job in demo_jobs if any("/agreement/" in name for name in files(job, "input"))}
    assert met <= {"agreement", "truth", "figure", "report"}


def test_every_rule_says_what_it_needs_and_keeps_a_log_and_a_benchmark(demo_jobs):
    for job in demo_jobs:
        assert {"log", "benchmark"} <= set(job), job["rule"]
        assert all(word in job["resources"] for word in ("mem_mb=", "runtime=")), job["rule"]
    trained = [job for job in demo_jobs if job["rule"] in ("neutral", "heterogeneity")]
    assert all("gpu=1" in job["resources"] for job in trained)


def test_every_figure_is_a_target_of_its_own(tmp_path):
    jobs = planned(DEMO, tmp_path, "results/demo/figures/domains/latent_pca.svg")
    assert Counter(job["rule"] for job in jobs)["figure"] == 1
    assert "volumes" not in {job["rule"] for job in jobs}
    assert all("split=full" in job["wildcards"] for job in jobs if "split=" in job.get("wildcards", ""))


def test_without_a_model_and_a_simulation_their_stages_are_left_out(tmp_path):
    (tmp_path / "run data.star").touch()
    (tmp_path / "map.mrc").touch()
    config = changed(DEMO, simulate=None, seeds=None, particles={"star": "run data.star"}, consensus={"map": "map.mrc"})
    jobs = planned(config, tmp_path)
    assert not {"simulate", "models", "truth"} & {job["rule"] for job in jobs}
    drawn = {Path(name).stem for job in jobs if job["rule"] == "figure" for name in files(job, "output")}
    assert "latent_pca" in drawn
    assert not {"displacement", "truth_recovery"} & drawn
    uses_map = [job["wildcards"] for job in jobs if job["rule"] == "consensus" and "map.mrc" in files(job, "input")]
    assert uses_map == ["dataset=demo, split=full"], "a user's map is made from both halves"


def test_the_files_of_other_programs_reach_every_split(tmp_path):
    for name in ("run.cs", "pass.cs", "poses.pkl", "ctf.pkl", "map.mrc"):
        (tmp_path / name).touch()
    given = {"star": "run.cs", "passthrough": "pass.cs", "poses": "poses.pkl", "ctf_file": "ctf.pkl"}
    config = changed(DEMO, simulate=None, particles=given, consensus={"map": "map.mrc"})
    done = snakemake("-n", "-p", "--cores", "2", "--configfile", saved(config, tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    commands = re.findall(r"python -m gaussemble particles .*", done.stdout + done.stderr, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        for flags in (
            "--star run.cs",
            "--passthrough pass.cs",
            "--poses poses.pkl",
            "--ctf-file ctf.pkl",
            "--map map.mrc",
        ):
            assert flags in command
    made = [files(job, "output") for job in planned(config, tmp_path) if job["rule"] == "particles"]
    assert all({"particles.star", "particles.cs", "indices.pkl"} <= {Path(name).name for name in each} for each in made)


def test_a_list_of_decoders_reaches_the_stage_with_its_files(tmp_path):
    for name in ("one mask.mrc", "two.mrc", "three.mrc"):
        (tmp_path / name).touch()
    arm = {"name": "arm", "kind": "rigid", "domains": [{"mask": "one mask.mrc"}, {"mask": "two.mrc"}]}
    rest = {"name": "rest", "region": "three.mrc", "amplitude": False}
    rounds = [{"decoders": ["arm"], "epochs": 4, "resolution": 30}, {"epochs": 6, "transition": "trainable"}]
    config = changed(DEMO, **varied(decoders=[arm, rest], rounds=rounds))
    done = snakemake("-n", "-p", "--cores", "2", "--configfile", saved(config, tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    commands = re.findall(r"python -m gaussemble heterogeneity .*", done.stdout + done.stderr)
    assert len(commands) == TRAININGS
    flags = dict(word.split("=", 1) for word in shlex.split(commands[0]) if "=" in word)
    given = [json.loads(flags[f"--{key}"]) for key in ("decoders", "rounds")]
    options = heterogeneity.Options.model_validate({"decoders": given[0], "rounds": given[1]})
    assert options == heterogeneity.Options(decoders=[arm, rest], rounds=rounds)
    assert options.decoders[0].domains[0].mask == Path("one mask.mrc")
    assert "--seeds" not in shlex.split(commands[0])
    for job in planned(config, tmp_path):
        if job["rule"] == "heterogeneity":
            read = {Path(name).name for name in files(job, "input")}
            assert {"one mask.mrc", "two.mrc", "three.mrc"} <= read
            assert not {"seeds.npz", "model.cif"} & read
        if job["rule"] == "provenance":
            assert {"one mask.mrc", "two.mrc", "three.mrc"} <= set(files(job, "input"))


def test_the_seeds_are_read_where_atoms_are_selected_or_restrained(tmp_path):
    def read(**values) -> list[set[str]]:
        seeds = {"model": DEMO["seeds"]["model"]}
        jobs = planned(changed(DEMO, seeds=seeds, **varied(**values)), tmp_path)
        return [
            {Path(name).name for name in files(job, "input")} & {"seeds.npz", "model.cif"}
            for job in jobs
            if job["rule"] == "heterogeneity"
        ]

    assert read() == [set()] * TRAININGS
    assert read(restraint=1.0) == [{"seeds.npz"}] * TRAININGS
    assert read(selection="A") == [{"seeds.npz", "model.cif"}] * TRAININGS
    arm = {"name": "arm", "kind": "rigid", "domains": [{"selection": "A"}]}
    assert read(decoders=[arm]) == [{"seeds.npz", "model.cif"}] * TRAININGS


def test_a_star_file_has_no_subset_of_another_kind(demo_jobs):
    made = [Path(name).name for job in demo_jobs if job["rule"] == "particles" for name in files(job, "output")]
    assert set(made) == {"particles.star", "images.npy", "particles.npz", "report.json"}


def test_lint_and_format():
    done = snakemake("--lint")
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow/rules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
