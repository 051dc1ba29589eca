"""The config of a run: a section for each stage, which holds the stage's options and the files that a user gives.

From these classes come config/schema.json, with which the workflow checks a config before anything runs, and
docs/config.md. Both are committed, and a test compares them with the classes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gaussemble.analysis import agreement, latent, models, truth, volumes
from gaussemble.fit import heterogeneity, neutral, seeds
from gaussemble.io.files import written
from gaussemble.prepare import consensus, particles, simulate
from gaussemble.report import figures, report

NAME = "^[A-Za-z0-9][A-Za-z0-9_-]*$"
ANALYSIS_NAMES: dict[str, Any] = {  # an analysis has a folder beside those of the stages
    "propertyNames": {"pattern": NAME, "not": {"enum": ["particles", "consensus", "seeds", "neutral"]}}
}


class Simulate(simulate.Options):
    """Particles of a molecule with a known motion, in place of a user's own; only for tests of the method."""

    model: Path = Field(description="Atomic model (mmCIF or PDB) of the molecule.")
    star: Path | None = Field(
        default=None, description="STAR file whose poses, shifts, CTF and half-sets are taken; random ones if none."
    )


class Particles(particles.Options):
    """The particles of a finished refinement."""

    star: Path | None = Field(
        default=None,
        description="Particles of the refinement: STAR file of RELION, .cs of cryoSPARC, or stack (.mrcs) or list of "
        "stacks (.txt) of cryoDRGN; not given where they are simulated.",
    )
    passthrough: Path | None = Field(
        default=None, description="The passthrough .cs of the same job, joined by uid, if the .cs lacks fields."
    )
    poses: Path | None = Field(default=None, description="poses.pkl of cryoDRGN; wins over the poses of the particles.")
    ctf_file: Path | None = Field(default=None, description="ctf.pkl of cryoDRGN; wins over the CTF of the particles.")
    datadir: Path | None = Field(
        default=None,
        description="Folder from which the particles' image paths start; the working directory, and those of the "
        "particles' file and above it, if none.",
        json_schema_extra={"format": "folder"},
    )


class Consensus(consensus.Options):
    """The neutral map, made from the particles unless it is given."""

    map: Path | None = Field(default=None, description="Map of the refinement; serves the split `full` alone.")
    mask: Path | None = Field(default=None, description="Mask on the map's grid; serves the split `full` alone.")


class Seeds(seeds.Options):
    """Where the Gaussians start."""

    model: Path | None = Field(
        default=None, description="Atomic model in the map's frame; without one the density alone is used."
    )


class Neutral(neutral.Options):
    """The mixture that is fitted to the neutral map."""


class Heterogeneity(heterogeneity.Options):
    """The networks that learn how each particle deforms the mixture."""

    region: Path | None = Field(
        default=None, description="Mask of the region in which Gaussians may vary; all if none."
    )


class Latent(latent.Options):
    """Axes, clusters and trajectories of the latent vectors."""

    labels: Path | None = Field(
        default=None,
        description="Table (CSV) of particle (row of the input, from 0) and cluster (from 1; 0: none): your own "
        "clusters, in the place of any method's; one file for all splits.",
    )


class Volumes(volumes.Options):
    """Reconstructions of the clusters, of the trajectories' points and of your own selections."""


class Models(models.Options):
    """The atomic model moved along the trajectories."""


class Agreement(agreement.Options):
    """Comparison of the even and the odd half."""


class Truth(truth.Options):
    """Comparison with the truth; used where the particles are simulated."""


class Figure(figures.Options):
    """How figures are drawn."""


class Report(report.Options):
    """The page."""


class Analysis(BaseModel):
    """One study of the data set's heterogeneity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heterogeneity: Heterogeneity = Field(default_factory=Heterogeneity)
    latent: Latent = Field(default_factory=Latent)
    volumes: Volumes = Field(default_factory=Volumes)
    models: Models = Field(default_factory=Models)
    agreement: Agreement = Field(default_factory=Agreement)
    truth: Truth = Field(default_factory=Truth)


class Config(BaseModel):
    """The config of one data set."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    dataset: str = Field(pattern=NAME, description="Name of the data set: its results stand in results/DATASET.")
    simulate: Simulate | None = Field(default=None)
    particles: Particles = Field(default_factory=Particles)
    consensus: Consensus = Field(default_factory=Consensus)
    seeds: Seeds = Field(default_factory=Seeds)
    neutral: Neutral = Field(default_factory=Neutral)
    figure: Figure = Field(default_factory=Figure)
    report: Report = Field(default_factory=Report)
    analyses: dict[str, Analysis] = Field(
        min_length=1,
        description="One or more heterogeneity studies, each under a name of your own.",
        json_schema_extra=ANALYSIS_NAMES,
    )


