"""A model of the tiny molecule whose arm has a pose."""

import torch

from gaussemble.model.decoders import DecoderDesign
from gaussemble.model.encoders import NO_ENCODER
from gaussemble.model.heterogeneity import DeformableMixture, Design, build_model
from gaussemble.model.pose import POSE
from tiny import BOX, PIXEL, molecule

ARM = torch.arange(24) >= 16


def pose_model(landmarks: int = 2) -> DeformableMixture:
    """The tiny molecule, its arm at a pose."""
    arm = DecoderDesign("main", "pose", 8, True, False, False, length=16.0, hidden=8, layers=1, dropout=0.0, domains=1)
    design = Design(24, POSE, BOX * PIXEL, NO_ENCODER, (arm,), landmarks=landmarks)
    return build_model(design, molecule(), [torch.where(ARM, 0, -1)], seed=0)
