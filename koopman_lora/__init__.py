"""koopman_lora: the singular value decomposition of the Koopman operator, learned from trajectories."""

from koopman_lora import systems as systems
from koopman_lora.diagnostics import captured_share as captured_share
from koopman_lora.encoders import CNN as CNN
from koopman_lora.encoders import MLP as MLP
from koopman_lora.encoders import NoLinearHeadError as NoLinearHeadError
from koopman_lora.encoders import PeriodicEmbedding as PeriodicEmbedding
from koopman_lora.estimator import KoopmanLoRA as KoopmanLoRA
from koopman_lora.io import load_dataset as load_dataset
from koopman_lora.io import load_model as load_model
from koopman_lora.io import save_dataset as save_dataset
from koopman_lora.io import save_model as save_model
from koopman_lora.losses import DPNetLoss as DPNetLoss
from koopman_lora.losses import NestedLoRALoss as NestedLoRALoss
from koopman_lora.losses import VAMPLoss as VAMPLoss
from koopman_lora.losses import dpnet_loss as dpnet_loss
from koopman_lora.losses import lora_loss as lora_loss
from koopman_lora.losses import vamp_loss as vamp_loss
from koopman_lora.model import KoopmanLoRAModel as KoopmanLoRAModel
from koopman_lora.model import NotCalibratedError as NotCalibratedError
from koopman_lora.moments import Moments as Moments
from koopman_lora.moments import estimate_moments as estimate_moments
from koopman_lora.plotting import plot_history as plot_history
from koopman_lora.plotting import plot_singular_functions as plot_singular_functions
from koopman_lora.plotting import plot_spectrum as plot_spectrum
from koopman_lora.refinement import refine as refine
from koopman_lora.scores import vamp_scores as vamp_scores
from koopman_lora.spectrum import compute_koopman_spectrum as compute_koopman_spectrum
from koopman_lora.spectrum import implied_frequencies as implied_frequencies
from koopman_lora.spectrum import implied_timescales as implied_timescales
from koopman_lora.spectrum import koopman_spectrum as koopman_spectrum
from koopman_lora.training import NonFiniteLossError as NonFiniteLossError
from koopman_lora.training import TrainingResult as TrainingResult
from koopman_lora.training import fit as fit
from koopman_lora.trajectories import LaggedPairs as LaggedPairs
from koopman_lora.trajectories import lagged_pairs as lagged_pairs
from koopman_lora.trajectories import open_trajectories as open_trajectories
from koopman_lora.trajectories import split_pairs as split_pairs

__version__ = "0.1.0"
