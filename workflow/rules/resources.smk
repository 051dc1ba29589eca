"""What each job asks for: memory and time by the size of the data set, threads, GPUs; and the totals of the plan.

The figures are in gaussemble/costs.py. A profile tells by default-resources what the cluster decides, so that its
set-resources and those of the command line, of which one replaces the other, are left to the user: training_gpus, the
GPUs of a training; gpu_partition and gpu_type, of the jobs that have one; longest, the minutes that partitions allow.
"""

import atexit
import contextlib
import functools
import runpy
import sys

SIZES = runpy.run_path(str(ROOT / "workflow/gaussemble/sizes.py"))
COSTS = runpy.run_path(str(ROOT / "workflow/gaussemble/costs.py"))

SUBMITTED = workflow.resource_settings.nodes  # how many jobs at a time, if any

if SUBMITTED and " " in sys.executable:
    sys.exit(
        f"{sys.executable}: Snakemake cannot submit jobs that run a Python whose path has a space; make the environment "
        "elsewhere (the clone, the data and the results may have spaces)"
    )


def site(key, otherwise):
    """What the profile says of the cluster; text stands there in quotes of its own, as it is an expression."""
    given = workflow.resource_settings.default_resources or {}
    if key not in given:
        return otherwise
    said = given[key].raw
    return said.strip("'\"") if isinstance(said, str) else said


TRAINING_GPUS = site("training_gpus", 1)  # of the stage heterogeneity
GPU = min(1, TRAINING_GPUS)  # of other stages that use one


def gpus(stage):
    """A function for resources: the GPUs of a job of the stage, none where it works on processors alone."""
    most = TRAINING_GPUS if stage == "heterogeneity" else GPU

    def count(wildcards):
        if stage == "neutral":
            return most
        vary = settings("heterogeneity", wildcards)
        return 0 if CONSISTENCY["finds_poses"](vary) else most

    return count


def on_gpus(stage):
    """Resources of a job of the stage: its GPUs, and where SLURM finds them."""
    count = gpus(stage)

    def place(key, of_gpus):
        return lambda wildcards: site(of_gpus if count(wildcards) else key, None)

    said = {"slurm_partition": "gpu_partition", "gpu_model": "gpu_type"}
    given = {key: name for key, name in said.items() if GPU and site(name, None)}
    return {"gpu": count} | {key: place(key, name) for key, name in given.items()}


SIGNAL = "--signal=TERM@120"  # two minutes before a job's time ends: enough to write a checkpoint


def check_signal(training):
    """Stop at a slurm_extra without the signal: what set-resources says takes the place of what the rule says."""
    said = (training.rule.resources or {}).get("slurm_extra")
    if said is None:  # where another workflow uses other rules of this one
        return
    said = str(said.raw).strip("'\"")
    if "--signal" not in said:
        sys.exit(
            f"set-resources: {training.rule.name}:slurm_extra is {said}, without {SIGNAL}, by which a training writes its "
            f"checkpoint before its time ends; write slurm_extra=\"'{SIGNAL} {said}'\", or say it in default-resources"
        )


@functools.cache
def measured():
    """Particles of the input, and pixels of an image's edge."""
    given, simulated = config["particles"], config.get("simulate")
    if not given["star"]:
        return simulated["particles"], simulated["box"]
    return SIZES["size_of"](given["star"], given["poses"])


def size(stage, wildcards):
    """What the costs of a job depend on: its split's particles, their box, and its analysis."""
    count, original = measured()
    count *= SIZES["copies"](config["particles"]["expand"])
    split = wildcards.get("split") or wildcards.get("half") or "full"
    stages = config["analyses"].get(wildcards.get("analysis"), {})
    vary = stages.get("heterogeneity")
    uncropped = stage == "volumes" and stages["volumes"]["box"] == "original"
    return COSTS["Size"](
        particles=count if split == "full" else count // 2 + 1,
        box=original if uncropped else config["particles"]["box"] or original,
        gaussians=config["seeds"]["count"] or min(8192, config["neutral"]["most"]),
        epochs=passes(vary) if vary else 0,
        maps=maps(stages) if stages else 0,
        decoded=decoded(stage, wildcards),
        poses=vary["landmarks"] if vary and CONSISTENCY["finds_poses"](vary) else 0,
        shape=bool(vary and vary["find_shape"]),
    )


