"""Particles in which nothing varies, for what an analysis finds in noise alone.

From here they are a data set of their own, results/{dataset}/null{run}/, on which the same rules work as on the
particles of the halves: the wildcard {dataset} is then `name/null1`.

REQUIRES  results/{dataset}/{split}/  particles/ consensus/ neutral/, of even and of odd
PROVIDES  results/{dataset}/null{run}/{split}/particles/  particles.star images.npy particles.npz
"""


rule null:
    """Simulate the half's particles from its own neutral mixture: same poses, CTF, shifts and noise."""
    input:
        images="results/{dataset}/{split}/particles/images.npy",
        table="results/{dataset}/{split}/particles/particles.npz",
        star="results/{dataset}/{split}/particles/particles.star",
        noise="results/{dataset}/{split}/consensus/noise.csv",
        neutral="results/{dataset}/{split}/neutral/mixture.npz",
    output:
        star="results/{dataset}/null{run}/{split}/particles/particles.star",
        images="results/{dataset}/null{run}/{split}/particles/images.npy",
        table="results/{dataset}/null{run}/{split}/particles/particles.npz",
    log:
        "results/{dataset}/null{run}/logs/{split}/particles.txt",
    benchmark:
        "results/{dataset}/null{run}/benchmarks/{split}/particles.tsv"
    wildcard_constraints:
        dataset=config["dataset"],
        run=r"\d+",
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8)
    resources:
        mem_mb=memory("null"),
        runtime=time("null"),
    params:
        code=digest("gaussemble.analysis.null"),
    shell:
        "python -m gaussemble null"
        " --particles results/{wildcards.dataset}/{wildcards.split}/particles"
        " --consensus results/{wildcards.dataset}/{wildcards.split}/consensus"
        " --neutral {input.neutral:q} --run {wildcards.run}"
        " --out results/{wildcards.dataset}/null{wildcards.run}/{wildcards.split}/particles"
        " 2>&1 | tee {log:q} >&2"
