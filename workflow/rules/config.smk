"""The config: checked before anything else, every mistake one line, then filled with the defaults.

The schema is generated from the stages' options (`python -m gaussemble schema`); docs/config.md says the same in words.
"""

import difflib
import json
import math
import os
import runpy
import sys
from pathlib import Path

import jsonschema
import yaml
from snakemake.utils import validate

SCHEMA = json.loads((ROOT / "config/schema.json").read_text())
CONSISTENCY = runpy.run_path(
    str(ROOT / "workflow/gaussemble/fit/consistency.py")
)  # which imports nothing


def stop(key, problem):
    """End with one line; an exception would add the place in this file, which is not where the mistake is."""
    files = workflow.overwrite_configfiles or workflow.configfiles
    names = " + ".join(os.path.relpath(file) for file in files)
    sys.exit(f"{names or 'config'}: {key}: {problem}")


def as_written(value, schema):
    """What YAML reads as something else is the word again: the key null, and yes and no where an option takes words."""
    if isinstance(value, bool) and "yes" in schema.get("enum", ()):
        return "yes" if value else "no"
    if isinstance(value, list):
        return [as_written(each, schema.get("items", {})) for each in value]
    if not isinstance(value, dict):
        return value
    named = {"null" if key is None else key: each for key, each in value.items()}
    known, others = (
        schema.get("properties", {}),
        schema.get("additionalProperties") or {},
    )
    return {
        key: as_written(each, known.get(key, others)) for key, each in named.items()
    }


def check_keys():
    """Stop at the first key or value that the schema does not know."""
    errors = jsonschema.Draft202012Validator(SCHEMA).iter_errors(config)
    for error in sorted(
        errors, key=lambda error: error.validator != "additionalProperties"
    ):
        stop(*complaint(error))


def complaint(error):
    """The dotted key and what is wrong with it."""
    keys = [str(key) for key in error.absolute_path]
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        key = next(key for key in error.instance if key not in known)
        return ".".join([*keys, str(key)]), f"no such key; {nearest(key, known)}"
    if error.validator == "required":
        key = next(key for key in error.validator_value if key not in error.instance)
        return ".".join([*keys, key]), "is missing; it must be given"
    found = "nothing" if error.instance is None else repr(error.instance)
    return ".".join(keys) or "config", f"found {found}; {expectation(error)}"


def expectation(error):
    """What the schema wants in the place of a wrong value."""
    if "propertyNames" in error.absolute_schema_path:
        return "a name has letters, digits, - and _, and is not a stage's"
    if error.validator == "pattern":
        return "a name has letters, digits, - and _"
    if error.validator == "enum":
        return nearest(error.instance, error.validator_value)
    if error.validator != "type":
        return error.message
    types = error.validator_value
    words = " or ".join(types if isinstance(types, list) else [types])
    hint = " (YAML wants 1.0e-3, not 1e-3)" if isinstance(error.instance, str) else ""
    text = words.replace("object", "a section with keys").replace("string", "text")
    text = text.replace("array", "a list (lines that begin with -)")
    return f"expected {text}{hint if 'number' in words else ''}"


def check_numbers():
    """Stop at a number that YAML knows and no stage can use (.nan, .inf); a schema's limits let it pass."""
    for section, values, _ in sections():
        for key, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                stop(f"{section}.{key}", f"found {value}; expected a finite number")


def check_keys_stand_once():
    """Stop at a key that a section has twice, of which YAML silently takes the last."""
    for file in workflow.overwrite_configfiles or workflow.configfiles:
        waiting = [yaml.compose(Path(file).read_text(), Loader=yaml.SafeLoader)]
        while waiting:
            node = waiting.pop()
            if isinstance(node, yaml.MappingNode):
                names = [key.value for key, _ in node.value]
                for key, value in node.value:
                    if names.count(key.value) > 1:
                        stop(
                            key.value,
                            f"stands more than once in a section, first in line {key.start_mark.line + 1}",
                        )
                    waiting.append(value)
            elif isinstance(node, yaml.SequenceNode):
                waiting.extend(node.value)


def check_together():
    """Stop at options that exclude each other, which the stages would find only after hours."""
    for name, stages in config["analyses"].items():
        vary, latent, here = (
            stages["heterogeneity"],
            stages["latent"],
            f"analyses.{name}",
        )
        length = CONSISTENCY["latent_length"](vary)
        if (latent["components"] or 1) > length:
            stop(
                f"{here}.latent.components",
                f"found {latent['components']}; expected at most the heterogeneity's latent_dim, {length}",
            )
        if latent["lower"] >= latent["upper"]:
            stop(
                f"{here}.latent.lower",
                f"found {latent['lower']}; expected less than upper, {latent['upper']}",
            )
        maps = stages["volumes"]
        if maps["motion"] and maps["symmetry"].upper() != "C1":
            stop(
                f"{here}.volumes.symmetry",
                f"found {maps['symmetry']}; expected C1 with volumes.motion, since bodies that move by themselves have no symmetry",
            )
        for key, problem in CONSISTENCY["problems"](vary):
            stop(f"{here}.heterogeneity.{key}", problem)
        if vary["find_shape"] and config["seeds"]["model"]:
            stop(
                f"{here}.heterogeneity.find_shape",
                "found true; no atoms belong to a domain whose shape is found, so leave seeds.model out, or this (where the model has the domain, seeds.moving says so)",
            )
        for kind, keys in CONSISTENCY["model_keys"](vary).items():
            check_seeds(kind, [f"{here}.heterogeneity.{key}" for key in keys])
    check_signs(config["seeds"], config["neutral"])
    expand, symmetry = config["particles"]["expand"], config["consensus"]["symmetry"]
    if expand.upper() != "C1" and symmetry.upper() != "C1":
        stop(
            "consensus.symmetry",
            f"found {symmetry}; expected C1, since particles.expand ({expand}) has made the copies already",
        )
    if config["particles"]["whiten"] and config["consensus"].get("map"):
        stop(
            "particles.whiten",
            "found true; consensus.map has not the spectrum of whitened images, leave one out",
        )
    if (
        "simulate" in config
        and (config["particles"]["box"] or 0) > config["simulate"]["box"]
    ):
        stop(
            "particles.box",
            f"found {config['particles']['box']}; expected at most the images' box, simulate.box, {config['simulate']['box']}",
        )