def passes(given):
    """Of a training over the particles."""
    rounds = sum(each["epochs"] for each in given["rounds"]) or given["epochs"]
    return COSTS["trained"](rounds, given["em_rounds"], given["em_epochs"])


def decoded(stage, wildcards):
    """Whether the stage finds classes by the particles' images, for which it compares them with landmarks."""
    if stage != "latent":
        return False
    options = settings("latent", wildcards)
    return options["method"] == "decoded" and not options["labels"]


def maps(stages):
    """About how many an analysis makes, of clusters and trajectories' points."""
    latent = stages["latent"]
    length = CONSISTENCY["latent_length"](stages["heterogeneity"])
    axes = latent["components"] or min(2, length)
    return (latent["clusters"] or 10) + axes * latent["points"]


def none(wildcards):
    """The GPUs of most stages."""
    return 0


def memory(stage, gpus=none):
    """A function for resources: MB, and after each kill twice as many."""

    def megabytes(wildcards, attempt):
        stages = config["analyses"].get(wildcards.get("analysis"), {})
        room = stages["volumes"]["memory"] if stage == "volumes" else 0
        needed = COSTS["megabytes"](
            stage, size(stage, wildcards), gpus(wildcards), room
        )
        return needed * 2 ** (attempt - 1)

    return megabytes


def time(stage, gpus=none):
    """A function for resources: minutes, and after each kill twice as many, up to what the cluster allows."""

    def minutes(wildcards, attempt):
        needed = COSTS["minutes"](stage, size(stage, wildcards), gpus(wildcards))
        wanted = needed * 2 ** (attempt - 1)
        return min(wanted, site("longest", wanted))

    return minutes


def half_the_cores(most):
    """Threads of a long job: even and odd run beside each other on one machine; a cluster's job has what it asked for."""
    cores = workflow.resource_settings.cores
    on_a_cluster = workflow.remote_exec or workflow.resource_settings.nodes
    return most if on_a_cluster or not cores else min(most, max(1, cores // 2))


# ---- The plan: printed where jobs are submitted, after a dry run and before a run


def cores(job):
    """What a job asks for; a dry run has one core itself, so they are the rule's, where these are a number."""
    asked = job.rule.resources["_cores"]
    return job.threads if asked.is_evaluable() else asked.value


def plan():
    """Print what all jobs together will ask of the cluster."""
    order = [rule.name for rule in workflow.rules]
    jobs = [
        COSTS["Job"](
            job.rule.name,
            cores(job),
            job.resources.get("gpu", 0),
            job.resources.get("mem_mb", 0),
            job.resources.get("runtime", 0),
        )
        for job in (
            workflow.dag.needrun_jobs(exclude_finished=False) if workflow.dag else []
        )
        if not (job.rule.norun or job.rule.name in workflow._localrules)
    ]
    if jobs:
        jobs.sort(key=lambda job: order.index(job.stage))
        lines = ["", "Asked of the cluster, at most:", *COSTS["table"](jobs)]
        print(*lines, sep="\n", file=sys.stderr)


onstart:
    if not workflow.local_exec:
        plan()


def plan_of_dry_run():
    """After a dry run of what is to be submitted; of one that failed Snakemake has said why."""
    if workflow.dryrun and workflow.resource_settings.nodes:
        # Snakemake has left --directory by now, where the files are by whose size jobs ask
        with contextlib.chdir(workflow.overwrite_workdir or "."):
            try:
                plan()
            except Exception as error:
                print(
                    f"What is asked of the cluster cannot be shown: {error!r}",
                    file=sys.stderr,
                )


if not hasattr(workflow, "plans"):  # once, where two modules are this workflow
    workflow.plans = atexit.register(plan_of_dry_run)  # onstart is not for dry runs
