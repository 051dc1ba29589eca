"""Stages that read a fitted model: latent, volumes, models, agreement, truth."""
