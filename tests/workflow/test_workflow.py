"""The workflow as a user meets it: dry runs, mistakes in the config, what reruns after a change."""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from gaussemble.fit import heterogeneity

ROOT = Path(__file__).resolve().parents[2]
DEMO = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
TRAININGS = 5  # of the three splits, and of both halves of a null run
SPLIT_RULES = ["particles", "consensus", "seeds", "neutral", "heterogeneity", "latent", "volumes"]
COPIED = ["Snakefile", "config", "envs", "profiles", "resources", "workflow"]


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


@pytest.fixture(scope="module")
def demo_jobs(tmp_path_factory) -> list[dict[str, str]]:
    """The demo's jobs, planned in a folder that is not the checkout."""
    return planned(DEMO, tmp_path_factory.mktemp("elsewhere"))


def is_of_null(job: dict[str, str]) -> bool:
    """Whether a job belongs to a null run, which is a data set of its own."""
    return "dataset=demo/null" in job.get("wildcards", "")


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


def varied(**values) -> dict:
    """The demo's analysis with other values of its heterogeneity."""
    return {"analyses": {"domains": {"heterogeneity": values}}}


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


def test_slurm_profile_plans_the_same_jobs(tmp_path, demo_jobs):
    jobs = planned(DEMO, tmp_path, "--profile", str(ROOT / "slurm"))
    assert Counter(job["rule"] for job in jobs) == Counter(job["rule"] for job in demo_jobs)


@pytest.mark.parametrize("quiet", [[], ["-q"]], ids=["whole", "quiet"])
def test_a_dry_run_of_what_is_submitted_ends_with_its_totals(tmp_path, quiet):
    config = saved(DEMO, tmp_path)
    done = snakemake("-n", *quiet, "--profile", ROOT / "slurm", "--configfile", config, cwd=tmp_path)
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


