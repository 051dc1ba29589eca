"""A model whose latent vectors are the poses of one rigid domain: made from the mixture of poses that particles want.

There is no network in it, and nothing is trained: the search for the mixture (`fit.pose_mixture`) takes the place.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from gaussemble.fit.asymmetric import joined
from gaussemble.fit.checkpoints import fingerprint
from gaussemble.fit.pose_mixture import find_poses, from_mean, one_pose, rigid_molecule
from gaussemble.fit.pose_search import Wanted, prepare_search
from gaussemble.fit.poses import domain_of
from gaussemble.fit.regions import Ground
from gaussemble.fit.study import Study
from gaussemble.fit.training import data_of
from gaussemble.model.decoders import DecoderDesign
from gaussemble.model.encoders import NO_ENCODER
from gaussemble.model.heterogeneity import Compared, DeformableMixture, Design, build_model
from gaussemble.model.pose import POSE
from gaussemble.progress import say

ALIKE = 0.1  # of what a particle tells of a pose: so far are two apart that stand for one


def model_of_poses(
    study: Study,
    ground: Ground,
    decoder: tuple[DecoderDesign, torch.Tensor],
    compared: Compared,
    wanted: Wanted,
    checkpoint: Path | None,
) -> tuple[DeformableMixture, pd.DataFrame]:
    """The model, its landmarks the poses that were found, and how the search went; on the CPU.

    The last landmark has no share: the pose that a rigid molecule would have. Where the shape is found too, the model's
    Gaussians are others than the neutral mixture's, and it has those of a rigid molecule beside them.

    Args:
        study: the particles; those kept from training have no say in the poses.
        ground: the neutral mixture.
        decoder: its design, and the number of each Gaussian's domain, -1 outside it.
        compared: what of the particles is.
        wanted: what is to be found.
        checkpoint: where each round is written down.
    """
    design, member = decoder
    band, neutral = study.band, ground.neutral
    whole = Design(len(neutral), POSE, band.box * band.pixel_size, NO_ENCODER, (design,), compared, landmarks=2)
    model = build_model(whole, neutral, [member], wanted.seed)
    search = prepare_search(domain_of(model, band), band, study.held_out, wanted)
    digest = fingerprint(wanted, member, *data_of(neutral, study)) if checkpoint else ""
    say(f"heterogeneity: {len(search.seen)} particles look for poses, each of {len(search.domain.beads.offset)} beads")
    found, (still, body), history = find_poses(search, checkpoint, digest)
    rigid = None
    if wanted.shape:
        found, body = from_mean(found, body)
        rigid, neutral = rigid_molecule(search), joined(still, body)
        member = torch.cat([torch.full((len(still),), -1), torch.zeros(len(body), dtype=torch.long)])
        whole = replace(whole, gaussians=len(neutral), decoders=(replace(design, gaussians=len(body)),))
        search = search.of((still, body))
    poses, share = found.poses, found.share
    if len(poses) == 1:  # distances between landmarks want two, and the stage latent latents that differ
        apart = ALIKE * torch.stack([search.deviation[0], -search.deviation[0]])
        poses, share = poses.joined(poses).moved(apart), torch.cat([share, share]) / 2
    poses, share = poses.joined(one_pose(search, poses)), torch.cat([share, torch.zeros(1)])
    model = build_model(replace(whole, landmarks=len(poses)), neutral, [member], wanted.seed)
    assert model.poses is not None
    model.landmark.copy_(model.poses.latent(poses.rotation, poses.shift))
    model.landmark_share.copy_(share)
    if rigid is not None:
        model.set_rigid(rigid)
    return model.eval(), pd.DataFrame(history)
