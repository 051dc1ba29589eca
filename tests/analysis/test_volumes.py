"""Volumes: which particles make them, what they show, and that nothing is left out."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.analysis.reconstruction import decoded
from gaussemble.analysis.states import nearest_rows
from gaussemble.analysis.volumes import Options, passes, read_states, volumes
from gaussemble.errors import InputError
from gaussemble.io.cryodrgn import index_pickle, read_index
from gaussemble.io.mrc import read_map, write_map
from gaussemble.io.posteriors import Posteriors, write_posteriors
from gaussemble.io.star import read_star
from gaussemble.io.store import open_store
from gaussemble.model.heterogeneity import DeformableMixture, build_model, save_model, single_design
from gaussemble.physics.backprojection import divide, sums_bytes
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.masks import soft_mask
from gaussemble.physics.projection import mixture_to_map
from gaussemble.physics.rings import shell_correlation, shell_power
from gaussemble.prepare.fsc import curve_resolution, half_map_table
from gaussemble.prepare.slices import halves, sum_slices
from gaussemble.quantities import Map, Mixture
from made_cs import layout, write_cs
from made_store import BOX, PIXEL, Made, make_store

COUNT = 1200


def amplitude_model(mixture: Mixture) -> DeformableMixture:
    """A model whose amplitudes answer to the latents at random: enough to see which latent was decoded."""
    design = single_design(
        gaussians=len(mixture), latent_dim=2, inputs=4, decoder="dense", anchors=4, hidden=8, layers=1, dropout=0.0,
        position=False, amplitude=True, width=False, length=1.0, field=BOX * PIXEL,
    )  # fmt: skip
    model = build_model(design, mixture, [torch.ones(len(mixture), dtype=torch.bool)], seed=0)
    with torch.no_grad():
        for parameter in model.decoders.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval()


def write_analysis(folder: Path, made: Made, particle: np.ndarray) -> None:
    """z1 tells whether the domain is there (-1, +1, sd 0.2), z2 says nothing and is very uncertain."""
    rng = np.random.default_rng(0)
    absent = made.absent.numpy()
    z = np.stack(
        [np.where(absent, -1.0, 1.0) + 0.2 * rng.normal(size=len(absent)), 50 * rng.normal(size=len(absent))], 1
    )
    table = pd.DataFrame({"particle": particle, "z1": z[:, 0], "z2": z[:, 1], "sd1": 0.2, "sd2": 50.0, "loss": 0.0})
    unit = z / [0.2, 50] - (z / [0.2, 50]).mean(axis=0)  # as the stage latent makes it, here turned by 30 degrees
    table["pc1"], table["pc2"] = unit @ [0.5 * 3**0.5, 0.5], unit @ [-0.5, 0.5 * 3**0.5]
    (folder / "heterogeneity").mkdir(parents=True)
    (folder / "latent" / "trajectories").mkdir(parents=True)
    shuffled = table.sample(frac=1, random_state=0)  # the order of rows says nothing
    shuffled.drop(columns=["pc1", "pc2"]).to_csv(folder / "heterogeneity" / "latent.csv", index=False)
    shuffled.drop(columns="loss").to_csv(folder / "latent" / "embedding.csv", index=False)
    covariance = np.broadcast_to(np.diag([0.2**2, 50.0**2]), (len(z), 2, 2))
    order = shuffled.index.to_numpy()
    posteriors = Posteriors(particle[order], z[order], covariance, np.zeros(2), np.diag([1.0, 2500.0]))
    write_posteriors(folder / "heterogeneity" / "posterior.npz", posteriors)
    clusters = pd.DataFrame({"particle": particle, "cluster": np.where(absent, 1, 2)})
    clusters.loc[np.flatnonzero(absent)[:3], "cluster"] = 3  # very few
    clusters.to_csv(folder / "latent" / "clusters.csv", index=False)
    points = {"point": [1, 2], "percentile": [5, 95], "pc1": [-5.0, 5.0], "z1": [-1.0, 1.0], "z2": [0.0, 0.0]}
    pd.DataFrame(points).to_csv(folder / "latent" / "trajectories" / "pc1.csv", index=False)
    save_model(folder / "heterogeneity" / "model.pt", amplitude_model(made.mixture))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A store of odd particle numbers (a split), a consensus mask, an analysis, and the volumes made of them."""
    folder = tmp_path_factory.mktemp("project")
    made = make_store(folder / "particles", torch.Generator().manual_seed(0), count=COUNT, snr=0.3, first=1, step=2)
    mask = soft_mask(mixture_to_map(made.mixture, BOX, PIXEL), PIXEL)
    write_map(folder / "consensus" / "mask.mrc", Map(mask, PIXEL, (1.0, 2.0, 3.0)))
    write_analysis(folder / "analysis", made, 1 + 2 * np.arange(COUNT))
    run(folder, folder / "volumes")
    return folder, made


