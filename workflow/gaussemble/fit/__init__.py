"""Stages that fit a model: seeds, neutral, heterogeneity."""
