"""What all rules share: files and flags from the config, the digest of the code, the shell.

Nothing here imports the package or torch: this is read again in every job of a cluster.
"""

import ast
import functools
import hashlib
import json
import os
import shlex
import sys
from pathlib import Path

SPLITS = ["full", "even", "odd"]


# ---- From the config to a stage's files and flags


# What a null run, whose particles are simulated, does not make: what is of the user's own particles and original images
NOT_IN_A_NULL = {
    "latent": {"umap": False},
    "volumes": {"selections": [], "motion": False, "box": "working", "sharpen": False},
}


def settings(stage, wildcards):
    """The section of a stage, of this analysis where the stage belongs to one."""
    if stage in config:
        return config[stage]
    null = wildcards.get("dataset", config["dataset"]) != config["dataset"]
    others = NOT_IN_A_NULL.get(stage, {}) if null else {}
    return config["analyses"][wildcards.analysis][stage] | others


def flags(stage):
    """A function for params: all options of a stage, and its folders, as command line flags."""
    kinds = {key: kind_of(schema) for key, schema in schema_of(stage).items()}

    def spelled(wildcards):
        values = settings(stage, wildcards)
        return " ".join(
            spell(key, values[key])
            for key, kind in kinds.items()
            if kind is None or (kind == "folder" and values[key])
        )

    return spelled


def spell(key, value):
    """One option as a flag that the command line reads back."""
    flag = key.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    if isinstance(value, list):
        return f"--{flag}={shlex.quote(json.dumps(value))}"
    return f"--{flag}={shlex.quote('none' if value is None else str(value))}"


def given(stage, key, split=None):
    """A function for input: the file that the config names, if it names one; for all splits or one alone."""

    def file(wildcards):
        path = settings(stage, wildcards)[key]
        return path if path and split in (None, wildcards.get("split")) else []

    return file


def given_in_lists(stage):
    """A function for input: the files that are named by sections in lists."""

    def files(wildcards):
        _, *nested = with_lists("", settings(stage, wildcards), schema_of(stage))
        return [path for _, path, kind in paths(nested) if kind == "file"]

    return files


def when_asked(path, *kinds):
    """A function for input: a file of the stage seeds, where the heterogeneity's regions or restraints need it."""

    def file(wildcards):
        keys = CONSISTENCY["model_keys"](settings("heterogeneity", wildcards))
        return path if any(keys[kind] for kind in kinds) else []

    return file


def where_asked(stage, key, path):
    """A function for input: a file that is made only where an option is set."""

    def file(wildcards):
        return path if settings(stage, wildcards)[key] else []

    return file


def of_choice(stage, key, value, *texts):
    """A function for input or params: files or flags that one choice of an option needs, wildcards filled in."""

    def filled(wildcards):
        chosen = settings(stage, wildcards)[key] == value
        return [text.format(**wildcards) for text in texts] if chosen else []

    return filled


def networks_of_halves(wildcards):
    """For input: what moves each half-map's particles where their motion is taken back, unseen by the other half's."""
    if wildcards.split != "full" or not settings("volumes", wildcards)["motion"]:
        return []
    folder = "results/{dataset}/{half}/{analysis}/heterogeneity"
    return expand(
        [f"{folder}/model.pt", f"{folder}/latent.csv"],
        half=["even", "odd"],
        **wildcards,
    )


def folders_of_halves(wildcards):
    """For params: the flags that name the folders of `networks_of_halves`."""
    if not networks_of_halves(wildcards):
        return ""
    folder = "--{half} results/{dataset}/{half}/{analysis}"
    return " ".join(expand(folder, half=["even", "odd"], **wildcards))


def particle_star(wildcards):
    """For input: the particles that the config names, or those that simulate makes."""
    simulated = f"results/{wildcards.dataset}/simulated/particles.star"
    return config["particles"]["star"] or simulated


def particle_subsets(folder):
    """For output: the subset in the user's own format, beside the STAR file."""
    given = config["particles"]
    names = ["particles.cs"] * str(given["star"]).endswith(".cs")
    names += ["indices.pkl"] * bool(given["poses"] or given["ctf_file"])
    return [f"{folder}/{name}" for name in names]


def of_other_half(pattern):
    """A function for input: a file of the other half, which is read where the halves meet."""

    def file(wildcards):
        other = {"even": "odd", "odd": "even"}[wildcards.half]
        return pattern.format(**dict(wildcards) | {"half": other})

    return file


def null_runs(pattern):
    """A function for input: a file of each null run that the analysis asks for; a null run itself has none."""

    def files(wildcards):
        runs = settings("agreement", wildcards)["null"]
        data = wildcards.dataset == config["dataset"]
        return [
            pattern.format(
                dataset=f"{wildcards.dataset}/null{run}", analysis=wildcards.analysis
            )
            for run in range(1, data * runs + 1)
        ]

    return files


