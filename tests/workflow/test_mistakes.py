"""A user's mistakes: each is one line, before anything runs or from the stage that finds it."""

import re
import resource

import pytest

from dry_runs import DEMO, ROOT, changed, saved, snakemake, varied

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
    "moving bodies with a symmetry": (
        {"analyses": {"domains": {"volumes": {"motion": True, "symmetry": "C4"}}}},
        ["analyses.domains.volumes.symmetry", "found C4", "volumes.motion"],
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
    "a shape to be found where the model has it": (
        varied(decoder="pose", domains=[{"selection": "B"}], amplitude=False, find_shape=True),
        [f"{VARY}.find_shape", "found true", "seeds.model", "seeds.moving"],
    ),
    "a shape without poses": (varied(find_shape=True), [f"{VARY}.find_shape", "decoder: pose"]),
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
