"""Even against odd: permuted classes are matched, what is not reproduced is not called so."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.analysis.agreement import agreement, best_null
from gaussemble.analysis.matching import read_classes
from gaussemble.analysis.verdict import Null, Options, judge
from gaussemble.errors import InputError
from gaussemble.io.mrc import write_map
from gaussemble.quantities import Map

BOX, PIXEL = 24, 4.0
BORNE_OUT = {"gain": 2.0, "error": 0.1, "probability": 0.0, "beyond_chance": True}


@pytest.fixture(autouse=True)
def crossed(monkeypatch):
    """As if unseen particles bore the heterogeneity out, which these maps' folders say nothing of."""
    found = dict.fromkeys(("latents", "arrangement", "clusters_by_stability")) | {"motions": []}
    found["evidence"] = {"both": BORNE_OUT}
    monkeypatch.setattr("gaussemble.analysis.agreement.crossed_scores", lambda *_: found)


def blob(x: float, y: float, z: float, width: float, height: float) -> torch.Tensor:
    axis = (torch.arange(BOX) - BOX // 2) * PIXEL
    distance = (axis[:, None, None] - z) ** 2 + (axis[None, :, None] - y) ** 2 + (axis[None, None, :] - x) ** 2
    return height * torch.exp(-distance / (2 * width**2))


def states() -> torch.Tensor:
    """A large body that all classes share and a small domain in four places."""
    body = blob(0, 0, 0, 12, 1.0)
    places = [(28, 0, 0), (0, 28, 0), (-28, 0, 0), (0, 0, -28)]
    return torch.stack([body + blob(*place, 7, 0.4) for place in places])


def write_half(folder: Path, maps: torch.Tensor, sizes: list[int]) -> None:
    analysis = folder / "main"
    (analysis / "latent").mkdir(parents=True)
    cluster = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    pd.DataFrame({"particle": range(len(cluster)), "cluster": cluster}).to_csv(
        analysis / "latent" / "clusters.csv", index=False
    )
    frequency = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    fsc = np.linspace(1, 0, len(frequency))
    for number, voxels in enumerate(maps, start=1):
        place = analysis / "volumes" / f"cluster_{number}"
        for half in (
            "half1.mrc",
            "half2.mrc",
        ):  # no map.mrc: its filter follows the size of the class
            write_map(place / half, Map(voxels.float(), PIXEL))
        pd.DataFrame({"frequency": frequency, "fsc_masked": fsc}).to_csv(place / "fsc.csv", index=False)
    write_map(folder / "consensus" / "mask.mrc", Map((blob(0, 0, 0, 20, 2.0).clamp(max=1)).float(), PIXEL))


def run(root: Path, even: torch.Tensor, odd: torch.Tensor, even_sizes: list[int], odd_sizes: list[int], **options):
    write_half(root / "even", even, even_sizes)
    write_half(root / "odd", odd, odd_sizes)
    agreement(
        even=root / "even" / "main",
        odd=root / "odd" / "main",
        even_consensus=root / "even" / "consensus",
        odd_consensus=root / "odd" / "consensus",
        out=root / "agreement" / "main",
        options=Options(**options),
    )
    out = root / "agreement" / "main"
    return json.loads((out / "verdict.json").read_text()), pd.read_csv(out / "matches.csv")


def noise(generator: torch.Generator, count: int, level: float = 0.01) -> torch.Tensor:
    return level * torch.randn(count, BOX, BOX, BOX, generator=generator)


def test_permuted_classes_are_matched_and_reproduced(tmp_path, generator):
    order, sizes = [2, 0, 3, 1], [400, 300, 200, 100]
    even = states() + noise(generator, 4)
    odd = (states() + noise(generator, 4))[order]
    verdict, matches = run(tmp_path, even, odd, sizes, [sizes[i] for i in order])
    assert [order[odd - 1] + 1 for odd in matches["cluster_odd"]] == [1, 2, 3, 4]
    assert [each["verdict"] for each in verdict["clusters"]] == ["reproduced"] * 4
    assert (matches["correlation"] > 0.99).all()  # the maps differ by noise alone
    assert (matches["difference_correlation"] > 0.9).all()
    np.testing.assert_allclose(matches["fraction_even"], [0.4, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(
        matches["fraction_error_odd"], np.sqrt(np.array([0.24, 0.21, 0.16, 0.09]) / 1000), rtol=1e-5
    )
    assert verdict["matching_by_maps_agrees"]
    assert verdict["summary"].startswith("4 of 4 classes, with 100% of the particles")
    assert verdict["analysis"] == "main"
    assert verdict["null"] is None


def test_without_crossed_latents_nothing_is_reproduced(tmp_path, generator, monkeypatch):
    monkeypatch.undo()
    verdict, _ = run(tmp_path, states() + noise(generator, 4), states() + noise(generator, 4), [100] * 4, [100] * 4)
    assert [each["verdict"] for each in verdict["clusters"]] == ["undecided"] * 4
    assert "crossing was not run" in verdict["clusters"][0]["reason"]
    assert "nothing is decided" in verdict["summary"]
    assert "was not tested" in verdict["methods"]


def test_stability_stands_beside_the_best_of_all_null_runs(tmp_path):
    for run_number, scores in enumerate(([0.1, 0.4], [0.3, 0.2]), start=1):
        table = {"clusters": [2, 3], "rand_index": scores, "rand_index_error": 0.01, "prediction_strength": 0.5}
        (tmp_path / str(run_number)).mkdir()
        pd.DataFrame(table).to_csv(tmp_path / str(run_number) / "stability.csv", index=False)
    paths = [tmp_path / name / "stability.csv" for name in ("1", "2", "3")]
    found = best_null(paths)  # the third run has none
    assert found is not None
    assert found["clusters"].tolist() == [2, 3]
    assert found["rand_index"].tolist() == [0.3, 0.4]
    assert best_null(paths[2:]) is None


def test_files_have_the_columns_that_others_read(tmp_path, generator):
    run(tmp_path, states() + noise(generator, 4), states() + noise(generator, 4), [10] * 4, [10] * 4)
    out = tmp_path / "agreement" / "main"
    assert sorted(path.name for path in (out / "fsc").iterdir()) == [f"match_{k}.csv" for k in (1, 2, 3, 4)]
    fsc = pd.read_csv(out / "fsc" / "match_1.csv")
    assert list(fsc) == [
        *("ring", "frequency", "resolution", "fsc", "fsc_masked", "fsc_corrected"),
        *("fsc_difference_masked", "fsc_difference"),
    ]
    assert fsc["frequency"][1] == pytest.approx(1 / (BOX * PIXEL))
    assert fsc["resolution"][2] == pytest.approx(BOX * PIXEL / 2)
    pairs = pd.read_csv(out / "correlations.csv")
    assert len(pairs) == 16
    assert pairs["matched"].sum() == 4
    assert list(pd.read_csv(out / "matches.csv"))[:9] == [
        *("cluster_even", "cluster_odd", "correlation", "resolution_0.5", "resolution_0.143"),
        *("particles_even", "particles_odd", "fraction_even", "fraction_odd"),
    ]


def test_unrelated_classes_are_flagged_though_their_maps_look_alike(tmp_path, generator):
    """Classes that are the body and noise: whole maps correlate highly, differences do not."""
    body = blob(0, 0, 0, 12, 1.0)
    verdict, matches = run(
        tmp_path, body + noise(generator, 4, 0.05), body + noise(generator, 4, 0.05), [100] * 4, [100] * 4
    )
    assert (matches["correlation"] > 0.9).all()
    assert "reproduced" not in [each["verdict"] for each in verdict["clusters"]]
    assert verdict["summary"].startswith("None of 4")


def test_a_class_with_the_opposite_difference_is_not_reproduced(tmp_path, generator):
    """Even has a domain more in class 4, odd a hole in that place: the same position, the other sign."""
    even, odd = states(), states()
    odd[3] = 2 * blob(0, 0, 0, 12, 1.0) - odd[3]
    verdict, _ = run(tmp_path, even + noise(generator, 4), odd + noise(generator, 4), [100] * 4, [100] * 4)
    reproduced = [(each["even"], each["odd"]) for each in verdict["clusters"] if each["verdict"] == "reproduced"]
    assert set(reproduced) <= {(1, 1), (2, 2), (3, 3)}
    assert len(reproduced) >= 2  # the hole may take one of the others for its partner
    fourth = next(each for each in verdict["clusters"] if each["odd"] == 4)
    assert fourth["difference_correlation"] < 0.5


def test_other_sizes_leave_it_undecided(tmp_path, generator):
    maps = states()
    verdict, _ = run(
        tmp_path, maps + noise(generator, 4), maps + noise(generator, 4), [700, 100, 100, 100], [100, 700, 100, 100]
    )
    assert [each["verdict"] for each in verdict["clusters"]] == ["undecided"] * 2 + ["reproduced"] * 2
    assert "70.0%" in verdict["clusters"][0]["reason"]


def test_one_class_is_nothing_to_judge(tmp_path, generator):
    verdict, _ = run(tmp_path, states()[:1], states()[:1] + noise(generator, 1), [50], [50])
    assert verdict["clusters"][0]["verdict"] == "undecided"
    assert verdict["clusters"][0]["runner_up"] is None


def test_the_error_of_a_share_counts_images_and_not_their_copies(tmp_path):
    write_half(tmp_path, states(), [400, 200, 200, 200])
    path = tmp_path / "main/latent/clusters.csv"
    found = read_classes(tmp_path / "main")
    assert found.fraction_error[0] == pytest.approx(np.sqrt(0.4 * 0.6 / 1000))
    table = pd.read_csv(path)
    table.assign(particle=table["particle"] // 4).to_csv(path, index=False)  # four copies of each
    copied = read_classes(tmp_path / "main")
    assert (copied.particles, copied.images) == (1000, 250)
    np.testing.assert_allclose(copied.fraction_error, 2 * found.fraction_error)


def test_labels_that_both_halves_were_given_are_a_caution(tmp_path, generator):
    plain, _ = run(tmp_path / "found", states(), states() + noise(generator, 4), [100] * 4, [100] * 4)
    assert not plain["classes_given"] and "given" not in plain["caution"] + plain["methods"]
    path = tmp_path / "given" / "odd" / "main" / "latent" / "structure.json"
    write_half(tmp_path / "given" / "even", states(), [100] * 4)
    write_half(tmp_path / "given" / "odd", states(), [100] * 4)
    path.write_text(json.dumps({"method": "labels"}))
    halves = {half: tmp_path / "given" / half / "main" for half in ("even", "odd")}
    agreement(**halves, out=tmp_path / "agreement", options=Options())
    verdict = json.loads((tmp_path / "agreement" / "verdict.json").read_text())
    assert verdict["classes_given"] and "were given" in verdict["caution"] and "were given" in verdict["methods"]


def test_one_class_against_several_is_undecided(tmp_path, generator):
    """Nothing differs from one class, so that nothing is known of whether the other half's differ alike."""
    verdict, _ = run(tmp_path, states()[:1], states()[:3] + noise(generator, 3), [300], [100] * 3)
    (each,) = verdict["clusters"]
    assert each["verdict"] == "undecided" and each["runner_up"] is None
    assert "one class only" in each["reason"]


def test_a_half_with_more_classes_names_the_unmatched(tmp_path, generator):
    verdict, matches = run(tmp_path, states()[:3], states()[[3, 2, 1, 0]], [50] * 3, [50] * 4)
    assert len(matches) == 3
    assert verdict["unmatched"] == {"even": [], "odd": [1]}


def test_a_class_that_one_half_could_not_reconstruct_is_named(tmp_path, generator):
    """As the stage volumes leaves it: no maps, and a reason; particles of no cluster count in the shares."""
    sizes = [400, 300, 200, 4]
    write_half(tmp_path / "even", states() + noise(generator, 4), [400, 300, 200, 100])
    write_half(tmp_path / "odd", states() + noise(generator, 4), sizes)
    folder = tmp_path / "odd" / "main"
    for name in ("half1.mrc", "half2.mrc", "fsc.csv"):
        (folder / "volumes/cluster_4" / name).unlink()
    reason = {"name": "cluster_4", "particles": 4, "reason": "4 particles, fewer than 10"}
    (folder / "volumes/report.json").write_text(json.dumps({"states": [], "skipped": [reason]}))
    table = pd.read_csv(folder / "latent/clusters.csv")
    table.loc[:95, "cluster"] = 0  # of none
    table.to_csv(folder / "latent/clusters.csv", index=False)
    agreement(even=tmp_path / "even/main", odd=folder, out=tmp_path / "agreement", options=Options())
    verdict = json.loads((tmp_path / "agreement/verdict.json").read_text())
    assert verdict["skipped"] == {"even": [], "odd": [{"cluster": 4, "reason": "4 particles, fewer than 10"}]}
    assert verdict["unmatched"] == {"even": [4], "odd": []}
    assert sorted((each["even"], each["odd"]) for each in verdict["clusters"]) == [(1, 1), (2, 2), (3, 3)]
    odd = {each["odd"]: each["fractions"][1] for each in verdict["clusters"]}
    assert odd == pytest.approx({1: 304 / 904, 2: 300 / 904, 3: 200 / 904})
    assert "of 4 classes" in verdict["summary"]


@pytest.mark.parametrize(
    ("own", "other", "word"),
    [
        (0.05, -0.3, "not reproduced"),
        (0.6, 0.7, "not reproduced"),
        (0.6, 0.55, "undecided"),
        (0.4, 0.0, "undecided"),
        (0.98, 0.9, "reproduced"),
        (0.99, 0.992, "undecided"),
    ],
)
def test_the_verdict_follows_from_the_numbers(own, other, word):
    row = {
        "difference_correlation": own,
        "difference_runner_up": other,
        "difference_resolution_0.5": 10.0,
        "fraction_even": 0.5,
        "fraction_odd": 0.5,
        "fraction_error_even": 0.01,
        "fraction_error_odd": 0.01,
        "shared": 0.2,
        "structure": 0.8,
    }
    assert judge(row, 0.1, Options(), None, Null({}, 0))[0] == word


def test_halves_with_other_boxes_are_refused(tmp_path, generator):
    write_half(tmp_path / "odd", torch.rand(4, BOX - 4, BOX - 4, BOX - 4, generator=generator), [10] * 4)
    write_half(tmp_path / "even", states(), [10] * 4)
    with pytest.raises(InputError, match="box"):
        agreement(
            even=tmp_path / "even" / "main",
            odd=tmp_path / "odd" / "main",
            even_consensus=tmp_path / "even" / "consensus",
            odd_consensus=tmp_path / "odd" / "consensus",
            out=tmp_path / "agreement",
            options=Options(),
        )
    assert not (tmp_path / "agreement").exists()
