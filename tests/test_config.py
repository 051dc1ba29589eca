"""What is generated from the option classes is up to date."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from gaussemble import config
from gaussemble.fit.consistency import problems
from gaussemble.provenance import fingerprint, provenance, seeds

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("file", "text"), [("config/schema.json", config.schema_text), ("docs/config.md", config.reference_text)]
)
def test_generated_file_is_what_the_classes_say(file, text):
    assert (ROOT / file).read_text() == text(), f"{file} is behind the option classes: run `make generated` and commit"


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/**/*.yaml")), ids=lambda path: path.name)
def test_configs_that_ship_are_right(path):
    values = yaml.safe_load(path.read_text())
    jsonschema.validate(values, json.loads(config.schema_text()))
    config.Config.model_validate(values)


def test_the_example_of_several_decoders_is_right():
    """It stands in comments, which no other test reads."""
    lines = (ROOT / "config/config.yaml").read_text().splitlines()
    first, last = (
        next(n for n, line in enumerate(lines) if line.endswith(end)) for end in (" decoders:", " trainable")
    )
    for number in range(first, last + 1):
        lines[number] = lines[number].replace("# ", "", 1)
    values = yaml.safe_load("\n".join(lines))
    given = config.Config.model_validate(values).analyses["motion"].heterogeneity
    assert [each.name for each in given.decoders] == ["head", "membrane"]
    assert [each.decoders for each in given.rounds] == [("head",), None]
    assert list(problems(given.model_dump())) == []


def test_schema_has_a_sentence_for_every_option():
    def undescribed(schema: dict, place: str) -> list[str]:
        missing = [] if "description" in schema or not place else [place]
        for name, each in schema.get("properties", {}).items():
            missing += undescribed(each, f"{place}.{name}")
            if "properties" in each.get("items", {}):
                missing += undescribed(each["items"], f"{place}.{name}.N")
        return missing

    schema = json.loads(config.schema_text())
    analysis = schema["properties"]["analyses"]["additionalProperties"]
    assert undescribed(schema, "") + undescribed(analysis, "") == []


def test_an_analysis_is_not_called_like_a_stage():
    schema = json.loads(config.schema_text())
    for name, right in {"domains": True, "neutral": False, "a/b": False, "": False}.items():
        assert jsonschema.Draft202012Validator(schema).is_valid({"dataset": "x", "analyses": {name: {}}}) is right


def test_sections_in_lists_are_whole_in_schema_and_reference():
    schema = json.loads(config.schema_text())
    text = json.dumps(schema)
    assert "$ref" not in text
    assert "$defs" not in text
    analysis = schema["properties"]["analyses"]["additionalProperties"]["properties"]["heterogeneity"]["properties"]
    decoder = analysis["decoders"]["items"]
    assert decoder["required"] == ["name"]
    assert decoder["additionalProperties"] is False
    assert decoder["properties"]["region"]["format"] == "path"
    assert decoder["properties"]["domains"]["items"]["properties"]["mask"]["format"] == "path"
    reference = config.reference_text()
    assert "## analyses.NAME.heterogeneity.decoders.N.domains.N\n" in reference
    assert "| `decoders` | list of sections | `[]` |" in reference
    assert "| `decoders` | list of strings or null | `null` |" in reference


def test_provenance_holds_config_seeds_and_checksums(tmp_path):
    model = tmp_path / "model.cif"
    model.write_bytes(b"abc")
    values = {"dataset": "x", "neutral": {"seed": 3}, "analyses": {"a": {"latent": {"seed": 5}}}}
    provenance(out=tmp_path / "provenance.json", config=json.dumps(values), inputs=[model])
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record["config"] == values
    assert record["seeds"] == seeds(values) == {"neutral.seed": 3, "analyses.a.latent.seed": 5}
    assert record["inputs"] == [fingerprint(model)]
    # FIPS 180-2, appendix B.1
    assert record["inputs"][0]["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert record["inputs"][0]["bytes"] == 3
    assert record["packages"]["torch"].startswith("2.13.0")
