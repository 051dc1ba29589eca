"""What is trained: encoders and decoders of Gaussian mixtures."""
