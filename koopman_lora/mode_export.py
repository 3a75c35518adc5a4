"""Fitted modes as files that need no koopman_lora: TorchScript, as PLUMED loads it, and torch.export."""

import copy
import io
import json
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from koopman_lora._labels import provenance
from koopman_lora.checks import checked
from koopman_lora.chosen_modes import ChosenModes, choose_modes
from koopman_lora.data.whole_files import check_replaceable, write_whole
from koopman_lora.fitted_functions import FittedFunctions
from koopman_lora.io import plain
from koopman_lora.model import KoopmanLoRAModel

# no `annotations` from __future__ here: TorchScript knows no types as text
TORCHSCRIPT, EXPORTED = (".pt", ".ptc"), ".pt2"
# Where a file says what its functions are.
CARD = "modes.json"
# Relative to the largest value: round-off is far below, an encoder that took another branch far above.
_SAME = 1e-3
# Sizes of the batches at which an exported network is compared with the original; the first is what it is traced on.
_BATCHES = (4, 1, 7)


class ModeFunctions(nn.Module):
    """Some modes of a fit as one plain network of raw states, (batch, *state) -> (batch, n_functions).

    It computes in the precision of the model and answers in that of the states. Its weights take no gradients.

    Parameters
    ----------
    model : KoopmanLoRAModel
    chosen : which modes
    """

    linear: Tensor
    scale: Tensor

    def __init__(self, model: KoopmanLoRAModel, chosen: ChosenModes) -> None:
        super().__init__()
        side, n_constant = int(chosen.side == "right"), int(model.has_centering)
        state = model.standardize.mean.new_zeros(1, *model.state_shape)
        self.state_shape = list(model.state_shape)
        self.refusal = f"x must hold floating-point numbers of shape (batch, {str(self.state_shape).strip('[]')})"
        self.standardize = copy.deepcopy(model.standardize)
        self.encoder = model.encoders.alone(side, model.prepare(state))
        matrix = torch.from_numpy(chosen.coefficients)
        n_parts = len(matrix) // model.n_modes  # of a feature: one, or real and imaginary part
        for name, values in {
            "linear": model.linear[side],
            "mean": model.feature_mean[side],
            "scale": model.feature_scale[side],
            "constant": matrix[:n_constant].sum(0),  # its imaginary part, where features have one, is 0
            "coefficients": matrix[n_parts * n_constant :],
        }.items():
            self.register_buffer(name, values.detach().clone())
        self.requires_grad_(False).eval().cpu()

    def forward(self, x: Tensor) -> Tensor:
        """Values of the functions, in the precision of `x`."""
        if list(x.shape[1:]) != self.state_shape or not x.is_floating_point():
            raise ValueError(self.refusal)
        z = self.standardize(x.double()).to(self.scale.dtype)
        features = self.encoder(z) + z.flatten(1)[:, : self.linear.shape[0]].to(self.linear.dtype) @ self.linear
        features = (features - self.mean) / self.scale
        if features.is_complex():
            features = torch.view_as_real(features).flatten(1)
        # in double precision, as in our own answers: coefficients may cancel
        return (features.double() @ self.coefficients + self.constant).to(x.dtype)


@checked(but=("analysis", "functions", "modes"))
def export_mode(
    analysis: FittedFunctions,
    path: str | os.PathLike,
    modes: int | Sequence[int] | None = None,
    functions: str = "left",
) -> pathlib.Path:
    """Write modes of a fit as one network of raw states, for programs that have no koopman_lora.

    `.pt` and `.ptc` are TorchScript: `torch.jit.load` reads it, in C++ too, and PLUMED as
    `cv: PYTORCH_MODEL FILE=modes.ptc ARG=phi,psi`, with the functions as `cv.node-0`, `cv.node-1`, ... in their order
    here. `.pt2` is `torch.export`: `torch.export.load(path).module()`.

    The network takes states as they were fitted, in the same units and order (angles of PLUMED are in radians, and its
    LibTorch should not be older than this torch), (batch, *state) with any batch, and gives (batch, n_functions).
    Standardisation, periodic coordinates, refinement and phases are inside; gradients reach the states. TorchScript
    takes single and double precision, `.pt2` that of the model, and both answer in it; inside they compute in that of
    the model, TorchScript in double precision after `.double()`.

    A complex function is two columns, its real and its imaginary part. The constant mode, which no state changes, is
    not exported. What the columns are stands in the file as JSON: give `_extra_files={"modes.json": ""}` to
    `torch.jit.load`, or `extra_files=` to `torch.export.load`.

    Parameters
    ----------
    analysis : KoopmanAnalysis
    path : of the file
    modes : numbers of modes, counted from 1; by default all but the constant one
    functions : 'left' or 'right' singular functions, or 'eigen' for eigenfunctions

    Raises
    ------
    ValueError
        For another ending, modes or functions that are not there, the constant mode, or an encoder of your own that
        torch cannot export.
    TypeError
        For an estimator in place of its analysis.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from koopman_lora.estimator import KoopmanLoRA
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=500)
    >>> analysis = KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data).analysis_
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     network = torch.jit.load(export_mode(analysis, folder + "/modes.ptc", modes=[2, 3]))
    >>> x = torch.from_numpy(data.values[0])
    >>> np.allclose(network(x), analysis.singular_functions(x)[:, 1:], atol=1e-5)
    True
    """
    path = pathlib.Path(path)
    if path.suffix not in (*TORCHSCRIPT, EXPORTED):
        raise ValueError(f"path must end in .pt or .ptc (TorchScript) or .pt2 (torch.export); got {str(path)!r}.")
    check_replaceable(path)
    chosen = choose_modes(analysis, modes, functions)
    if analysis.moments.M_f.dtype.kind == "c" and path.suffix != EXPORTED:  # whose gradients TorchScript gets wrong
        raise ValueError(
            f"path must end in .pt2 for complex features, which TorchScript cannot take; got {str(path)!r}."
        )
    network = ModeFunctions(analysis.model, chosen)
    card = json.dumps(_card(analysis, chosen, functions), indent=2, default=plain)
    with warnings.catch_warnings():
        # torch announces the end of TorchScript, which PLUMED needs; what tracing may have fixed is tried below
        warnings.simplefilter("ignore")
        content = (_exported if path.suffix == EXPORTED else _torchscript)(network, card)
    return write_whole(path, lambda temporary: temporary.write_bytes(content))


