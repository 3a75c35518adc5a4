"""Molecular dynamics: files of trajectories to coordinates, and frames that matter back to structures."""

import lazy_loader as _lazy

# as the front door: mdtraj, an optional package, is imported when files are opened
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
