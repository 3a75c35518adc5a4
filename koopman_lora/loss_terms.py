"""The LoRA loss as a quadratic function of the singular values: its terms, its curve over modes, its minimum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class LoRATerms(NamedTuple):
    """The LoRA loss as a function of the singular values, for fixed features: `-2 sum_i s_i a_i + sum_ij s_i s_j Q_ij`.

    The one place of this quadratic form: training loss, end values of svals, VAMP-E, its curve over the number of modes
    and the loss of a given matrix are all made of it. Tensors or arrays, with any leading axes.

    Attributes
    ----------
    linear : `a_i = Re (T_fg)_ii`, (..., n_modes)
    quadratic : `Q_ij = Re (M_f)_ij (M_g)_ji`, (..., n_modes, n_modes)

    References
    ----------
    docs/mathematics.md, section 3.
    """

    linear: Any
    quadratic: Any

    def loss(self, svals: Any = None) -> Any:
        """Value at singular values (n_modes,), by default 1 each: `||K - K_hat||^2 - ||K||^2`, shape (...)."""
        if svals is None:
            return self.quadratic.sum((-2, -1)) - 2.0 * self.linear.sum(-1)
        return self._scaled(svals).loss()

    def curve(self, svals: Any) -> Any:
        """Values for the leading 1, ..., n_modes modes alone, (..., n_modes)."""
        linear, quadratic = self._scaled(svals)
        return quadratic.cumsum(-2).cumsum(-1).diagonal(0, -2, -1) - 2.0 * linear.cumsum(-1)

    def weighted(self, m: Tensor) -> LoRATerms:
        """Terms of the nested loss with weights `m` of the modes, see `truncation_weights`."""
        return LoRATerms(m * self.linear, torch.minimum(m[:, None], m) * self.quadratic)

    def _scaled(self, svals: Any) -> LoRATerms:
        return LoRATerms(svals * self.linear, svals[..., :, None] * self.quadratic * svals[..., None, :])


def lora_terms(M_f: Any, T_fg: Any, M_g: Any) -> LoRATerms:
    """Terms of the LoRA loss from second moments (..., n_modes, n_modes), tensors or arrays, real or complex.

    For complex features `tr(M_f M_g)` is the elementwise product with the *transpose*.

    References
    ----------
    docs/mathematics.md, section 3.

    Examples
    --------
    >>> one = torch.eye(1)
    >>> lora_terms(one, 0.5 * one, one).loss(torch.tensor([0.5]))      # at s = sigma: -sigma^2
    tensor(-0.2500)
    """
    return LoRATerms(T_fg.diagonal(0, -2, -1).real, (M_f * M_g.swapaxes(-1, -2)).real)


def best_svals(terms: LoRATerms, is_bounded: bool = False, has_constant: bool = False) -> Tensor:
    """Singular values (n_modes,) of the smallest loss for fixed features; a constant mode keeps 1.

    Parameters
    ----------
    terms : of tensors (n_modes,) and (n_modes, n_modes)
    is_bounded : look within [0, 1] only: a bounded least-squares problem, whose solution is not the clipped free one
    has_constant : the first singular value is 1, and not looked for

    References
    ----------
    docs/mathematics.md, section 5.

    Examples
    --------
    >>> best_svals(LoRATerms(torch.tensor([0.5, -0.2]), torch.eye(2)), is_bounded=True)
    tensor([0.5000, 0.0000])
    """
    linear, quadratic = terms
    if has_constant:
        rest = best_svals(LoRATerms(linear[1:] - quadratic[1:, 0], quadratic[1:, 1:]), is_bounded)
        return torch.cat([rest.new_ones(1), rest])
    free = torch.linalg.lstsq(quadratic, linear[:, None]).solution[:, 0]
    if not is_bounded or ((free >= 0) & (free <= 1)).all():
        return free
    return _bounded_svals(terms).to(free)


def _bounded_svals(terms: LoRATerms) -> Tensor:
    """Minimum within [0, 1]: `s Q s - 2 a s = |R s - b|^2` up to a constant, with `R^T R = Q`, `R^T b = a`."""
    from scipy.optimize import lsq_linear  # seldom needed, and slow to import

    linear, quadratic = (term.detach().cpu().double() for term in terms)
    values, vectors = torch.linalg.eigh(quadratic)
    keep = values > torch.finfo(torch.float64).eps * len(values) * values[-1]
    roots = values[keep].sqrt()
    R, b = roots[:, None] * vectors[:, keep].T, (vectors[:, keep].T @ linear) / roots
    return torch.from_numpy(lsq_linear(R.numpy(), b.numpy(), bounds=(0.0, 1.0), method="bvls").x)