def _torchscript(network: ModeFunctions, card: str) -> bytes:
    """The network scripted; an encoder that cannot be is traced."""
    states = _states(network, _BATCHES[0])
    standardize = torch.jit.trace(network.standardize, states)
    inputs = standardize(states).to(network.scale.dtype)
    compilers: dict[str, Callable[[nn.Module], Any]] = {
        "scripted": torch.jit.script,
        "traced": lambda encoder: torch.jit.trace(encoder, inputs, check_trace=False),
    }
    reasons = []
    for how, compiled in compilers.items():
        whole = copy.deepcopy(network)
        whole.standardize = standardize
        try:
            whole.encoder = compiled(network.encoder)
            script = torch.jit.script(whole)
            _check_same(network, script, (torch.float32, torch.float64))
        except Exception as error:  # of torch's compilers, which raise many
            reasons.append(f"it cannot be {how}: {_first_line(error)}")
            continue
        buffer = io.BytesIO()
        torch.jit.save(script, buffer, _extra_files={CARD: card})
        return buffer.getvalue()
    raise ValueError(
        f"the encoder, {type(network.encoder).__name__}, cannot be exported to TorchScript; {'; '.join(reasons)}. "
        "Write its forward with tensor operations alone, which hold for any batch."
    )


def _exported(network: ModeFunctions, card: str) -> bytes:
    from torch.export import Dim, export, save  # takes long to import

    dtype = network.scale.dtype
    states = _states(network, _BATCHES[0]).to(dtype)
    buffer = io.BytesIO()
    try:
        program = export(network, (states,), dynamic_shapes=({0: Dim("batch")},), strict=False)
        _check_same(network, program.module(), (dtype,))
        save(program, buffer, extra_files={CARD: card})
    except Exception as error:  # of torch's compilers, which raise many
        raise ValueError(
            f"the encoder, {type(network.encoder).__name__}, cannot be exported by torch.export: {_first_line(error)}. "
            "Write its forward with tensor operations alone, which hold for any batch, or export to .ptc."
        ) from error
    return buffer.getvalue()


def _states(network: ModeFunctions, n: int) -> Tensor:
    """States (n, *state) like those of the fit, always the same."""
    noise = torch.randn(n, *network.state_shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return network.standardize.mean + network.standardize.scale * noise


def _check_same(network: ModeFunctions, other: nn.Module, dtypes: Sequence[torch.dtype]) -> None:
    """Raise a ValueError unless both give the same values, for batches of several sizes."""
    for n in _BATCHES:
        for dtype in dtypes:
            states = _states(network, n).to(dtype)
            wanted, got = network(states), other(states)
            if got.shape != wanted.shape or not (got - wanted).abs().max() <= _SAME * wanted.abs().max():
                raise ValueError(f"it then gives other values, of a batch of {n} states")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:")


def _card(analysis: FittedFunctions, chosen: ChosenModes, functions: str) -> dict[str, Any]:
    """What the functions in a file are, as plain JSON values."""
    model, spectrum, clock = analysis.model, analysis.spectrum, analysis.clock
    values = {"singular_value": "canonical_singular_values"}
    if functions == "eigen":
        values = {"eigenvalue": "eigenvalues", "timescale": "timescales", "frequency": "frequencies"}
    outputs = [
        {"name": name, "mode": mode} | {key: _storable(spectrum[v].sel(mode=mode).item()) for key, v in values.items()}
        for name, mode in zip(chosen.names, chosen.modes, strict=True)
    ]
    standardize = model.standardize
    return provenance() | {
        "functions": functions,
        "outputs": outputs,
        "inputs": _input_names(analysis),
        "state_shape": list(model.state_shape),
        "periodic": [{"input": i, "period": p} for i, p in zip(standardize.periodic, standardize.period, strict=True)],
        "precision": str(model.dtype).removeprefix("torch."),
        **clock.attrs(),
        "lag_time": clock.lag_time,
    }


def _input_names(analysis: FittedFunctions) -> list[str] | None:
    """Names of the coordinates, of which the moments of the states tell where there is no data any more."""
    split = analysis.fitted.split
    names = split.pairs.coordinate_names if split is not None else analysis.moments.observable_names
    return None if names is None else list(names)


def _storable(value: Any) -> Any:
    """A number as JSON holds it: real and imaginary part of a complex one, and None for one that is not finite."""
    if isinstance(value, complex):
        return [value.real, value.imag]
    return value if math.isfinite(value) else None
