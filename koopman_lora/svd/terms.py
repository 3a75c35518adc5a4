"""Terms of the low-rank loss of a given matrix: from all rows and columns, and unbiased from a sample of both."""

from __future__ import annotations

from torch import Tensor

from koopman_lora.loss_terms import LoRATerms, lora_terms
from koopman_lora.svd.triples import svals_from_diagonal


def loss_terms(U: Tensor, HV: Tensor, V: Tensor) -> LoRATerms:
    """The terms of the low-rank loss of `H ~ U diag(s) V^H`, from U, V and the product H V.

    With s = 1 the loss is `-2 Re tr(U^H H V) + tr(U^H U V^H V) = ||H - U V^H||_F^2 - ||H||_F^2`.

    References
    ----------
    docs/mathematics.md, sections 3 and 8.

    Examples
    --------
    >>> H, G, F = (torch.tensor(rows) for rows in ([[2.0], [3.0]], [[1.0], [0.0]], [[2.0]]))
    >>> loss_terms(G, H @ F, F).loss()     # ||(0, 3)||^2 - ||(2, 3)||^2
    tensor(-4.)
    """
    # only the diagonal of U^H H V counts: k inner products instead of k^2
    return lora_terms(U.mH @ U, svals_from_diagonal(U, HV).diag(), V.mH @ V)


def sampled_loss_terms(U: Tensor, H_block: Tensor, V: Tensor, n_rows: int, n_columns: int) -> LoRATerms:
    """Unbiased estimate of `loss_terms` from rows and columns that were drawn independently.

    The linear term is scaled by `M N / (B_r B_c)`, the Gram matrices by `M / B_r` and `N / B_c`; their product is
    unbiased because rows and columns are independent.

    Parameters
    ----------
    U, V : tensors (B_r, k), (B_c, k), the sampled rows of both factors
    H_block : tensor (B_r, B_c), the entries of H for *all* pairs of a sampled row and a sampled column
    n_rows, n_columns : M and N

    Examples
    --------
    >>> U, V = torch.ones(2, 1).double(), torch.ones(3, 1).double()
    >>> sampled_loss_terms(U, torch.ones(2, 3).double(), V, n_rows=4, n_columns=6)
    LoRATerms(linear=tensor([24.], dtype=torch.float64), quadratic=tensor([[24.]], dtype=torch.float64))
    """
    scale = n_rows * n_columns / H_block.numel()
    terms = loss_terms(U, H_block @ V, V)
    return LoRATerms(scale * terms.linear, scale * terms.quadratic)
