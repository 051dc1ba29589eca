"""Image formation and reconstruction: pure functions on tensors, no files, no devices chosen."""
