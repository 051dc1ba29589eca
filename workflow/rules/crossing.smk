"""The particles of each half under the network of the other, after both trainings have ended.

REQUIRES  results/{dataset}/{half}/  particles/ consensus/; the other half's {analysis}/heterogeneity/
PROVIDES  results/{dataset}/{half}/{analysis}/crossed/  latent.csv posterior.npz
"""


rule crossing:
    """Embed particles by a network that has never seen them; nothing but agreement reads it."""
    input:
        images="results/{dataset}/{half}/particles/images.npy",
        table="results/{dataset}/{half}/particles/particles.npz",
        noise="results/{dataset}/{half}/consensus/noise.csv",
        network=of_other_half(
            "results/{dataset}/{half}/{analysis}/heterogeneity/model.pt"
        ),
        posteriors=of_other_half(
            "results/{dataset}/{half}/{analysis}/heterogeneity/posterior.npz"
        ),
    output:
        latent="results/{dataset}/{half}/{analysis}/crossed/latent.csv",
        posterior="results/{dataset}/{half}/{analysis}/crossed/posterior.npz",
    log:
        "results/{dataset}/logs/{half}/{analysis}/crossing.txt",
    benchmark:
        "results/{dataset}/benchmarks/{half}/{analysis}/crossing.tsv"
    wildcard_constraints:
        half="even|odd",
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8)
    resources:
        **on_gpus("crossing"),
        mem_mb=memory("crossing", gpus("crossing")),
        runtime=time("crossing", gpus("crossing")),
    params:
        options=flags("heterogeneity"),
        code=digest("gaussemble.analysis.crossing"),
    shell:
        "python -m gaussemble crossing"
        " --particles results/{wildcards.dataset}/{wildcards.half}/particles"
        " --consensus results/{wildcards.dataset}/{wildcards.half}/consensus"
        " --network {input.network:q} --posteriors {input.posteriors:q}"
        " --out results/{wildcards.dataset}/{wildcards.half}/{wildcards.analysis}/crossed"
        " {params.options} 2>&1 | tee {log:q} >&2"
