"""koopman_lora: the singular value decomposition of the Koopman operator, learned from trajectories.

In the order of the story; `help(kl.name)` tells more of each.

From data to a fitted analysis
    KoopmanLoRA                  settings and `fit`: trajectories to a spectrum that can be read and trusted
    KoopmanAnalysis              what can be asked of a fitted model
    open_analysis                an analysis that was saved in a folder
    systems                      simulators, each with its reference spectrum

Data
    open_trajectories            trajectories from NetCDF, Zarr or NumPy files
    lagged_pairs                 trajectories to pairs (x, x') one lag apart
    LaggedPairs                  the pairs, with their clock; a torch Dataset
    Clock                        lag, time between two frames and its unit
    split_pairs                  training and held-out pairs that share no frame
    Split                        such a split, with its recipe

Networks, losses, training
    MLP                          multi-layer perceptron
    CNN                          convolutional encoder for images of any size
    PeriodicEmbedding            angles to sines and cosines
    KoopmanLoRAModel             encoders, learned singular values, the constant mode
    NestedLoRALoss               the nested low-rank loss
    lora_loss                    the same as a function
    VAMPLoss                     VAMP scores as a loss, to compare
    DPNetLoss                    deep projection loss, to compare
    fit                          train a model on pairs
    TrainingOptions              how and where to optimise
    refine                       Rayleigh-Ritz on the last hidden layer
    NonFiniteLossError           the loss became NaN or infinite

Moments and spectrum
    Moments                      second moments of two feature maps, per block of data
    estimate_moments             moments of any feature maps over pairs
    flat_state                   the state itself as observables
    koopman_spectrum             moments to singular values, functions, eigenvalues, timescales
    compute_koopman_spectrum     the same for a model and a DataLoader
    Bootstrap                    number of resamples, level, seed
    bootstrap_intervals          intervals of a spectrum

How far to trust it
    compare_singular_values      learned against empirical values, with verdict and remedy
    training_findings            what is wrong with trained features
    eigenpair_residuals          residuals of eigenpairs, spurious ones flagged
    vamp_scores                  VAMP scores of held-out moments
    held_out_scores              the same with labels
    select_n_modes               number of modes by four rules
    scan_lags                    timescales against the lag
    cross_validate               scores over folds that share no frame
    compare_subspaces            principal angles between spans of functions
    agreement_of_fits            agreement of several fits with one another
    captured_share               share of the true operator that features capture

What the modes are for
    eigen_analysis               eigenvalues with left and right eigenfunctions
    koopman_modes                Koopman modes of observables
    timescales_from_singular_values  for dynamics known to be reversible
    evaluate_on_grid             functions of the state on a grid
    forecast                     expected states and observables
    forecast_band                the same with a bootstrap band
    forecast_error               error against the horizon, beside simple forecasts

Few states instead of many modes
    number_of_states             how many metastable sets there are
    membership_coefficients      fuzzy memberships in them, by PCCA+
    memberships                  memberships of frames
    membership_map               memberships as a feature map
    coherent_memberships         pairs of coherent sets
    transition_matrix            probabilities between fuzzy states
    macroscopic_model            the Markov model between them, with intervals
    stationary_distribution      of a transition matrix
    mean_first_passage_times     of a transition matrix
    committor                    probability to reach one set before another
    chapman_kolmogorov           does one lag say what longer lags show
    coarse_coordinates           slow coordinates of any states
    to_deeptime                  the model handed over to deeptime

A given matrix
    NeuralSVD                    low-rank SVD of a real or complex matrix

Text, pictures, files
    spectrum_table               a spectrum as text
    comparison_text              learned against empirical values as text
    plots                        pictures of the results
    save_dataset, load_dataset   results in NetCDF or Zarr
    save_model, load_model       a model in safetensors
"""

