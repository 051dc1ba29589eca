"""posterior.npz comes back as it was written, and what is none of ours is refused in one line."""

import numpy as np
import pytest

from gaussemble.errors import InputError
from gaussemble.io.posteriors import Posteriors, read_posteriors, write_posteriors


def arrays() -> dict[str, np.ndarray]:
    """Five particles with two latents."""
    random = np.random.default_rng(0)
    return {
        "particle": np.arange(5) * 3,
        "latent": random.normal(size=(5, 2)),
        "covariance": np.tile(np.eye(2), (5, 1, 1)),
        "prior_mean": np.zeros(2),
        "prior_covariance": 2 * np.eye(2),
    }


def test_comes_back(tmp_path):
    write_posteriors(tmp_path / "posterior.npz", Posteriors(**arrays()))
    again = read_posteriors(tmp_path / "posterior.npz")
    assert len(again) == 5
    assert again.particle.tolist() == [0, 3, 6, 9, 12]
    assert again.latent.dtype == np.float32
    np.testing.assert_allclose(again.latent, arrays()["latent"], rtol=1e-6)
    np.testing.assert_allclose(again.covariance, arrays()["covariance"])
    np.testing.assert_allclose(again.prior_covariance, 2 * np.eye(2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"covariance": np.ones((5, 2))}, r"covariance has shape \(5, 2\); expected \(particle, latent, latent\)"),
        ({"latent": np.ones((4, 2))}, r"particle has shape \(5,\)"),
        ({"latent": np.ones(5)}, "run the stage heterogeneity again"),
        ({"prior_mean": np.zeros(3)}, r"prior_mean has shape \(3,\)"),
        ({"latent": np.full((5, 2), np.nan)}, "latent of row 0 is not finite"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, changes, words):
    np.savez(tmp_path / "posterior.npz", format=1, **(arrays() | changes))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words) as caught:
        read_posteriors(tmp_path / "posterior.npz")
    assert "\n" not in str(caught.value)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "posterior.npz"
    with pytest.raises(InputError, match="no such file"):
        read_posteriors(path)
    np.savez(path, center=np.zeros(3))
    with pytest.raises(InputError, match="not posteriors: no array covariance, format, latent"):
        read_posteriors(path)
    np.savez(path, format=2, **arrays())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="format 2, this version reads 1"):
        read_posteriors(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not posteriors"):
        read_posteriors(path)
