"""Systems to learn from, each with the spectrum of its Koopman operator beside it, exact or numerical."""

from ._base import NoReferenceSpectrumError as NoReferenceSpectrumError
from ._base import ReferenceSpectrum as ReferenceSpectrum
from ._base import System as System
from .duffing import Duffing as Duffing
from .finite_markov_chain import FiniteMarkovChain as FiniteMarkovChain
from .four_well_1d import FourWellLangevin1D as FourWellLangevin1D
from .four_well_2d import FourWellLandscape2D as FourWellLandscape2D
from .linear_gaussian import LinearGaussian as LinearGaussian
from .linear_gaussian import OrnsteinUhlenbeck as OrnsteinUhlenbeck
from .lorenz63 import Lorenz63 as Lorenz63
from .noisy_logistic_map import NoisyLogisticMap as NoisyLogisticMap
from .noisy_rotation import NoisyRotation as NoisyRotation
