"""How each particle of a split deforms the neutral mixture.

REQUIRES  results/{dataset}/{split}/  particles/ consensus/ neutral/; the masks that the config names;
          seeds/, if regions are selections of atoms or geometry is restrained
PROVIDES  results/{dataset}/{split}/{analysis}/heterogeneity/  model.pt latent.csv posterior.npz history.csv
"""


rule heterogeneity:
    """Train the networks and embed every particle."""
    input:
        images="results/{dataset}/{split}/particles/images.npy",
        table="results/{dataset}/{split}/particles/particles.npz",
        map="results/{dataset}/{split}/consensus/map.mrc",
        fsc="results/{dataset}/{split}/consensus/fsc.csv",
        noise="results/{dataset}/{split}/consensus/noise.csv",
        neutral="results/{dataset}/{split}/neutral/mixture.npz",
        region=given("heterogeneity", "region"),
        masks=given_in_lists("heterogeneity"),
        seeds=when_asked(
            "results/{dataset}/{split}/seeds/seeds.npz", "selection", "restraint"
        ),
        model=when_asked("results/{dataset}/{split}/seeds/model.cif", "selection"),
    output:
        model="results/{dataset}/{split}/{analysis}/heterogeneity/model.pt",
        latent="results/{dataset}/{split}/{analysis}/heterogeneity/latent.csv",
        posterior="results/{dataset}/{split}/{analysis}/heterogeneity/posterior.npz",
        history="results/{dataset}/{split}/{analysis}/heterogeneity/history.csv",
    log:
        "results/{dataset}/logs/{split}/{analysis}/heterogeneity.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/{analysis}/heterogeneity.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8 * max(1, TRAINING_GPUS))
    resources:
        **on_gpus("heterogeneity"),
        slurm_extra=f"{SIGNAL} {site('slurm_extra', '')}".strip(),
        mem_mb=memory("heterogeneity", gpus("heterogeneity")),
        runtime=time("heterogeneity", gpus("heterogeneity")),
    params:
        files=optional("region", "seeds", "model"),
        options=flags("heterogeneity"),
        code=digest("gaussemble.fit.heterogeneity"),
    shell:
        "python -m gaussemble heterogeneity --processes {resources.gpu}"
        " --particles results/{wildcards.dataset}/{wildcards.split}/particles"
        " --consensus results/{wildcards.dataset}/{wildcards.split}/consensus"
        " --neutral {input.neutral:q} {params.files}"
        " --out results/{wildcards.dataset}/{wildcards.split}/{wildcards.analysis}/heterogeneity"
        " --checkpoint results/{wildcards.dataset}/{wildcards.split}/{wildcards.analysis}/checkpoints/heterogeneity.pt"
        " {params.options} 2>&1 | tee {log:q} >&2"


check_signal(rules.heterogeneity)
