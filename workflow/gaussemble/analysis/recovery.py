"""What latents say of a known truth: continuous coordinates, angles on a circle, classes. Numbers, no verdicts.

Regressions are cross-validated over particles and use the nearest latents, so that no shape of the latent manifold is
favoured. Predictions by the oracle (`analysis.oracle`) are scored by the same functions.
"""

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score, r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5


def predicted_by_neighbours(
    latent: Float[np.ndarray, "particle latent"],
    truth: Float[np.ndarray, "particle target"],
    neighbours: int = 32,
    seed: int = 0,
) -> Float[np.ndarray, "particle target"]:
    """Mean truth of the nearest latents among the other folds' particles."""
    most = len(latent) * (FOLDS - 1) // FOLDS
    regression = KNeighborsRegressor(min(neighbours, most))
    return np.asarray(cross_val_predict(regression, latent, truth, cv=folds(seed))).reshape(truth.shape)


def folds(seed: int) -> KFold:
    """The parts of the cross-validation."""
    return KFold(FOLDS, shuffle=True, random_state=seed)


def variance_explained(
    truth: Float[np.ndarray, "particle target"], predicted: Float[np.ndarray, "particle target"]
) -> float:
    """R²: one minus squared errors over squared deviations from the mean, both summed over all targets."""
    return float(r2_score(truth, predicted, multioutput="variance_weighted"))


# --- circles ---------------------------------------------------------------------------------------------------------


def on_circle(degrees: Float[np.ndarray, " particle"]) -> Float[np.ndarray, "particle 2"]:
    """(cos, sin): what a regression can predict of an angle."""
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)


def angle_of(vector: Float[np.ndarray, "particle 2"]) -> Float[np.ndarray, " particle"]:
    """Degrees in [0, 360)."""
    return np.rad2deg(np.arctan2(vector[:, 1], vector[:, 0])) % 360


def angle_error(truth: Float[np.ndarray, " particle"], found: Float[np.ndarray, " particle"]) -> float:
    """Mean absolute difference in degrees, the shorter way round; 90 by chance."""
    return float(np.abs((found - truth + 180) % 360 - 180).mean())


def ring_angle_error(latent: Float[np.ndarray, "particle latent"], truth: Float[np.ndarray, " particle"]) -> float:
    """Mean error in degrees of the polar angle of the latents, as they are seen in two dimensions.

    The angle is taken about the centre in the plane of the two first principal components, each scaled to its own
    spread (a latent ring has no unit), then turned and mirrored as a whole so that it agrees best: no regression could
    straighten out a latent space that is no ring (Chen & Ludtke 2021, extended data fig. 5g).
    """
    centred = latent - latent.mean(0)
    plane = np.linalg.svd(centred, full_matrices=False)[0][:, :2]
    angle = np.deg2rad(angle_of(plane))
    errors = []
    for way in (1, -1):
        offset = np.angle(np.exp(1j * (np.deg2rad(truth) - way * angle)).mean())
        errors.append(angle_error(truth, np.rad2deg(way * angle + offset)))
    return min(errors)


# --- classes ---------------------------------------------------------------------------------------------------------


def rand_index(truth: Int[np.ndarray, " particle"], found: Int[np.ndarray, " particle"]) -> float:
    """Adjusted Rand index (Hubert & Arabie 1985): 1 for the same partition, 0 on average for independent ones."""
    return float(adjusted_rand_score(truth, found))


def probe(latent: Float[np.ndarray, "particle latent"], label: Int[np.ndarray, " particle"], seed: int = 0) -> float:
    """Balanced accuracy of a logistic regression on the latents, cross-validated."""
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return balanced_accuracy(label, np.asarray(cross_val_predict(model, latent, label, cv=folds(seed))))


def balanced_accuracy(truth: Int[np.ndarray, " particle"], found: Int[np.ndarray, " particle"]) -> float:
    """Mean over the classes of the share that is found."""
    return float(balanced_accuracy_score(truth, found))
