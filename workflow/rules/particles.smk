"""The particles of one split, checked, as a STAR file and as an image store that is read by memory map.

REQUIRES  the STAR file that the config names (particles.star), or that of simulate
PROVIDES  results/{dataset}/{split}/particles/  particles.star images.npy particles.npz report.json
"""


rule particles:
    """Split the particles once, into files: the halves share nothing from here on."""
    input:
        star=particle_star,
    output:
        star="results/{dataset}/{split}/particles/particles.star",
        images="results/{dataset}/{split}/particles/images.npy",
        table="results/{dataset}/{split}/particles/particles.npz",
        report="results/{dataset}/{split}/particles/report.json",
    log:
        "results/{dataset}/logs/{split}/particles.txt",
    benchmark:
        "results/{dataset}/benchmarks/{split}/particles.tsv"
    conda:
        "../../envs/gaussemble.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        options=flags("particles"),
        code=digest("gaussemble.prepare.particles"),
    shell:
        "python -m gaussemble particles --star {input.star:q} --split {wildcards.split}"
        " --out results/{wildcards.dataset}/{wildcards.split}/particles"
        " {params.options} 2>&1 | tee {log:q} >&2"