from koopman_lora import plots as plots
from koopman_lora import systems as systems
from koopman_lora.accumulation import estimate_moments as estimate_moments
from koopman_lora.accumulation import flat_state as flat_state
from koopman_lora.agreement import agreement_of_fits as agreement_of_fits
from koopman_lora.agreement import captured_share as captured_share
from koopman_lora.agreement import compare_subspaces as compare_subspaces
from koopman_lora.analysis import KoopmanAnalysis as KoopmanAnalysis
from koopman_lora.baselines import DPNetLoss as DPNetLoss
from koopman_lora.baselines import VAMPLoss as VAMPLoss
from koopman_lora.bootstrap import Bootstrap as Bootstrap
from koopman_lora.clock import Clock as Clock
from koopman_lora.comparison import compare_singular_values as compare_singular_values
from koopman_lora.cross_validation import cross_validate as cross_validate
from koopman_lora.data.files import open_trajectories as open_trajectories
from koopman_lora.data.pairs import LaggedPairs as LaggedPairs
from koopman_lora.data.pairs import lagged_pairs as lagged_pairs
from koopman_lora.data.splits import Split as Split
from koopman_lora.data.splits import split_pairs as split_pairs
from koopman_lora.eigenanalysis import eigen_analysis as eigen_analysis
from koopman_lora.eigenanalysis import evaluate_on_grid as evaluate_on_grid
from koopman_lora.eigenanalysis import koopman_modes as koopman_modes
from koopman_lora.eigenanalysis import timescales_from_singular_values as timescales_from_singular_values
from koopman_lora.encoders import CNN as CNN
from koopman_lora.encoders import MLP as MLP
from koopman_lora.encoders import PeriodicEmbedding as PeriodicEmbedding
from koopman_lora.estimator import KoopmanLoRA as KoopmanLoRA
from koopman_lora.findings import training_findings as training_findings
from koopman_lora.intervals import bootstrap_intervals as bootstrap_intervals
from koopman_lora.io import load_dataset as load_dataset
from koopman_lora.io import load_model as load_model
from koopman_lora.io import save_dataset as save_dataset
from koopman_lora.io import save_model as save_model
from koopman_lora.lag_scan import scan_lags as scan_lags
from koopman_lora.losses import NestedLoRALoss as NestedLoRALoss
from koopman_lora.losses import NonFiniteLossError as NonFiniteLossError
from koopman_lora.losses import lora_loss as lora_loss
from koopman_lora.model import KoopmanLoRAModel as KoopmanLoRAModel
from koopman_lora.moments import Moments as Moments
from koopman_lora.prediction import forecast as forecast
from koopman_lora.prediction import forecast_band as forecast_band
from koopman_lora.prediction import forecast_error as forecast_error
from koopman_lora.refinement import refine as refine
from koopman_lora.residuals import eigenpair_residuals as eigenpair_residuals
from koopman_lora.saved_analysis import open_analysis as open_analysis
from koopman_lora.scores import held_out_scores as held_out_scores
from koopman_lora.scores import vamp_scores as vamp_scores
from koopman_lora.selection import select_n_modes as select_n_modes
from koopman_lora.spectrum import compute_koopman_spectrum as compute_koopman_spectrum
from koopman_lora.spectrum import koopman_spectrum as koopman_spectrum
from koopman_lora.states.coarse_coordinates import coarse_coordinates as coarse_coordinates
from koopman_lora.states.coarse_graining import macroscopic_model as macroscopic_model
from koopman_lora.states.coarse_graining import transition_matrix as transition_matrix
from koopman_lora.states.deeptime_models import to_deeptime as to_deeptime
from koopman_lora.states.markov_models import committor as committor
from koopman_lora.states.markov_models import mean_first_passage_times as mean_first_passage_times
from koopman_lora.states.markov_models import stationary_distribution as stationary_distribution
from koopman_lora.states.markovianity import chapman_kolmogorov as chapman_kolmogorov
from koopman_lora.states.metastable_sets import coherent_memberships as coherent_memberships
from koopman_lora.states.metastable_sets import membership_coefficients as membership_coefficients
from koopman_lora.states.metastable_sets import membership_map as membership_map
from koopman_lora.states.metastable_sets import memberships as memberships
from koopman_lora.states.metastable_sets import number_of_states as number_of_states
from koopman_lora.svd.neural_svd import NeuralSVD as NeuralSVD
from koopman_lora.tables import comparison_text as comparison_text
from koopman_lora.tables import spectrum_table as spectrum_table
from koopman_lora.training import fit as fit
from koopman_lora.training_loop import TrainingOptions as TrainingOptions

__version__ = "0.1.0"
