"""The model that suits states of a shape: an MLP for vectors, a CNN for images, or encoders of the user's own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from koopman_lora.encoders import CNN
from koopman_lora.model import KoopmanLoRAModel


def suitable_model(
    state_shape: tuple[int, ...],
    n_modes: int,
    encoders: tuple[nn.Module | None, nn.Module | None] = (None, None),
    *,
    shared_encoder: bool = False,
    hidden_dims: Sequence[int] = (64, 128, 64),
    activation: str = "GELU",
    learn_svals: bool = True,
) -> KoopmanLoRAModel:
    """A model with a constant mode; where no encoder is given, vectors get an MLP and images a CNN.

    Parameters
    ----------
    encoders : encoder_f and encoder_g, each a module or None

    Raises
    ------
    ValueError
        For an encoder_g without encoder_f, or encoders that contradict `shared_encoder`.

    Examples
    --------
    >>> type(suitable_model((8, 8), 3, shared_encoder=True).encoders.module_f).__name__
    'CNN'
    """
    encoder_f, encoder_g = encoders
    if encoder_f is None and encoder_g is None and len(state_shape) in (2, 3):
        n_channels = state_shape[0] if len(state_shape) == 3 else 1
        encoder_f = CNN(n_channels, n_modes - 1, activation=activation)
        if not shared_encoder:
            encoder_g = CNN(n_channels, n_modes - 1, activation=activation)
    if encoder_f is None:
        if encoder_g is not None:
            raise ValueError("encoder_g needs an encoder_f; got encoder_f=None.")
        return KoopmanLoRAModel(
            state_shape,
            n_modes,
            hidden_dims=hidden_dims,
            activation=activation,
            shared_encoder=shared_encoder,
            learn_svals=learn_svals,
            has_centering=True,
        )
    if shared_encoder == (encoder_g is not None):
        needs = "no encoder_g" if shared_encoder else "an encoder_g"
        raise ValueError(f"shared_encoder={shared_encoder} needs {needs} beside encoder_f; got {encoder_g!r}.")
    return KoopmanLoRAModel.from_encoders(
        state_shape, n_modes, encoder_f, encoder_g, learn_svals=learn_svals, has_centering=True
    )
