"""Reconstructions of every cluster and every trajectory point, with half-maps and FSC.

REQUIRES  results/{dataset}/{split}/  particles/ consensus/ {analysis}/heterogeneity/ {analysis}/latent/
PROVIDES  results/{dataset}/{split}/{analysis}/volumes/cluster_{k}/, trajectory_{t}/
          with map.mrc half1.mrc half2.mrc decoded.mrc fsc.csv particles.star
          and particles.cs or indices.pkl where particles/ has them
"""


rule volumes:
    """Reconstruct the particles of each state; the mixture's own map of it stands beside the reconstruction."""
    input:
        images="results/{dataset}/{split}/particles/images.npy",
        table="results/{dataset}/{split}/particles/particles.npz",
        star="results/{dataset}/{split}/particles/particles.star",
        mask="results/{dataset}/{split}/consensus/mask.mrc",
        model="results/{dataset}/{split}/{analysis}/heterogeneity/model.pt",
        latent="results/{dataset}/{split}/{analysis}/heterogeneity/latent.csv",
        clusters="results/{dataset}/{split}/{analysis}/latent/clusters.csv",
        trajectories="results/{dataset}/{split}/{analysis}/latent/trajectories",
    output:
        volumes=directory("results/{dataset}/{split}/{analysis}/volumes"),
    log:
        "results/{dataset}/logs/{split}/{analysis}/volumes.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/{analysis}/volumes.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8)
    resources:
        mem_mb=memory("volumes"),
        runtime=time("volumes"),
    params:
        options=flags("volumes"),
        code=digest("gaussemble.analysis.volumes"),
    shell:
        "python -m gaussemble volumes"
        " --particles results/{wildcards.dataset}/{wildcards.split}/particles"
        " --consensus results/{wildcards.dataset}/{wildcards.split}/consensus"
        " --analysis results/{wildcards.dataset}/{wildcards.split}/{wildcards.analysis}"
        " --out {output.volumes:q}"
        " {params.options} 2>&1 | tee {log:q} >&2"
