"""One static mixture that explains the neutral map of a split.

REQUIRES  results/{dataset}/{split}/consensus/, results/{dataset}/{split}/seeds/
PROVIDES  results/{dataset}/{split}/neutral/  mixture.npz mixture.cif map.mrc fsc.csv growth.csv
          geometry.json decoder.pt
"""


rule neutral:
    """Fit the mixture to the map, coarse to fine; where its number is free, until the map is explained."""
    input:
        map="results/{dataset}/{split}/consensus/map.mrc",
        mask="results/{dataset}/{split}/consensus/mask.mrc",
        fsc="results/{dataset}/{split}/consensus/fsc.csv",
        seeds="results/{dataset}/{split}/seeds/seeds.npz",
    output:
        mixture="results/{dataset}/{split}/neutral/mixture.npz",
        atoms="results/{dataset}/{split}/neutral/mixture.cif",
        map="results/{dataset}/{split}/neutral/map.mrc",
        fsc="results/{dataset}/{split}/neutral/fsc.csv",
        growth="results/{dataset}/{split}/neutral/growth.csv",
        geometry="results/{dataset}/{split}/neutral/geometry.json",
        decoder="results/{dataset}/{split}/neutral/decoder.pt",
    log:
        "results/{dataset}/logs/{split}/neutral.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/neutral.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8)
    resources:
        **on_gpus("neutral"),
        mem_mb=memory("neutral", gpus("neutral")),
        runtime=time("neutral", gpus("neutral")),
    params:
        options=flags("neutral"),
        code=digest("gaussemble.fit.neutral"),
    shell:
        "python -m gaussemble neutral"
        " --consensus results/{wildcards.dataset}/{wildcards.split}/consensus"
        " --seeds {input.seeds:q}"
        " --out results/{wildcards.dataset}/{wildcards.split}/neutral"
        " {params.options} 2>&1 | tee {log:q} >&2"
