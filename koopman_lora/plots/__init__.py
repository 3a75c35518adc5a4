"""Pictures of the Datasets: a Dataset or arrays in, an axis out; `ax=None` makes one. Nothing is calculated here."""

from koopman_lora.plots.choices import plot_energy as plot_energy
from koopman_lora.plots.choices import plot_modes_above_noise as plot_modes_above_noise
from koopman_lora.plots.choices import plot_number_of_states as plot_number_of_states
from koopman_lora.plots.choices import plot_timescales as plot_timescales
from koopman_lora.plots.comparisons import plot_comparison as plot_comparison
from koopman_lora.plots.comparisons import plot_ratio as plot_ratio
from koopman_lora.plots.forecasts import plot_forecast as plot_forecast
from koopman_lora.plots.forecasts import plot_forecast_error as plot_forecast_error
from koopman_lora.plots.functions import plot_eigenfunctions as plot_eigenfunctions
from koopman_lora.plots.functions import plot_singular_functions as plot_singular_functions
from koopman_lora.plots.importance import plot_input_importance as plot_input_importance
from koopman_lora.plots.maps import plot_maps as plot_maps
from koopman_lora.plots.matrices import plot_matrix_core as plot_matrix_core
from koopman_lora.plots.matrices import plot_matrix_svals as plot_matrix_svals
from koopman_lora.plots.matrices import plot_matrix_training as plot_matrix_training
from koopman_lora.plots.networks import plot_network as plot_network
from koopman_lora.plots.spectra import plot_eigenvalues as plot_eigenvalues
from koopman_lora.plots.spectra import plot_spectrum as plot_spectrum
from koopman_lora.plots.states import plot_chapman_kolmogorov as plot_chapman_kolmogorov
from koopman_lora.plots.states import plot_coarse_map as plot_coarse_map
from koopman_lora.plots.states import plot_memberships as plot_memberships
from koopman_lora.plots.training import plot_history as plot_history
from koopman_lora.plots.training import plot_learned_svals as plot_learned_svals
