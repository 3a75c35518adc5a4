"""`TrainingOptions`: how a fit optimises, and where."""

from __future__ import annotations

import dataclasses

from koopman_lora.arguments import check_positive
from koopman_lora.checks import checked

# Words of Fabric for what can be trained. With weights in half precision the mean and scale of the states are in half
# precision too, which an offset of the data does not survive, and NumPy has no bfloat16 for the moments.
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")


@checked
@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How `fit` optimises, and where.

    Parameters
    ----------
    learning_rate, weight_decay : of Adam; the learning rate is the peak of a one-cycle schedule
    gradient_clip : largest norm of the gradient, if any
    patience : stop after so many epochs without a better held-out score, by default a third of them, at least 10
    will_refine : the features are for `kl.refine`, so that fewer steps will do where pairs are plenty, with
        orthogonalised momentum for hidden matrices (`MuonAdamW`)
    standardize : set the model's standardisation from the training pairs
    accelerator : for Lightning Fabric: 'cpu', 'gpu', 'auto'
    precision : '32-true' or '64-true', or for half precision where it does no harm 'bf16-mixed' or '16-mixed'

    Raises
    ------
    ValueError
        For values out of range.

    Examples
    --------
    >>> TrainingOptions(learning_rate=0)
    Traceback (most recent call last):
    ValueError: learning_rate must be positive; got 0.
    """

    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    patience: int | None = None
    will_refine: bool = False
    standardize: bool = True
    accelerator: str = "cpu"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "gradient_clip", "patience"):
            check_positive(name, getattr(self, name))
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(map(repr, PRECISIONS))}; got {self.precision!r}. The "
                "weights must be in single precision at least; for speed use 'bf16-mixed'."
            )
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative; got {self.weight_decay}.")