def run(folder: Path, out: Path, **options) -> None:
    volumes(
        particles=folder / "particles",
        consensus=folder / "consensus",
        analysis=folder / "analysis",
        out=out,
        options=Options(**options),
    )


def domain(density: Map) -> float:
    """Density at x = 35, y = 7, z = -1 Å, inside the domain that some particles lack, over that of the body."""
    at = [round(value / PIXEL) + BOX // 2 for value in (-1, 7, 35)]
    body = [round(value / PIXEL) + BOX // 2 for value in (0, 0, 0)]
    return float(density.voxels[tuple(at)] / density.voxels[tuple(body)])


def test_every_state_has_every_file(project):
    folder, _ = project
    names = {path.name for path in (folder / "volumes").iterdir()} - {"report.json", "mask.mrc"}
    assert names == {"cluster_1", "cluster_2", "cluster_3", "trajectory_pc1_1", "trajectory_pc1_2"}
    maps = {f"{name}.mrc" for name in ("map", "half1", "half2", "unfiltered", "decoded")}
    for name in names:
        files = {path.name for path in (folder / "volumes" / name).iterdir()}
        assert files == {"particles.star"} | (maps | {"fsc.csv"} if name != "cluster_3" else set())


def test_report_says_what_was_made(project):
    folder, made = project
    report = json.loads((folder / "volumes" / "report.json").read_text())
    states = {each["name"]: each for each in report["states"]}
    present = int((~made.absent).sum())
    assert states["cluster_2"]["particles"] == states["cluster_2"]["effective"] == present
    assert states["cluster_2"]["half1"] + states["cluster_2"]["half2"] == present
    curve = pd.read_csv(folder / "volumes" / "cluster_2" / "fsc.csv")
    assert states["cluster_2"]["resolution"] == pytest.approx(curve_resolution(curve))
    reason = "3 particles, fewer than volumes.least, 10"
    assert report["skipped"] == [{"name": "cluster_3", "particles": 3, "reason": reason}]
    assert len(read_star(folder / "volumes" / "cluster_3" / "particles.star")) == 3


def test_map_ends_at_its_resolution_and_unfiltered_does_not(project):
    folder, _ = project
    place = folder / "volumes" / "cluster_1"
    first, unfiltered = (shell_power(read_map(place / f"{name}.mrc").voxels) for name in ("map", "unfiltered"))
    last = int(BOX * PIXEL / curve_resolution(pd.read_csv(place / "fsc.csv"))) + 3
    assert last < BOX // 2
    assert first[last:].max() < 1e-4 * first[last - 5]
    assert unfiltered[last:].min() > 1e-3 * unfiltered[last - 5]
    halves = sum(read_map(place / f"half{half}.mrc").voxels for half in (1, 2)) / 2
    assert shell_correlation(halves, read_map(place / "unfiltered.mrc").voxels)[:8].min() > 0.98


@pytest.mark.parametrize("kind", ["cluster_{}", "trajectory_pc1_{}"])
def test_maps_show_the_domain_where_its_particles_are(project, kind):
    folder, made = project
    expected = domain(Map(mixture_to_map(made.mixture, BOX, PIXEL), PIXEL))
    without, with_it = (read_map(folder / "volumes" / kind.format(k) / "map.mrc") for k in (1, 2))
    assert abs(domain(without)) < 0.15 * expected
    assert domain(with_it) == pytest.approx(expected, rel=0.2)
    assert with_it.origin == (1, 2, 3)
    assert with_it.pixel_size == pytest.approx(PIXEL)


def test_map_has_the_absolute_scale(project):
    folder, made = project
    found = read_map(folder / "volumes" / "cluster_2" / "map.mrc").voxels.flatten()
    truth = mixture_to_map(made.mixture, BOX, PIXEL).flatten()
    assert (found @ truth / (truth @ truth)).item() == pytest.approx(1, abs=0.04)


def test_star_is_a_row_filter_with_all_columns(project):
    """Text of the input, in the input's order."""
    folder, made = project
    whole, subset = (
        read_star(path) for path in (folder / "particles/particles.star", folder / "volumes/cluster_2/particles.star")
    )
    expected = whole.particles[~made.absent.numpy()].reset_index(drop=True)
    pd.testing.assert_frame_equal(subset.particles, expected)
    assert subset.optics is not None


def test_particles_of_cryosparc_and_cryodrgn_go_back_in_their_format(project):
    folder, made = project
    uid = layout(COUNT)["uid"]
    write_cs(folder / "particles/particles.cs", layout(COUNT))
    (folder / "particles/indices.pkl").write_bytes(index_pickle(1 + 2 * np.arange(COUNT)))
    try:
        run(folder, folder / "formats")
    finally:
        (folder / "particles/particles.cs").unlink()
        (folder / "particles/indices.pkl").unlink()
    chosen = np.flatnonzero(~made.absent.numpy())
    assert np.array_equal(np.load(folder / "formats/cluster_2/particles.cs")["uid"], uid[chosen])
    assert np.array_equal(read_index(folder / "formats/cluster_2/indices.pkl"), 1 + 2 * chosen)
    run(folder, folder / "formats")
    assert not list((folder / "formats").glob("*/particles.cs")), "of particles that came from elsewhere"


def test_trajectory_takes_the_nearest_at_most_a_third(project):
    """Nearest in units of the posterior: z2, fifty times as wide and as uncertain, must not decide."""
    folder, made = project
    star = read_star(folder / "volumes" / "trajectory_pc1_1" / "particles.star")
    assert len(star) == COUNT // 3
    chosen = star.particles["rlnMicrographName"].str.extract(r"(\d+)")[0].astype(int)
    assert made.absent[torch.tensor(chosen.to_numpy())].float().mean() > 0.9
    run(folder, folder / "fewer", nearest=50)
    assert len(read_star(folder / "fewer" / "trajectory_pc1_1" / "particles.star")) == 50


def test_nearest_rows():
    z = np.array([[0.0, 0], [1, 0], [0, 3], [-0.5, 0], [9, 9]])
    assert nearest_rows(z, np.zeros(2), 3).tolist() == [0, 1, 3]


def test_decoded_is_the_models_map_of_that_latent(project):
    folder, made = project
    mixture = amplitude_model(made.mixture).decode(torch.tensor([[1.0, 0.0]]))
    single = Mixture(mixture.center[0], mixture.amplitude[0], mixture.width[0])
    found = read_map(folder / "volumes" / "trajectory_pc1_2" / "decoded.mrc").voxels
    assert torch.allclose(found, band_limited_map(single, BOX, PIXEL), atol=1e-4)
    other = read_map(folder / "volumes" / "trajectory_pc1_1" / "decoded.mrc").voxels
    assert not torch.allclose(found, other, rtol=0.1)


def test_decoded_maps_do_not_alias(project):
    """Their sum is that of the amplitudes, however narrow Gaussians are and wherever they lie between voxels."""
    _, made = project
    narrow = Mixture(
        made.mixture.center + 0.4 * PIXEL, made.mixture.amplitude, torch.full_like(made.mixture.width, 0.5)
    )
    model, latent = amplitude_model(narrow), torch.tensor([1.0, 0.0])
    found = decoded(model, latent, Map(torch.zeros(BOX, BOX, BOX), PIXEL))
    with torch.no_grad():
        expected = model.decode(latent[None]).amplitude.sum()
    assert float(found.sum()) == pytest.approx(float(expected), rel=1e-3)


def test_cluster_is_decoded_at_one_of_its_particles(project):
    folder, made = project
    states = read_states(folder / "analysis", open_store(folder / "particles"), {}, Options())
    table = pd.read_csv(folder / "analysis" / "heterogeneity" / "latent.csv").set_index("particle")
    for state, lacking in zip(states[:2], (True, False), strict=True):
        match = table[(table["z1"] - float(state.latent[0])).abs() < 1e-9]
        row = (int(match.index[0]) - 1) // 2
        assert bool(made.absent[row]) is lacking
        assert abs(abs(float(state.latent[0])) - 1) < 0.1  # near the mean


@pytest.fixture
def other_clusters(project, tmp_path):
    """The project with clusters of one's own."""
    folder, _ = project
    for part in ("particles", "consensus"):
        (tmp_path / part).symlink_to(folder / part)
    (tmp_path / "analysis" / "latent").mkdir(parents=True)
    (tmp_path / "analysis" / "heterogeneity").symlink_to(folder / "analysis" / "heterogeneity")
    (tmp_path / "analysis" / "latent" / "embedding.csv").symlink_to(folder / "analysis" / "latent" / "embedding.csv")

    def make(particles: list[int]) -> Path:
        rows = "".join(f"{number},1\n" for number in particles)
        (tmp_path / "analysis" / "latent" / "clusters.csv").write_text(f"particle,cluster\n{rows}")
        return tmp_path

    return make


def test_few_particles_give_numbers_where_they_are_asked_for(other_clusters, capsys):
    folder = other_clusters([7, 9, 11])
    run(folder, folder / "out", least=2)
    table = pd.read_csv(folder / "out" / "cluster_1" / "fsc.csv")
    assert table[["fsc", "fsc_masked"]].notna().all().all()
    assert torch.isfinite(read_map(folder / "out" / "cluster_1" / "map.mrc").voxels).all()
    run(folder, folder / "out")
    assert "warning: cluster_1 gets no map: 3 particles" in capsys.readouterr().err
    assert {path.name for path in (folder / "out" / "cluster_1").iterdir()} == {"particles.star"}, "none is left over"


def test_a_cluster_within_one_half_map_gets_none(other_clusters):
    folder = other_clusters([1 + 4 * number for number in range(20)])  # every other row of the store
    run(folder, folder / "out")
    report = json.loads((folder / "out" / "report.json").read_text())
    assert "all of its 20 particles belong to one half-map" in report["skipped"][0]["reason"]


def test_particles_that_no_cluster_has_make_none(other_clusters):
    """Number 0 or below: methods that leave particles out."""
    folder = other_clusters(list(range(1, 61, 2)))
    path = folder / "analysis" / "latent" / "clusters.csv"
    path.write_text(path.read_text().replace("1,1\n", "1,-1\n", 1))
    run(folder, folder / "out")
    assert len(read_star(folder / "out" / "cluster_1" / "particles.star")) == 29


def test_less_memory_means_more_passes_and_the_same_maps(project):
    folder, _ = project
    states = read_states(folder / "analysis", open_store(folder / "particles"), {}, Options())
    small = 2.5 * 2 * sums_bytes(BOX, 2) / 1e9
    assert [len(group) for group in passes(states, BOX, Options(memory=small))] == [2, 2, 1]
    run(folder, folder / "small", memory=small)
    for name in ("cluster_2", "trajectory_pc1_2"):
        one, other = (read_map(folder / out / name / "map.mrc").voxels for out in ("volumes", "small"))
        assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()))


