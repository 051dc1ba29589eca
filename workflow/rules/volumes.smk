"""Reconstructions of every cluster, trajectory point and selection, with half-maps and FSC.

REQUIRES  results/{dataset}/{split}/  particles/ consensus/ {analysis}/heterogeneity/ {analysis}/latent/; the selections
          that the config names; for the motion-corrected map of `full`, {analysis}/heterogeneity/ of even and odd
PROVIDES  results/{dataset}/{split}/{analysis}/selections.csv, if there are any
          results/{dataset}/{split}/{analysis}/volumes/  report.json mask.mrc and cluster_{k}/, trajectory_{t}/,
          selection_{name}/, motion_corrected/ with map.mrc unfiltered.mrc half1.mrc half2.mrc fsc.csv and, of the
          states, decoded.mrc particles.star, and particles.cs or indices.pkl where particles/ has them
"""


rule selections:
    """Look for the user's selections among the particles, as soon as these are there."""
    input:
        table="results/{dataset}/{split}/particles/particles.npz",
        star="results/{dataset}/{split}/particles/particles.star",
        files=given_in_lists("volumes"),
    output:
        "results/{dataset}/{split}/{analysis}/selections.csv",
    log:
        "results/{dataset}/logs/{split}/{analysis}/selections.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/{analysis}/selections.tsv"
    priority: 1
    conda:
        "../../envs/gaussemble.yaml"
    resources:
        mem_mb=memory("selections"),
        runtime=time("selections"),
    params:
        options=flags("volumes"),
        code=digest("gaussemble.analysis.selections"),
    shell:
        "python -m gaussemble selections"
        " --particles results/{wildcards.dataset}/{wildcards.split}/particles --out {output:q}"
        " {params.options} 2>&1 | tee {log:q} >&2"


rule volumes:
    """Reconstruct the particles of each state; the mixture's own map of it stands beside the reconstruction."""
    input:
        images="results/{dataset}/{split}/particles/images.npy",
        table="results/{dataset}/{split}/particles/particles.npz",
        star="results/{dataset}/{split}/particles/particles.star",
        mask="results/{dataset}/{split}/consensus/mask.mrc",
        fsc="results/{dataset}/{split}/consensus/fsc.csv",
        model="results/{dataset}/{split}/{analysis}/heterogeneity/model.pt",
        latent="results/{dataset}/{split}/{analysis}/heterogeneity/latent.csv",
        posterior="results/{dataset}/{split}/{analysis}/heterogeneity/posterior.npz",
        embedding="results/{dataset}/{split}/{analysis}/latent/embedding.csv",
        clusters="results/{dataset}/{split}/{analysis}/latent/clusters.csv",
        trajectories="results/{dataset}/{split}/{analysis}/latent/trajectories",
        selections=where_asked(
            "volumes",
            "selections",
            "results/{dataset}/{split}/{analysis}/selections.csv",
        ),
        files=given_in_lists("volumes"),
        halves=networks_of_halves,
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
        halves=folders_of_halves,
        options=flags("volumes"),
        code=digest("gaussemble.analysis.volumes"),
    shell:
        "python -m gaussemble volumes"
        " --particles results/{wildcards.dataset}/{wildcards.split}/particles"
        " --consensus results/{wildcards.dataset}/{wildcards.split}/consensus"
        " --analysis results/{wildcards.dataset}/{wildcards.split}/{wildcards.analysis}"
        " --out {output.volumes:q} {params.halves}"
        " {params.options} 2>&1 | tee {log:q} >&2"
