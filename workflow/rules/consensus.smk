"""The neutral map of one split, its mask, and the spectrum of the noise.

REQUIRES  results/{dataset}/{split}/particles/; for the split full the user's map and mask, if the config names them
PROVIDES  results/{dataset}/{split}/consensus/  map.mrc half1.mrc half2.mrc mask.mrc fsc.csv noise.csv
"""


rule consensus:
    """Reconstruct the split's own particles; a map made from all of them would tie the halves together."""
    input:
        images="results/{dataset}/{split}/particles/images.npy",
        table="results/{dataset}/{split}/particles/particles.npz",
        map=given("consensus", "map", split="full"),
        mask=given("consensus", "mask", split="full"),
    output:
        map="results/{dataset}/{split}/consensus/map.mrc",
        half1="results/{dataset}/{split}/consensus/half1.mrc",
        half2="results/{dataset}/{split}/consensus/half2.mrc",
        mask="results/{dataset}/{split}/consensus/mask.mrc",
        fsc="results/{dataset}/{split}/consensus/fsc.csv",
        noise="results/{dataset}/{split}/consensus/noise.csv",
    log:
        "results/{dataset}/logs/{split}/consensus.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/consensus.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    threads: half_the_cores(8)
    resources:
        mem_mb=memory("consensus"),
        runtime=time("consensus"),
    params:
        maps=optional("map", "mask"),
        options=flags("consensus"),
        code=digest("gaussemble.prepare.consensus"),
    shell:
        "python -m gaussemble consensus"
        " --particles results/{wildcards.dataset}/{wildcards.split}/particles {params.maps}"
        " --out results/{wildcards.dataset}/{wildcards.split}/consensus"
        " {params.options} 2>&1 | tee {log:q} >&2"
