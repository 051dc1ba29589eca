"""Structural heterogeneity from single particles, with deformable 3D Gaussian mixtures."""

__version__ = "0.1.0"