def check_seeds(kind, keys):
    """Stop at keys that need what the stage seeds will not have: a model, or its residues in their order."""
    seeds = config["seeds"]
    for key in keys:
        if not seeds["model"]:
            stop(
                key,
                "needs an atomic model, but seeds.model names none; give one, or leave this out",
            )
        if kind == "restraint" and seeds["count"]:
            stop(
                key,
                f"needs a Gaussian for each residue, but seeds.count, {seeds['count']}, joins them; leave one out",
            )


def check_signs(seeds, neutral):
    """Stop where negative Gaussians are asked for, which only growth adds, and the number of Gaussians is fixed."""
    fixed = seeds["count"] or (seeds["model"] and not seeds["residual"])
    if neutral["amplitudes"] == "signed" and (
        neutral["grow"] == "no" or (neutral["grow"] == "auto" and fixed)
    ):
        stop(
            "neutral.amplitudes",
            "found signed; growth adds the negative Gaussians, but their number is fixed: set neutral.grow to yes",
        )


def check_results():
    """Stop where the results' folder cannot be made or written, which Snakemake would tell by a traceback."""
    folder = Path("results") / config["dataset"]
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        stop(
            "dataset",
            f"{folder} cannot be written: {there.absolute()} is {'read-only' if there.is_dir() else 'a file'}; "
            "remove it, or start from a folder of yours (--directory)",
        )


def nearest(word, known):
    """The known word that is spelt most like it, or all of them."""
    names = {str(name): name for name in known}
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return (
        f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
    )


def sections():
    """Every section that holds options, as (dotted key, its values, its schema)."""
    for name, schema in SCHEMA["properties"].items():
        if "properties" in schema and name in config:
            yield from with_lists(name, config[name], schema["properties"])
    for analysis, stages in config["analyses"].items():
        for stage, values in stages.items():
            key = f"analyses.{analysis}.{stage}"
            yield from with_lists(key, values, schema_of(stage))


def with_lists(section, values, schema):
    """A section, and after it those that stand in lists in it."""
    yield section, values, schema
    for key, each in schema.items():
        properties = each.get("items", {}).get("properties")
        for number, item in enumerate(values[key] if properties else []):
            yield from with_lists(f"{section}.{key}.{number}", item, properties)


def schema_of(stage):
    """The schema of the keys of a stage's section."""
    stages = SCHEMA["properties"]["analyses"]["additionalProperties"]["properties"]
    return (SCHEMA["properties"] | stages)[stage]["properties"]


def kind_of(schema):
    """`file`, which is a rule's input, or `folder`, which goes with the options; None for what is no path."""
    return {"path": "file", "folder": "folder"}.get(schema.get("format"))


def paths(found=None):
    """Every path that the config gives, or some sections of it, as (dotted key, path, kind)."""
    for section, values, schema in sections() if found is None else found:
        for key, each in schema.items():
            if kind_of(each) and values[key]:
                yield f"{section}.{key}", values[key], kind_of(each)


def locate_paths():
    """Make a path that is not in the working directory one of the workflow's, where `resources/` is."""
    for _, values, schema in sections():
        for key in filter(lambda key: kind_of(schema[key]) and values[key], schema):
            if not os.path.exists(values[key]) and (ROOT / values[key]).exists():
                values[key] = str(ROOT / values[key])


def check_paths():
    """Stop at the first path where there is nothing."""
    for key, path, kind in paths():
        if not (os.path.isfile(path) if kind == "file" else os.path.isdir(path)):
            stop(key, f"no such {kind}: {path} (looked from {os.getcwd()})")
    if ("simulate" in config) == bool(config["particles"]["star"]):
        stop(
            "particles.star",
            "give the file of the particles, or else a section simulate; one of the two",
        )


def check_companions():
    """Stop at a file that goes with particles of another program."""
    given = config["particles"]
    star = str(given["star"] or "simulate")
    if given["passthrough"] and not star.endswith(".cs"):
        stop(
            "particles.passthrough",
            f"it joins a .cs file of cryoSPARC; particles.star is {star}; remove it",
        )
    if star.endswith((".mrc", ".mrcs", ".txt")) and not given["poses"]:
        stop(
            "particles.poses",
            f"{star} holds images alone; give poses.pkl of cryoDRGN, and ctf.pkl as particles.ctf_file",
        )
    for key in filter(
        lambda key: given[key] and star == "simulate", ("poses", "ctf_file")
    ):
        stop(
            f"particles.{key}",
            "simulated particles have poses and CTF of their own; remove it",
        )


check_keys_stand_once()
config.update(as_written(config, SCHEMA))
check_keys()
validate(config, str(ROOT / "config/schema.json"))
check_numbers()
check_together()
locate_paths()
if "--lint" not in sys.argv:  # the rules can be linted where the data are not
    check_paths()
    check_companions()
    check_results()
