"""`KoopmanLoRAModel`: the encoders f and g, the learned singular values and the constant mode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from koopman_lora.arguments import check_tensors, in_batches, real_tensor, whole
from koopman_lora.batch_means import check_pair_weights
from koopman_lora.checks import checked
from koopman_lora.clock import Clock
from koopman_lora.data.batches import as_batch
from koopman_lora.data.pairs import BATCH
from koopman_lora.data.states import in_both_directions
from koopman_lora.encoder_pairs import EncoderPair, PairedMLP
from koopman_lora.encoders import MLP, WIDEST, Standardize, check_hidden_dims, check_sizes, check_states
from koopman_lora.kinds import check_shape
from koopman_lora.moments import FeatureMap
from koopman_lora.normalisation import mean_and_power, normalise_batch, normalise_sides, prepend_constant

# Numbers of a state up to which its linear functions stand beside the last hidden layer.
LINEAR_ENTRIES = 256


class NotCalibratedError(ValueError):
    """Features were asked for whose normalisation has not been frozen yet."""


@checked(but=("coordinates", "period", "hidden_dims", "activation", "input_dim"))
class KoopmanLoRAModel(nn.Module):
    """Two encoders f(x) and g(x'), with learned singular values and an optional exact constant mode.

    `model(x, x_next)` gives the features f(x) and g(x'), each (batch, n_modes), to hand to `NestedLoRALoss` together
    with `model.svals`. The rank-n_modes operator is `sum_i svals_i f_i <g_i, .>`.

    Parameters
    ----------
    input_dim : int or tuple of int
        Length of the state vector, or the shape of a state such as an image.
    n_modes : int
        Number of modes; the constant mode counts.
    hidden_dims, activation, use_batchnorm
        Of the default encoders, see `MLP`; for your own see `from_encoders`.
    shared_encoder : bool
        Use one encoder for f and g.
    learn_svals : bool
        Learn `svals = sigmoid(svals_params)`. Features then have unit second moment: by batch statistics while
        training, by the exact moments of all the data once `calibrate` has been called.
    has_centering : bool
        The first mode is the constant function with singular value 1, exactly; the others have mean zero, by the same
        statistics.

    Attributes
    ----------
    clock : Clock
        Lag, dt and time unit of the pairs that the model was trained on; `kl.fit` sets it. After a training loop of
        your own say `model.clock = pairs.clock`, otherwise times count in lags.
    is_reversible : bool
        f and g are one map but for signs, of a process in equilibrium: pairs count both ways. `kl.fit` sets it, too.

    Raises
    ------
    ValueError
        For impossible sizes or an unknown activation.

    Examples
    --------
    >>> model = KoopmanLoRAModel(input_dim=2, n_modes=4, learn_svals=True, has_centering=True)
    >>> f, g = model(torch.randn(8, 2), torch.randn(8, 2))
    >>> f.shape, model.svals.shape
    (torch.Size([8, 4]), torch.Size([4]))
    """

    linear: Tensor
    feature_mean: Tensor
    feature_scale: Tensor
    is_calibrated: Tensor

    def __init__(
        self,
        input_dim: int | Sequence[int],
        n_modes: int,
        hidden_dims: Sequence[int] = (64, 128, 64),
        activation: str = "GELU",
        use_batchnorm: bool = False,
        shared_encoder: bool = False,
        learn_svals: bool = False,
        has_centering: bool = False,
    ) -> None:
        super().__init__()
        sizes = input_dim if isinstance(input_dim, Sequence) else (input_dim,)
        if not sizes or any(not isinstance(size, (int, np.integer)) or not 1 <= size <= WIDEST for size in sizes):
            raise ValueError(f"input_dim must be a positive integer or a shape of such; got {input_dim!r}.")
        self.state_shape = tuple(int(size) for size in sizes)
        n_modes, smallest = whole("n_modes", n_modes), 2 if has_centering else 1
        if n_modes < smallest:
            raise ValueError(f"n_modes must be at least {smallest} (has_centering={has_centering}); got {n_modes}.")
        check_sizes(n_modes=n_modes)
        self.n_modes, self.learn_svals, self.has_centering = n_modes, learn_svals, has_centering
        self.hidden_dims = check_hidden_dims(hidden_dims)
        self.activation, self.use_batchnorm = activation, use_batchnorm
        self.has_own_encoders = False
        self.standardize = Standardize.of_states(self.state_shape)
        self.encoders = self._make_encoders(shared_encoder)
        n_learned = n_modes - has_centering
        if learn_svals:
            self.svals_params = nn.Parameter(torch.zeros(n_learned))  # 0.5 each, away from saturation
        else:
            self.register_parameter("svals_params", None)
        # what one lag is travels with the model; set by `kl.fit`, or by you after a loop of your own
        self.clock, self.is_reversible = Clock(), False
        # exact statistics of all the data, (side, feature): frozen by `calibrate`
        self.register_buffer("linear", self._no_linear_part())
        self.register_buffer("feature_mean", torch.zeros(2, n_learned))
        self.register_buffer("feature_scale", torch.ones(2, n_learned))
        self.register_buffer("is_calibrated", torch.tensor(not self.normalizes))

    @classmethod
    def from_encoders(
        cls,
        input_dim: int | Sequence[int],
        n_modes: int,
        encoder_f: nn.Module,
        encoder_g: nn.Module | None = None,
        learn_svals: bool = False,
        has_centering: bool = False,
    ) -> KoopmanLoRAModel:
        """A model with encoders of your own, (batch, *state) -> (batch, n_modes), n_modes - 1 with `has_centering`.

        Parameters
        ----------
        encoder_f, encoder_g : nn.Module
            One encoder for f and g where `encoder_g` is None. The model is as precise as they are.
        input_dim, n_modes, learn_svals, has_centering : see `KoopmanLoRAModel`

        Examples
        --------
        >>> model = KoopmanLoRAModel.from_encoders(2, 3, nn.Linear(2, 3))
        >>> model.shared_encoder, model.f(torch.zeros(5, 2)).shape
        (True, torch.Size([5, 3]))
        """
        model = cls(input_dim, n_modes, hidden_dims=(1,), learn_svals=learn_svals, has_centering=has_centering)
        model.encoders, model.has_own_encoders = EncoderPair(encoder_f, encoder_g), True
        precisions = {p.dtype for p in model.encoders.parameters() if p.is_floating_point()}
        return model.double() if precisions == {torch.float64} else model

    @property
    def n_inputs(self) -> int:
        """Numbers that the encoders receive of a state: its entries, two for a periodic one."""
        return math.prod(self.state_shape) + len(self.standardize.periodic)

    def _no_linear_part(self) -> Tensor:
        """Coefficients (2, n_inputs, n_learned) of a part of f and g linear in the inputs; `refine` sets them."""
        return torch.zeros(
            2, self.n_inputs if self.n_inputs <= LINEAR_ENTRIES else 0, self.n_modes - self.has_centering
        )

    def _make_encoders(self, shared: bool) -> EncoderPair | PairedMLP:
        options = (self.n_inputs, self.n_modes - self.has_centering, self.hidden_dims, self.activation)
        if not shared and not self.use_batchnorm:
            return PairedMLP(*options)
        f = MLP(*options, self.use_batchnorm)
        return EncoderPair(f, None if shared else MLP(*options, self.use_batchnorm))

    def set_periodic(self, coordinates: Sequence[int], period: float | Sequence[float] = 2 * math.pi) -> None:
        """Let f and g be periodic in coordinates of a vector state, with one period or one for each.

        Cosines and sines of the raw angle stand for them. To be called before training: default encoders are made anew;
        encoders of your own receive the other coordinates standardised, then the cosines, then the sines.

        Raises
        ------
        ValueError
            For states that are no vectors, or impossible positions or periods.

        Examples
        --------
        >>> model = KoopmanLoRAModel(2, 3)
        >>> model.set_periodic([1], period=360.0)
        >>> torch.allclose(model.f(torch.tensor([[1.0, 10.0]])), model.f(torch.tensor([[1.0, 370.0]])), atol=1e-5)
        True
        """
        self.standardize.set_periodic(coordinates, period)
        self.linear = self._no_linear_part().to(self.device, self.dtype)
        if not self.has_own_encoders:
            self.encoders = self._make_encoders(self.shared_encoder).to(self.device, self.dtype)

    @property
    def normalizes(self) -> bool:
        """Whether features are brought to unit second moment or centred."""
        return self.learn_svals or self.has_centering

    @property
    def shared_encoder(self) -> bool:
        """Whether f and g share one encoder."""
        return self.encoders.is_shared

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the features."""
        return self.feature_scale.dtype

    @property
    def device(self) -> torch.device:
        """Where the model is; states are brought there."""
        return self.feature_scale.device

    @property
    def svals(self) -> Tensor | None:
        """Learned singular values (n_modes,) or None: a target of training, not the spectrum; read canonical values."""
        if self.svals_params is None:
            return None
        values = torch.sigmoid(self.svals_params)
        return torch.cat([values.new_ones(1), values]) if self.has_centering else values

    def svals_array(self) -> np.ndarray | None:
        """`svals` as a float64 array, None if they are not learned."""
        return None if self.svals is None else self.svals.detach().cpu().double().numpy()

    def set_svals(self, values: Tensor) -> None:
        """Overwrite the learned singular values with `values` (n_modes,); those at 1 come as close as sigmoid can."""
        if not self.learn_svals:
            raise ValueError("this model has learn_svals=False, so it has no svals to set.")
        check_shape("values", values, (self.n_modes,))
        learned = values[int(self.has_centering) :].to(self.svals_params)
        epsilon = torch.finfo(learned.dtype).eps
        with torch.no_grad():
            self.svals_params.copy_(torch.logit(learned.clamp(epsilon, 1 - epsilon)))

    def prepare(self, x: Any) -> Tensor:
        """Standardised states in the network's precision, of a tensor or an array: what the encoders receive."""
        x = real_tensor("x", x, self.device)
        if tuple(x.shape[1:]) != self.state_shape:
            raise ValueError(f"x must have shape (batch, {str(self.state_shape).strip('(),')}); got {tuple(x.shape)}.")
        return self.standardize(x.to(self.device)).to(self.dtype)

    def forward(self, x: Any, x_next: Any, pair_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features f(x) and g(x'), each (batch, n_modes), not scaled by the singular values.

        In training they are normalised by the statistics of the batch, weighted by `pair_weights` (batch,).
        """
        return self.encode(self.prepare(x), self.prepare(x_next), pair_weights)

    def encode(self, z: Tensor, z_next: Tensor, pair_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Same as calling the model, for states that went through `prepare` already."""
        check_pair_weights(pair_weights, self._check_batch(z))
        f, g = self.raw(z, z_next)
        if not (self.normalizes and self.training):
            return self._finish(f, 0), self._finish(g, 1)
        self.is_calibrated.fill_(False)  # training on moves the features away from frozen statistics
        sides = normalise_sides(f, g, self.is_reversible, self.has_centering, self.learn_svals, pair_weights)
        return self.with_constant(sides[0]), self.with_constant(sides[1])

    def raw(self, z: Tensor, z_next: Tensor) -> tuple[Tensor, Tensor]:
        """Features before normalisation and without the constant mode, for prepared states."""
        check_states(self.feature_scale, z=z, z_next=z_next)
        f, g = self.encoders(z, z_next)
        return self._with_linear(f, z, 0), self._with_linear(g, z_next, 1)

    def _with_linear(self, features: Tensor, z: Tensor, side: int) -> Tensor:
        if features.ndim != 2 or features.shape[1] != self.feature_scale.shape[1]:
            raise ValueError(
                f"encoder_{'fg'[side]} must give (batch, {self.feature_scale.shape[1]}); got {tuple(features.shape)}."
            )
        return features + z.flatten(1) @ self.linear[side] if self.linear.shape[1] else features

    def _raw_of(self, x: Tensor, side: int) -> Tensor:
        z = self._check_batch(self.prepare(x))
        return self._with_linear((self.encoders.f, self.encoders.g)[side](z), z, side)

    def f(self, x: Any) -> Tensor:
        """Features of x, (batch, n_modes)."""
        return self._finish(self._raw_of(x, 0), 0)

    def g(self, x_next: Any) -> Tensor:
        """Features of x', (batch, n_modes)."""
        return self._finish(self._raw_of(x_next, 1), 1)

    def _check_batch(self, z: Tensor) -> Tensor:
        if self.training and len(z) < 2 and (self.normalizes or self.use_batchnorm):
            raise ValueError(
                f"x must hold at least 2 states to normalise features in training; got {len(z)}. Use drop_last=True of "
                "the DataLoader, or model.eval()."
            )
        return z

    def _finish(self, features: Tensor, side: int) -> Tensor:
        """Normalise, and prepend the constant mode."""
        if self.normalizes and self.training:
            self.is_calibrated.fill_(False)
            features = normalise_batch(features, self.has_centering, self.learn_svals)
        elif self.normalizes:
            features = self._normalise_frozen(features, side)
        return self.with_constant(features)

    def raw_maps(self) -> tuple[FeatureMap, FeatureMap]:
        """Maps f and g before normalisation, behind the constant mode where there is one, of raw states."""
        return lambda x: self.with_constant(self._raw_of(x, 0)), lambda x: self.with_constant(self._raw_of(x, 1))

    def with_constant(self, features: Tensor) -> Tensor:
        """Features behind the constant mode, where the model has one."""
        check_tensors(features=features)
        return prepend_constant(features) if self.has_centering else features

    def _normalise_frozen(self, features: Tensor, side: int) -> Tensor:
        if not self.is_calibrated:
            raise NotCalibratedError(
                "model has not been calibrated: its features are normalised by exact moments of all the data. "
                "Call model.calibrate(x, x_next) after training (kl.fit does)."
            )
        return (features - self.feature_mean[side]) / self.feature_scale[side]

    def calibrate(self, x: Tensor, x_next: Tensor, batch_size: int = BATCH) -> None:
        """Freeze the normalisation: exact means and second moments over all pairs (n_pairs, *state), in float64."""
        self.calibrate_batches(in_batches(batch_size, x=x, x_next=x_next))

    @torch.no_grad()
    def calibrate_batches(self, batches: Iterable[tuple[Tensor, ...]]) -> None:
        """`calibrate` for an iterable of batches (x, x_next) or (x, x_next, weights)."""
        if not self.normalizes:
            return
        was_training = self.training
        self.eval()
        mean, power = mean_and_power(self._raw_batch(*as_batch("batches", batch)) for batch in batches)
        mean = mean * self.has_centering
        scale = (power - mean.abs().square()).clamp_min(torch.finfo(self.dtype).tiny).sqrt()
        self.set_normalisation(mean, scale if self.learn_svals else torch.ones_like(scale))
        self.train(was_training)

    def _raw_batch(self, x: Tensor, y: Tensor, weights: np.ndarray | None) -> tuple[Tensor, np.ndarray | None]:
        sides = in_both_directions(x, y) if self.is_reversible else (x, y)
        weights = np.repeat(weights, 2) if weights is not None and self.is_reversible else weights
        return torch.stack(self.raw(*map(self.prepare, sides))), weights

    @torch.no_grad()
    def set_normalisation(self, mean: Tensor, scale: Tensor, svals: Tensor | None = None) -> None:
        """Freeze the statistics of the features, (2, n_learned) each for f and g, and overwrite learned svals."""
        for name, values in (("mean", mean), ("scale", scale)):
            check_shape(name, values, self.feature_scale.shape)
        dtype = self.dtype.to_complex() if mean.is_complex() else self.dtype
        self.feature_mean = mean.to(self.device, dtype)
        self.feature_scale.copy_(scale)
        self.is_calibrated.fill_(True)
        if svals is not None:
            check_shape("svals", svals, (self.n_modes,))
            self.set_svals(svals)