def where_given(stage, key, path):
    """For output: a file that a stage makes only where the config names another."""
    return path if config[stage][key] else []


def optional(*names):
    """A function for params: flags for those of the inputs that are there."""

    def spelled(wildcards, input):
        return " ".join(
            f"--{name.replace('_', '-')} {quoted(input[name])}"
            for name in names
            if input.get(name)
        )

    return spelled


def quoted(files):
    """A file, or each of several, as the shell reads it."""
    return shlex.join([files] if isinstance(files, str) else map(str, files))


# ---- The code as a parameter: an edit reruns the stages that import the module, a comment reruns nothing


def digest(module):
    """A hash over the code of a module and all modules of ours that it imports."""
    found = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name], imported = parsed(name)
            waiting.extend(imported)
    return hashlib.sha256(
        "".join(found[name] for name in sorted(found)).encode()
    ).hexdigest()[:12]


@functools.cache
def parsed(module):
    """A module's syntax tree as text, without comments and docstrings, and the modules of ours that it imports."""
    tree = ast.parse(source(module).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            imported.update(
                [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            )
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree), [
        name
        for name in imported
        if name.startswith("gaussemble") and source(name).exists()
    ]


def constants(module):
    """The literal constants of a module of ours, read and not imported."""
    assigned = [
        node
        for node in ast.parse(source(module).read_text()).body
        if isinstance(node, ast.AnnAssign)
    ]
    return {node.target.id: ast.literal_eval(node.value) for node in assigned}


def source(module):
    """Where a module of ours stands."""
    path = ROOT / "workflow" / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


# ---- The figures and what they read

NAMES = constants("gaussemble.report.names")
STAGE_FILES = {
    "simulate": "results/{dataset}/simulated/truth.csv",
    "particles": "results/{dataset}/{split}/particles/report.json",
    "consensus": "results/{dataset}/{split}/consensus/map.mrc",
    "neutral": "results/{dataset}/{split}/neutral/mixture.npz",
    "heterogeneity": "results/{dataset}/{split}/{analysis}/heterogeneity/model.pt",
    "latent": "results/{dataset}/{split}/{analysis}/latent/embedding.csv",
    "volumes": "results/{dataset}/{split}/{analysis}/volumes",
    "motion_corrected": "results/{dataset}/{split}/{analysis}/volumes",
    "models": "results/{dataset}/{split}/{analysis}/models",
    "agreement": "results/{dataset}/agreement/{analysis}/verdict.json",
    "truth": "results/{dataset}/truth/{analysis}.json",
}
ABSENT = set() if config["seeds"]["model"] else {"models"}
ABSENT |= set() if "simulate" in config else {"simulate", "truth"}
ABSENT |= (
    set()
    if all(each["volumes"]["motion"] for each in config["analyses"].values())
    else {"motion_corrected"}
)


def figures():
    """The names of the figures whose stages this run has."""
    return [
        name for name, stages in NAMES["FIGURES"].items() if not ABSENT & set(stages)
    ]


def stage_files(stages, splits, **names):
    """A file of each stage in each split; the stage wrote all its files together."""
    patterns = [STAGE_FILES[stage] for stage in stages if stage not in ABSENT]
    return sorted(
        {
            pattern.format(split=split, **names)
            for pattern in patterns
            for split in splits
        }
    )


def files_of_figure(wildcards):
    """For input: what a figure reads."""
    splits = SPLITS if wildcards.figure in NAMES["EVERY_SPLIT"] else ["full"]
    return stage_files(NAMES["FIGURES"][wildcards.figure], splits, **wildcards)


def files_of_report(wildcards):
    """For input: what the page reads besides the figures, of every analysis."""
    analyses = config["analyses"]
    return sum(
        (
            stage_files(STAGE_FILES, ["full"], analysis=each, **wildcards)
            for each in analyses
        ),
        [],
    )


# ---- The shell: this checkout's package, by the interpreter that runs the workflow or by that of a conda environment

os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    MPLBACKEND="Agg",
)
shell.executable("bash")
# --sdm conda empties PYTHONPATH, hence a prefix; one that a workflow has set that uses this as a module stays
shell.prefix(
    f"{shell._process_prefix or 'set -euo pipefail;'} "
    f"export PYTHONPATH={shlex.quote(str(ROOT / 'workflow'))}; "
    # A queue sends SIGTERM to all processes of a job: the stage ends by itself, and bash and tee stay until it has
    'trap : TERM; tee() (trap "" TERM INT; exec tee "$@"); '
)


wildcard_constraints:
    split="|".join(SPLITS),
    analysis="|".join(config["analyses"]),
    dataset=config["dataset"] + r"(/null\d+)?",  # a null run is a data set of its own
