"""`open_analysis`: a fitted analysis from the folder that it was saved in, with or without its data."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from torch import nn

from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.analysis_files import read_fitted
from koopman_lora.checks import checked
from koopman_lora.data.splits import Split, split_pairs


@checked
def open_analysis(
    folder: str | os.PathLike,
    data: Any = None,
    encoder_f: nn.Module | None = None,
    encoder_g: nn.Module | None = None,
) -> KoopmanAnalysis:
    """Open an analysis that `save` wrote; it answers as it did before.

    Parameters
    ----------
    folder : of `KoopmanLoRA.save` or `koopman-lora fit`
    data : the trajectories of the fit, in any form that `lagged_pairs` takes; without them all is answered that needs
        no frames
    encoder_f, encoder_g : freshly built, for a model with encoders of your own: a folder holds weights, never code

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    ValueError
        If the folder is none of ours or its files do not belong together, or `data` are not those of the fit; for
        others use `open_analysis(folder).applied_to(data)`.

    Examples
    --------
    >>> import tempfile
    >>> from koopman_lora.estimator import KoopmanLoRA
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=500)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fitted = KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data)
    ...     open_analysis(fitted.save(folder)).scores() == fitted.scores()
    True
    """
    analysis = KoopmanAnalysis(read_fitted(folder, encoder_f, encoder_g))
    return analysis if data is None else _with_data(analysis, data)


def _with_data(analysis: KoopmanAnalysis, data: Any) -> KoopmanAnalysis:
    fitted = analysis.fitted
    pairs = analysis.pairs_of(data)
    if pairs.fingerprint() != fitted.fingerprint:
        raise ValueError(
            f"data are not those of the fit, which had {analysis.moments.n_pairs} pairs; these give {len(pairs)}. Open "
            "the analysis without data, and ask .applied_to(data) about others."
        )
    recipe = fitted.recipe
    if recipe.by in ("none", "given"):  # held-out pairs of the user's own are not in `data`
        split = dataclasses.replace(Split.given(pairs), recipe=recipe)
    else:
        split = split_pairs(pairs, recipe.held_out, recipe.by, recipe.n_blocks, recipe.seed)
    return KoopmanAnalysis(dataclasses.replace(fitted, split=split))