def test_states_that_are_no_more_are_removed(project, tmp_path):
    folder, _ = project
    for name in ("cluster_9", "trajectory_pc4_1", "cluster_mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "map.mrc").touch()
    run(folder, tmp_path, nearest=20)
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {"cluster_mine", "cluster_1"}
    assert not left & {"cluster_9", "trajectory_pc4_1"}


def test_particles_of_another_split_are_refused(project, tmp_path):
    folder, made = project
    for part in ("particles", "consensus"):
        (tmp_path / part).symlink_to(folder / part)
    write_analysis(tmp_path / "analysis", made, 2 * np.arange(COUNT))  # the even ones
    with pytest.raises(InputError, match=r"particle \d+ is not in .*; both must come from the same split"):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weighted_point_counts_all_particles_and_shows_the_same(project):
    """As many as the nearest would be, by weights; the particles written for others are those that count most."""
    folder, made = project
    run(folder, folder / "weighted", weighting="posterior")
    report = json.loads((folder / "weighted" / "report.json").read_text())
    states = {each["name"]: each for each in report["states"]}
    point = states["trajectory_pc1_1"]
    assert point["effective"] == pytest.approx(COUNT // 3, rel=0.02)
    assert point["particles"] > 1.2 * point["effective"]
    weights = pd.read_csv(folder / "weighted" / "trajectory_pc1_1" / "weights.csv").set_index("particle")["weight"]
    assert len(weights) == point["particles"]
    absent = pd.Series(made.absent.numpy(), index=1 + 2 * np.arange(COUNT))
    assert weights[absent[weights.index]].sum() > 0.9 * weights.sum()
    assert len(read_star(folder / "weighted" / "trajectory_pc1_1" / "particles.star")) == round(point["effective"])
    expected = domain(Map(mixture_to_map(made.mixture, BOX, PIXEL), PIXEL))
    without, with_it = (read_map(folder / "weighted" / f"trajectory_pc1_{k}" / "map.mrc") for k in (1, 2))
    assert abs(domain(without)) < 0.15 * expected
    assert domain(with_it) == pytest.approx(expected, rel=0.2)
    assert not (folder / "weighted" / "cluster_1" / "weights.csv").exists()


def test_selections_get_maps_of_their_own(project, tmp_path):
    """Those who have the domain, chosen by the user, show it; one that this split has nothing of is named."""
    folder, made = project
    report = {"star": "all.star", "split": "odd", "particles_in_file": 2 * COUNT, "left_out": []}
    (folder / "particles" / "report.json").write_text(json.dumps(report))
    present = 1 + 2 * np.flatnonzero(~made.absent.numpy())
    for name, numbers in {"mine": np.append(present, 0), "theirs": [0, 2]}.items():
        pd.DataFrame({"particle": numbers}).to_csv(tmp_path / f"{name}.csv", index=False)
    given = [{"name": name, "particles": str(tmp_path / f"{name}.csv")} for name in ("mine", "theirs")]
    run(folder, tmp_path / "out", selections=given)
    one, other = (read_map(tmp_path / "out" / name / "map.mrc").voxels for name in ("selection_mine", "cluster_2"))
    assert torch.equal(one, other), "the same particles"
    skipped = json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]
    assert {"name": "selection_theirs", "particles": 0, "reason": "none of its particles is in this split"} in skipped
    pd.DataFrame({"particle": [2 * COUNT]}).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(InputError, match=r"mine\.csv: row 1: particle is 2400, expected a row of all\.star"):
        run(folder, tmp_path / "none", selections=given)
    assert not (tmp_path / "none").exists()
    run(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "selection_mine").exists(), "it is asked for no more"


def test_sharpened_by_a_given_b_factor(project, tmp_path, capsys):
    folder, _ = project
    run(folder, tmp_path, sharpen=True, b_factor=-400.0)
    plain, sharp = (
        shell_power(read_map(tmp_path / "cluster_2" / f"{name}.mrc").voxels) for name in ("map", "sharpened")
    )
    ratio = (sharp / plain)[1:9]
    assert (ratio[1:] > ratio[:-1]).all()
    run(folder, tmp_path, sharpen=True)
    assert not (tmp_path / "cluster_2" / "sharpened.mrc").exists(), "from the run before"
    assert "too few rings beyond 10 Å for a B-factor; give one" in capsys.readouterr().err


def test_symmetric_states_are_symmetric(project, tmp_path):
    folder, _ = project
    run(folder, tmp_path, symmetry="C2")
    found = read_map(tmp_path / "cluster_2" / "unfiltered.mrc").voxels[1:, 1:, 1:]
    assert torch.allclose(found, found.flip(1, 2), atol=1e-3 * float(found.max()))
    with pytest.raises(InputError, match="C0"):
        run(folder, tmp_path, symmetry="C0")


def test_moving_bodies_have_no_symmetry(project, tmp_path):
    folder, _ = project
    with pytest.raises(InputError, match=r"volumes.symmetry: found c2; expected C1 with volumes.motion"):
        run(folder, tmp_path, symmetry="c2", motion=True)
    assert not list(tmp_path.iterdir())


def test_motion_is_taken_back_where_asked_for(project, tmp_path):
    """Here nothing moves: one body, whose map is that of all particles; the halves' networks must both be given."""
    folder, _ = project
    write_maps_of_consensus(folder)
    run(folder, tmp_path, motion=True)
    report = json.loads((tmp_path / "report.json").read_text())["motion"]
    assert report["networks"] == 1
    assert len(report["bodies"]) == 1
    assert report["bodies"][0]["motion"] < 0.01
    assert report["bodies"][0]["resolution"] == pytest.approx(report["bodies"][0]["consensus_resolution"], rel=0.01)
    found, whole = (
        read_map(path).voxels for path in (tmp_path / "motion_corrected/half1.mrc", folder / "consensus/half1.mrc")
    )
    assert torch.allclose(found, whole, atol=0.01 * float(whole.max()))
    with pytest.raises(InputError, match="give even and odd, or neither"):
        volumes(
            particles=folder / "particles", consensus=folder / "consensus", analysis=folder / "analysis",
            out=tmp_path, even=folder / "analysis", options=Options(motion=True),
        )  # fmt: skip


def write_maps_of_consensus(folder: Path) -> None:
    """What the stage consensus would leave beside its mask."""
    store, mask = open_store(folder / "particles"), read_map(folder / "consensus" / "mask.mrc")
    sums = sum_slices(store, halves(store, torch.arange(len(store))), 2, 2)
    for half in (0, 1):
        write_map(folder / "consensus" / f"half{half + 1}.mrc", mask.with_voxels(divide(sums, half)))
    half_map_table(divide(sums, 0), divide(sums, 1), mask.voxels, PIXEL).to_csv(folder / "consensus/fsc.csv")
