"""Stages that bring the data into shape: simulate, particles, consensus."""