def schema(*, out: Path) -> None:
    """Write the JSON schema of the config."""
    with written(out) as temporary:
        temporary.write_text(schema_text())


def reference(*, out: Path) -> None:
    """Write the reference of every option, as Markdown tables."""
    with written(out) as temporary:
        temporary.write_text(reference_text())


def schema_text() -> str:
    """The schema as JSON: no references, so that a reader and the workflow find a key where it stands in the config."""
    whole = Config.model_json_schema()
    definitions = whole.pop("$defs")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | plain(whole, definitions), indent=2, ensure_ascii=False) + "\n"


def plain(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema with its references replaced, `X or null` as a list of types, sections that default to empty ones."""
    if "$ref" in schema:
        own = {key: value for key, value in schema.items() if key != "$ref"}
        return plain(definitions[schema["$ref"].removeprefix("#/$defs/")] | own, definitions)
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if choices:
        return optional(schema, plain(choices[0], definitions))
    result = {key: value for key, value in schema.items() if key != "title"}
    if "items" in schema:
        result["items"] = plain(schema["items"], definitions)
    if "properties" in schema:
        result["properties"] = {name: plain(each, definitions) for name, each in schema["properties"].items()}
        for each in result["properties"].values():
            if each.get("additionalProperties") is False and not each.get("required"):
                each["default"] = {}
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = plain(schema["additionalProperties"], definitions)
    return result


def optional(schema: dict[str, Any], kind: dict[str, Any]) -> dict[str, Any]:
    """The schema of `X | None`: a section is left out rather than null; a value may be null."""
    own = {key: schema[key] for key in ("description", "default", "format") if key in schema}
    if kind.get("type") == "object":
        return kind | {key: value for key, value in own.items() if value is not None}
    if "enum" in kind or "const" in kind:
        kind = {"type": "string", "enum": kind.get("enum", [kind.get("const")])}
        return kind | {"type": ["string", "null"], "enum": [*kind["enum"], None]} | own
    return kind | {"type": [kind["type"], "null"]} | own


def reference_text() -> str:
    """The reference as Markdown, a table for each section."""
    properties = json.loads(schema_text())["properties"]
    analysis = properties["analyses"]["additionalProperties"]["properties"]
    sections = {name: each for name, each in properties.items() if "properties" in each}
    sections |= {f"analyses.NAME.{name}": each for name, each in analysis.items()}
    sections = dict(pair for name, each in sections.items() for pair in with_lists(name, each))
    single = {name: each for name, each in properties.items() if "properties" not in each}
    parts = [
        "# Config reference",
        "Written by `python -m gaussemble reference --out docs/config.md` from the option classes.\n"
        "Paths are relative to the working directory, or else to the workflow's folder. `null` in YAML means none.",
        option_table(single),
        *(
            f"## {name}\n\n{each['description']}\n\n{option_table(each['properties'])}"
            for name, each in sections.items()
        ),
    ]
    return "\n\n".join(parts) + "\n"


def with_lists(name: str, section: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A section, and after it those that stand in lists in it, by their dotted names."""
    yield name, section
    for key, each in section["properties"].items():
        if "properties" in each.get("items", {}):
            yield from with_lists(f"{name}.{key}.N", each["items"])


def option_table(properties: dict[str, Any]) -> str:
    """A Markdown table of key, type, default and meaning; the files first."""
    rows = sorted(properties.items(), key=lambda item: item[1].get("format") != "path")
    if not rows:
        return "No options."
    lines = [
        f"| `{name}` | {type_words(each)} | {default_words(each)} | {each.get('description', '')} |"
        for name, each in rows
    ]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *lines])


def type_words(schema: dict[str, Any]) -> str:
    """A type as the reader of a table calls it."""
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(choice).strip(chr(34))}`" for choice in schema["enum"])
    words = schema.get("const") or schema["type"]
    text = " or ".join(words) if isinstance(words, list) else str(words)
    if "items" in schema:
        text = text.replace("array", f"list of {type_words(schema['items'])}s")
    return text.replace("string", "path") if schema.get("format") == "path" else text.replace("object", "section")


def default_words(schema: dict[str, Any]) -> str:
    """A default as YAML spells it, or that there is none."""
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else "(must be given)"
