"""Systems to learn from, each with the spectrum of its Koopman operator beside it, exact or numerical."""

import lazy_loader as _lazy

# as the front door: the command line lists the names without scipy and xarray
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
