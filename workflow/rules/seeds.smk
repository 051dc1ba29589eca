"""Where the Gaussians start: at atoms, and in the density that the atoms leave unexplained.

REQUIRES  results/{dataset}/{split}/consensus/; the atomic model, if the config names one (seeds.model)
PROVIDES  results/{dataset}/{split}/seeds/  seeds.npz seeds.cif; model.cif, the atomic model as it was taken
"""


rule seeds:
    """Place the Gaussians' centres."""
    input:
        map="results/{dataset}/{split}/consensus/map.mrc",
        mask="results/{dataset}/{split}/consensus/mask.mrc",
        model=given("seeds", "model"),
    output:
        seeds="results/{dataset}/{split}/seeds/seeds.npz",
        atoms="results/{dataset}/{split}/seeds/seeds.cif",
        model=where_given("seeds", "model", "results/{dataset}/{split}/seeds/model.cif"),
    log:
        "results/{dataset}/logs/{split}/seeds.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/seeds.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    resources:
        mem_mb=memory("seeds"),
        runtime=time("seeds"),
    params:
        model=optional("model"),
        options=flags("seeds"),
        code=digest("gaussemble.fit.seeds"),
    shell:
        "python -m gaussemble seeds --map {input.map:q} --mask {input.mask:q} {params.model}"
        " --out results/{wildcards.dataset}/{wildcards.split}/seeds"
        " {params.options} 2>&1 | tee {log:q} >&2"
