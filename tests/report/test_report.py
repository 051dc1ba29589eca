"""The page: whole, in one file, with the numbers of the results."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gaussemble.errors import InputError
from gaussemble.io.files import write_json
from gaussemble.report.captions import CAPTIONS
from gaussemble.report.names import FIGURES
from gaussemble.report.report import Options, chapter_text, flat, particles_part, report, units_kept
from made_results import make_results

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001"
    "e221bc330000000049454e44ae426082"
)


class Reader(HTMLParser):
    """Tags and the text of a page."""

    def __init__(self):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    results = make_results(tmp_path_factory.mktemp("results") / "tiny", particles=300)
    for name in FIGURES:
        path = results / "figures" / "main" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PIXEL)
    return results


def read_page(results: Path, **options) -> Reader:
    report(results=results, out=results / "report.html", options=Options(**options))
    reader = Reader()
    reader.feed((results / "report.html").read_text())
    return reader


def test_nothing_outside_the_page_is_referred_to(results):
    read_page(results)
    text = (results / "report.html").read_text()
    assert "http" not in text
    assert "<script" not in text
    assert "<link" not in text
    assert not re.search(r"url\(|@import", text)


def test_all_figures_are_in_with_caption_and_pixels(results):
    images = [attributes for tag, attributes in read_page(results).tags if tag == "img"]
    assert len(images) == len(FIGURES)
    assert {each["alt"] for each in images} == {caption for _, caption in CAPTIONS.values()}
    assert all(each["src"].startswith("data:image/png;base64,iVBOR") for each in images)


def test_inner_links_lead_somewhere(results):
    tags = read_page(results).tags
    targets = {"#" + attributes["id"] for _, attributes in tags if "id" in attributes}
    links = {attributes["href"] for tag, attributes in tags if tag == "a"}
    assert links
    assert links <= targets


def test_the_numbers_are_those_of_the_results(results):
    text = read_page(results, title="A title & more").text
    verdict = json.loads((results / "agreement" / "main" / "verdict.json").read_text())
    assert units_kept(verdict["summary"]) in text
    assert verdict["caution"] in text
    assert all(each["reason"] in text for each in verdict["clusters"])
    assert "A title & more" in text
    assert "analyses.main.latent.clusters" in text
    assert "0.912" in text  # the R² of the swing
    assert "the best possible is 0.951" in text
    assert "abababababababab" in text


def test_what_chance_gives_is_told_beside_the_clusters(results):
    found = json.loads((results / "full/main/latent/structure.json").read_text())
    text = chapter_text(results, "main", "states", {})[0]
    assert text == [f"By every tenth particle, since none was kept from training: {found['sentence']}."]
    assert found["varies"]
    write_json(results / "full/main/latent/structure.json", found | {"kept_from_training": True})
    text = chapter_text(results, "main", "states", {})[0]
    assert text == [f"By 30 particles that were kept from training: {found['sentence']}."]


def test_what_a_run_does_not_have_is_named(results):
    names = ("displacement", "motion_corrected", "truth_latent", "truth_recovery")
    for name in names:
        (results / "figures" / "main" / f"{name}.png").rename(results / f"{name}.png")
    (results / "truth" / "main.json").rename(results / "main.json")
    try:
        reader = read_page(results)
        assert "Motion of the residues (it needs an atomic model)" in reader.text
        assert "(it needs volumes.motion in all analyses)" in reader.text
        assert "Against the truth" not in reader.text
    finally:
        (results / "main.json").rename(results / "truth" / "main.json")
        for name in names:
            (results / f"{name}.png").rename(results / "figures" / "main" / f"{name}.png")


def test_a_missing_figure_is_no_silent_gap(results):
    path = results / "figures" / "main" / "latent_pca.png"
    path.unlink()
    try:
        with pytest.raises(InputError, match="latent_pca"):
            read_page(results)
    finally:
        path.write_bytes(PIXEL)


def test_particles_are_told_before_the_consensus(results):
    reader = read_page(results)
    section = reader.text[reader.text.index("Nine tenths of them") - 300 : reader.text.index("Consensus and Gaussians")]
    assert "run_data.star has 300 particles; 300 are used and none left out" in section
    assert "The half-maps are of 150 and 150 images." in section
    assert "no rlnDefocusAngle: taken as 0" in section
    assert "grid 2" in section
    assert "7 (0.02), 70 (0.02)" in section
    assert "0.0% of the directions of Fourier space are seen by no particle" in section
    order = [attributes["id"] for tag, attributes in reader.tags if tag in ("section", "figure")]
    assert order.index("main-particles_examples") < order.index("consensus") < order.index("main-consensus_fsc")


def test_sound_particles_and_left_out_ones_are_told():
    report = {
        "star": "a.star", "particles_in_file": 12, "assumed": [], "contrast": {"evidence": "contrast kept: white"},
        "left_out": [{"row": 3, "image": "4@stack.mrcs", "reason": "all pixels are equal"}] * 7,
    }  # fmt: skip
    quantiles = {"5 %": 10_000.0, "95 %": 20_000.0}
    counts = {"rows": 20, "images": 5, "half1": 3, "half2": 2}
    optics = {"group": 1, "name": "", "particles": 5, "voltage": [200.0, 300.0], "spherical_aberration": 2.7}
    optics |= {"amplitude_contrast": None, "pixel_size": 1.05, "image_size": None}
    inspection = {"counts": counts, "optics": [optics], "suspicious": []}
    inspection |= {"defocus": quantiles, "astigmatism": quantiles, "shift": quantiles}
    found = particles_part(report | {"inspection": inspection})
    assert found["lines"][0].startswith("a.star has 12 particles; 20 of 5 images are used and 7 left out.")
    assert "a defocus of 1.00 to 2.00 µm" in found["lines"][1]
    assert found["lines"][2] == "Contrast kept: white."
    assert found["tables"][0]["rows"] == [[1, "", "5", "200 to 300", "2.7", "–", "1.05", "–"]]
    assert found["tables"][1]["title"] == "Left out, the first 5 of 7"
    assert found["remark"] == "No particle looks suspicious."


def test_settings_are_flattened_to_dotted_keys():
    assert flat({"a": {"b": None, "c": {"d": 1}}, "e": True}) == [["a.b", "none"], ["a.c.d", "1"], ["e", "True"]]
