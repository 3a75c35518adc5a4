"""koopman_lora: the singular value decomposition of the Koopman operator, learned from trajectories.

In the order of the story; `help(kl.name)` tells more of each.

From data to a fitted analysis
    KoopmanLoRA                  settings and `fit`: trajectories to a spectrum that can be read and trusted
    KoopmanAnalysis              what can be asked of a fitted model
    open_analysis                an analysis that was saved in a folder
    systems                      simulators, each with its reference spectrum

Data
    datasets                     small data sets, shipped with their cards and reference spectra
    molecules                    files of molecular dynamics to coordinates, and frames back to structures
    open_trajectories            trajectories from NetCDF, Zarr and NumPy files and tables
    Field                        a labelled grid as trajectories, and back to maps and series
    lagged_pairs                 trajectories to pairs (x, x') one lag apart
    LaggedPairs                  the pairs, with their clock; a torch Dataset
    data_health                  what to know of data before a fit, a row for each coordinate
    health_findings              what matters of it, in sentences
    Clock                        lag, time between two frames and its unit
    split_pairs                  training and held-out pairs that share no frame
    Split                        such a split, with its recipe
    TrajectoryFolds              folds of whole trajectories for scikit-learn's searches
    cut_trajectory               one trajectory as several

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
    refine                       Rayleigh-Ritz on the state and the last hidden layer
    NonFiniteLossError           the loss became NaN or infinite

Moments and spectrum
    Moments                      second moments of two feature maps, per block of data
    estimate_moments             moments of any feature maps over pairs
    estimate_moments_on_dask     the same by the workers of a Dask cluster
    flat_state                   the state itself as observables
    koopman_spectrum             moments to singular values, functions, eigenvalues, timescales
    compute_koopman_spectrum     the same for a model and a DataLoader
    Bootstrap                    number of resamples, level, seed
    bootstrap_intervals          intervals of a spectrum
    equilibrium_weights          weights that make short runs from off-equilibrium starts stationary

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
    input_importance             which inputs drive a mode: what sigma loses without them, with intervals
    sparse_surrogate             modes as linear functions of few coordinates, with their R^2
    export_mode                  modes as a network in a file: TorchScript, as PLUMED loads it, or torch.export
    FittedModes                  modes as a step of a scikit-learn Pipeline
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
    matrix_checklist             six points that such a decomposition must pass, with their numbers

Text, pictures, files
    spectrum_table               a spectrum as text
    comparison_text              learned against empirical values as text
    health_text                  health of data as text
    importance_text              which inputs drive a mode as text
    plots                        pictures of the results
    save_dataset, load_dataset   results in NetCDF or Zarr
    save_model, load_model       a model in safetensors
"""

import logging as _logging

import lazy_loader as _lazy

# names are imported on first use, from where the stub says (SPEC 1 of Scientific Python): torch takes seconds
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

# what is said of fits goes where the program says, and nowhere if it does not
_logging.getLogger(__name__).addHandler(_logging.NullHandler())

__version__ = "0.1.0"
