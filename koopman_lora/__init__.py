"""koopman_lora: the singular value decomposition of the Koopman operator, learned from trajectories."""

__version__ = "0.1.0"