LATENT = "analyses.domains.latent"
VARY = "analyses.domains.heterogeneity"
RIGID = {"name": "a", "kind": "rigid", "domains": [{"selection": "A"}]}
MISTAKES = {
    "misspelt key": ({"neutral": {"resolutoin": 8}}, ["neutral.resolutoin", "did you mean resolution?"]),
    "misspelt section": ({"neutrl": {}}, ["neutrl", "did you mean neutral?"]),
    "misspelt option of an analysis": (
        {"analyses": {"domains": {"latent": {"cluster": 3}}}},
        [f"{LATENT}.cluster", "did you mean clusters?"],
    ),
    "wrong type": ({"neutral": {"resolution": "8 A"}}, ["neutral.resolution", "'8 A'", "number"]),
    "number that YAML reads as text": ({"neutral": {"resolution": "1e1"}}, ["neutral.resolution", "1.0e-3"]),
    "wrong choice": (
        {"analyses": {"domains": {"latent": {"method": "kmean"}}}},
        [f"{LATENT}.method", "'kmean'", "did you mean kmeans?"],
    ),
    "number out of range": ({"analyses": {"domains": {"latent": {"points": 1}}}}, [f"{LATENT}.points", "minimum of 2"]),
    "empty section": ({"particles": None, "neutral": "nothing"}, ["neutral", "'nothing'", "section"]),
    "name of a stage": ({"analyses": {"neutral": {}}}, ["analyses", "'neutral'", "stage"]),
    "name with a slash": ({"dataset": "a/b"}, ["dataset", "'a/b'", "letters"]),
    "no analysis": ({"analyses": {}}, ["analyses"]),
    "missing file": ({"seeds": {"model": "nowhere/model.cif"}}, ["seeds.model", "no such file", "nowhere/model.cif"]),
    "missing folder": ({"particles": {"datadir": "nowhere"}}, ["particles.datadir", "no such folder", "nowhere"]),
    "folder in the place of a file": ({"seeds": {"model": "."}}, ["seeds.model", "no such file"]),
    "two options that exclude each other": (
        {"analyses": {"domains": {"latent": {"components": 9}}}},
        [f"{LATENT}.components", "found 9", "latent_dim"],
    ),
    "symmetry twice": (
        {"particles": {"expand": "C2"}, "consensus": {"symmetry": "C2"}},
        ["consensus.symmetry", "found C2", "particles.expand"],
    ),
    "a map beside whitened images": (
        {"particles": {"whiten": True}, "consensus": {"map": str(ROOT / "Makefile")}},
        ["particles.whiten", "consensus.map", "leave one out"],
    ),
    "negative Gaussians of a fixed number": (
        {"seeds": {"count": 9}, "neutral": {"amplitudes": "signed"}},
        ["neutral.amplitudes", "found signed", "neutral.grow"],
    ),
    "trajectory from its end": ({"analyses": {"domains": {"latent": {"lower": 95, "upper": 5}}}}, [f"{LATENT}.lower"]),
    "nothing may vary": (
        {"analyses": {"domains": {"heterogeneity": {"position": False, "amplitude": False}}}},
        ["analyses.domains.heterogeneity", "nothing may vary"],
    ),
    "unknown kind in a list": (
        varied(decoders=[{"name": "a"}, {"name": "b", "kind": "rigit"}]),
        [f"{VARY}.decoders.1.kind", "'rigit'", "did you mean rigid?"],
    ),
    "misspelt key in a list": (
        varied(decoders=[{"name": "a", "anchor": 3}]),
        [f"{VARY}.decoders.0.anchor", "did you mean anchors?"],
    ),
    "a decoder without a name": (varied(decoders=[{"kind": "dense"}]), [f"{VARY}.decoders.0.name", "must be given"]),
    "no list": (varied(decoders={"name": "a"}), [f"{VARY}.decoders", "expected a list"]),
    "two decoders of one name": (varied(decoders=[{"name": "a"}, {"name": "a"}]), [f"{VARY}.decoders.1.name", "a is"]),
    "rigid without domains": (varied(decoders=[{"name": "a", "kind": "rigid"}]), [f"{VARY}.decoders.0.domains"]),
    "rigid that fades": (varied(decoders=[RIGID | {"amplitude": True}]), [f"{VARY}.decoders.0.amplitude", "rigid"]),
    "a domain that is nowhere": (
        varied(decoders=[RIGID | {"domains": [{}]}]),
        [f"{VARY}.decoders.0.domains.0", "neither", "mask"],
    ),
    "a decoder that varies nothing": (
        varied(decoders=[{"name": "a", "position": False, "amplitude": False}]),
        [f"{VARY}.decoders.0.position", "off"],
    ),
    "a round of nobody": (
        varied(decoders=[RIGID], rounds=[{"decoders": ["b"], "epochs": 1}]),
        [f"{VARY}.rounds.0.decoders", "no decoder is called b", "a"],
    ),
    "a last round that leaves one out": (
        varied(decoders=[RIGID, {"name": "b"}], rounds=[{"epochs": 1}, {"decoders": ["b"], "epochs": 1}]),
        [f"{VARY}.rounds.1.decoders", "leaves out a"],
    ),
    "a round finer than all": (
        varied(resolution=12, rounds=[{"epochs": 1, "resolution": 8}]),
        [f"{VARY}.rounds.0.resolution", "8", "12"],
    ),
    "atoms without a model": (
        {"seeds": {}} | varied(decoders=[RIGID]),
        [f"{VARY}.decoders.0.domains.0.selection", "seeds.model"],
    ),
    "restraints without a model": ({"seeds": {}} | varied(restraint=1), [f"{VARY}.restraint", "seeds.model"]),
    "restraints without residues": (
        varied(decoders=[{"name": "a", "restraint": 2}]),
        [f"{VARY}.decoders.0.restraint", "seeds.count, 512"],
    ),
    "missing mask in a list": (
        varied(decoders=[{"name": "a", "region": "nowhere.mrc"}]),
        [f"{VARY}.decoders.0.region", "no such file"],
    ),
    "empty band": (
        {"analyses": {"domains": {"heterogeneity": {"resolution": 20, "lowest_resolution": 10}}}},
        ["heterogeneity.lowest_resolution", "found 10", "20"],
    ),
    "box larger than the images": ({"particles": {"box": 4000}}, ["particles.box", "found 4000", "simulate.box"]),
    "not a number": ({"neutral": {"resolution": float("nan")}}, ["neutral.resolution", "found nan"]),
    "passthrough of a STAR file": (
        {"simulate": None, "particles": {"star": str(ROOT / "Makefile"), "passthrough": str(ROOT / "Makefile")}},
        ["particles.passthrough", "cryoSPARC", "Makefile"],
    ),
    "poses of simulated particles": (
        {"particles": {"poses": str(ROOT / "Makefile")}},
        ["particles.poses", "simulated", "remove"],
    ),
    "no particles": ({"simulate": None}, ["particles.star", "simulate"]),
}


