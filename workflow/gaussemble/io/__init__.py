"""Readers and writers of the field's formats; the only place where units and frames are converted."""