def processor_seconds() -> float:
    """Of all programs that were called so far: how long one takes by the clock depends on what else runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(("sections", "words"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_in_the_config_is_one_line_before_anything_runs(tmp_path, sections, words):
    path = saved(changed(DEMO, **sections), tmp_path)
    start = processor_seconds()
    done = snakemake("-n", "--configfile", path, cwd=tmp_path)
    seconds = processor_seconds() - start
    lines = [line for line in done.stderr.splitlines() if "profile" not in line]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("config.yaml: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert not (tmp_path / "results").exists()
    assert seconds < 6, "two seconds on a machine that does nothing else; tests that share its caches slow it"


@pytest.mark.parametrize(("written", "flag"), [("no", "--grow=no"), ("yes", "--grow=yes"), ("'no'", "--grow=no")])
def test_words_that_yaml_takes_for_others_are_read_as_they_stand(tmp_path, written, flag):
    """A user writes `null: 2` and `grow: no` without quotes, as the documents do."""
    text = (ROOT / "config/demo.yaml").read_text() + "    agreement:\n      null: 2\n      cosine: 0.5\n"
    (tmp_path / "config.yaml").write_text(text.replace("neutral:\n", f"neutral:\n  grow: {written}\n"))
    verdict = "results/demo/agreement/domains/verdict.json"
    done = snakemake(verdict, "-n", "-p", "--cores", "1", "--configfile", tmp_path / "config.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^null +4$", done.stdout + done.stderr, re.MULTILINE)
    assert flag in done.stdout + done.stderr


def test_a_key_that_stands_twice_is_one_line(tmp_path):
    path = saved(DEMO, tmp_path)
    path.write_text(path.read_text() + "dataset: other\n")
    done = snakemake("-n", "--configfile", path, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"^config\.yaml: dataset: stands more than once .* line \d+$", done.stderr, re.MULTILINE), (
        done.stderr
    )


def test_results_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "results").write_text("a file")
    done = snakemake("-n", "--configfile", saved(DEMO, tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert "config.yaml: dataset: results/demo cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stage_that_refuses_its_input_fails_the_run_in_one_line(tmp_path):
    (tmp_path / "run data.star").write_text("data_job\n\n_rlnJobTypeLabel relion.refine3d\n")
    config = changed(DEMO, simulate=None, particles={"star": "run data.star"})
    target = "results/demo/even/particles/images.npy"
    done = snakemake(target, "--cores", "1", "--configfile", saved(config, tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("gaussemble particles: ")]
    assert len(lines) == 1, done.stderr
    assert "run data.star: this is the settings of a job" in lines[0]
    assert "Traceback" not in done.stderr
    assert (tmp_path / "results/demo/logs/even/particles.txt").read_text() == lines[0] + "\n"
    assert not [path for path in (tmp_path / "results/demo/even").rglob("*") if path.is_file()]


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


def test_lint_and_format():
    done = snakemake("--lint")
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow/rules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
