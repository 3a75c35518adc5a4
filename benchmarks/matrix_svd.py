"""Neural SVD of given matrices: accuracy of every stage, tracking, and times beside the classical routines.

    OMP_NUM_THREADS=1 python benchmarks/matrix_svd.py            # about four minutes on one core

Prints five tables and the advice that follows from them.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.utils.extmath import randomized_svd

from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.svd.orthogonality import ORTHOGONALITIES

DECAYS = {
    "0.97^i": lambda i: 0.97**i,
    "0.9^i": lambda i: 0.9**i,
    "0.5^i": lambda i: 0.5**i,
    "0.2^i": lambda i: 0.2**i,
    "1/i": lambda i: 1 / (1.0 + i),
    "1/i^2": lambda i: 1 / (1.0 + i) ** 2,
    "rank 6": lambda i: np.where(i < 6, 1 - i / 12, 0.0),
    "pairs": lambda i: 0.8 ** (i // 2),
}
ADVICE = """
When to use what
  - One dense matrix in memory: torch.linalg.svd (exact, milliseconds to seconds). Training never wins there.
  - A few triples of one large sparse or matrix-free matrix: scipy.sparse.linalg.svds; tens of triples at a few digits,
    or where products with blocks are cheap: sklearn's randomized_svd.
  - NeuralSVD: rows and columns with features, so that unseen ones are mapped; a matrix that changes slowly
    (partial_fit); entries that are only sampled; or where the low-rank loss itself is the object of study.
    For the last digits set polish_steps, which is a classical iteration that starts from the trained factors."""


def normal(rng: np.random.Generator, *shape: int, is_complex: bool = False) -> np.ndarray:
    """Independent standard normal entries."""
    return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if is_complex else 0)


def random_matrix(rng: np.random.Generator, decay: str, M: int, N: int, dtype: str = "float64") -> np.ndarray:
    """A random matrix with the singular values of `DECAYS`, or independent normal entries."""
    is_complex = np.dtype(dtype).kind == "c"
    if decay == "gaussian":
        return normal(rng, M, N, is_complex=is_complex).astype(dtype)
    k = min(M, N)
    U, V = (np.linalg.qr(normal(rng, n, k, is_complex=is_complex))[0] for n in (M, N))
    return ((U * DECAYS[decay](np.arange(k))) @ V.conj().T).astype(dtype)


def timed(call, *args, **options):
    """Result and seconds of one call."""
    start = time.perf_counter()
    result = call(*args, **options)
    return result, time.perf_counter() - start


def relative_error(values: np.ndarray, exact: np.ndarray) -> float:
    """Largest relative error of sigma, over those that stand out from zero."""
    exact = exact[: len(values)]
    keep = exact > 1e-12 * exact[0]
    return float(np.max(np.abs(values - exact)[keep] / exact[keep]))


def compare_orthogonalities() -> None:
    """Error of every stage for the four orthogonality options."""
    print("\n1. Orthogonality: largest relative error of 8 sigmas, mean of log10 over 7 matrices 120 x 80 (complex128)")
    print("   (trained: |diag(U^H H V)| of the factors as trained; ||U^H U - I|| after Rayleigh-Ritz)")
    print(
        f"   {'':22s}{'trained':>10s}{'norms':>10s}{'Ritz':>10s}{'polished':>10s}{'steps':>8s}{'s':>8s}"
        f"{'||U^HU-I||':>12s}"
    )
    for parametrization in ("table", "embedding"):
        for orthogonality in ORTHOGONALITIES:
            rows = []
            for decay in ("0.97^i", "0.9^i", "0.5^i", "1/i", "1/i^2", "pairs", "gaussian"):
                H = random_matrix(np.random.default_rng(1), decay, 120, 80, "complex128")
                exact = np.linalg.svd(H, compute_uv=False)
                options = {"orthogonality": orthogonality, "parametrization": parametrization}
                svd, seconds = timed(NeuralSVD(n_modes=8, **options).fit, H)
                polished = NeuralSVD(n_modes=8, polish_steps=100, **options).fit(H).singular_values_
                stages = [svd.result_[f"singular_values_{name}"].values for name in ("trained", "column_norms", "ritz")]
                errors = [max(relative_error(values, exact), 1e-16) for values in (*stages, polished)]
                rows.append([*np.log10(errors), svd.n_steps_, seconds, svd.errors_["orthogonality_u"]])
            mean = np.mean(rows, axis=0)
            stages = "".join(f"{10**value:10.0e}" for value in mean[:4])
            name = f"{parametrization}, {orthogonality}"
            print(f"   {name:22s}{stages}{mean[4]:8.0f}{mean[5]:8.2f}{mean[6]:12.0e}", flush=True)


def compare_accuracies() -> None:
    """Error over decays, shapes, ranks and precisions."""
    print("\n2. Accuracy after Rayleigh-Ritz, default options: worst over shapes 60x40, 40x90, 50x50, 300x20, 200x150;")
    print("   1, 5 and 12 modes. EY: reconstruction over Eckart-Young's optimum, minus 1 (optima above 1e-5 only);")
    print("   float32 sigmas below 1e-3 of the largest carry LAPACK's own error of that order.")
    print(
        f"   {'decay':12s}{'dtype':12s}{'sigma':>9s}{'polished':>10s}{'EY':>9s}{'||U^HU-I||':>12s}{'steps':>7s}"
        f"{'warnings':>10s}"
    )
    for decay in (*DECAYS, "gaussian"):
        for dtype in ("float32", "complex64", "float64", "complex128"):
            rng, worst, steps, n_warnings = np.random.default_rng(2), np.zeros(4), [], 0
            for M, N in ((60, 40), (40, 90), (50, 50), (300, 20), (200, 150)):
                H = random_matrix(rng, decay, M, N, dtype)
                exact = np.linalg.svd(H.astype("complex128"), compute_uv=False)
                resolved = exact > (1e-3 if dtype in ("float32", "complex64") else 1e-6) * exact[0]
                for n_modes in (1, 5, 12):
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        svd = NeuralSVD(n_modes=n_modes).fit(H)
                    n_warnings += len(caught)
                    polished = NeuralSVD(n_modes=n_modes, polish_steps=200).fit(H)
                    best, k = svd.errors_["eckart_young"], resolved[:n_modes].sum()
                    excess = svd.errors_["reconstruction"] / best - 1 if best > 1e-5 else 0.0
                    errors = [relative_error(s.singular_values_[:k], exact) for s in (svd, polished)]
                    worst = np.maximum(worst, [*errors, excess, svd.errors_["orthogonality_u"]])
                    steps.append(svd.n_steps_)
            line = (
                f"{worst[0]:9.0e}{worst[1]:10.0e}{worst[2]:9.0e}{worst[3]:12.0e}{np.median(steps):7.0f}{n_warnings:10d}"
            )
            print(f"   {decay:12s}{dtype:12s}{line}", flush=True)


def compare_denoising() -> None:
    """A noisy low-rank matrix against truncated LAPACK."""
    print("\n3. Denoising: 64 x 64 complex, signal of rank 32, 20 dB; error against the clean matrix, five draws")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        clean = normal(rng, 64, 32, is_complex=True) @ normal(rng, 32, 64, is_complex=True)
        noise = normal(rng, 64, 64, is_complex=True)
        H = clean + 0.1 * noise * np.linalg.norm(clean) / np.linalg.norm(noise)
        U, s, Vh = np.linalg.svd(H)
        errors = [
            np.linalg.norm(result - clean) / np.linalg.norm(clean)
            for result in (NeuralSVD(n_modes=32).fit(H).reconstruct(), (U[:, :32] * s[:32]) @ Vh[:32])
        ]
        print(f"   trained {errors[0]:.6f}   truncated LAPACK {errors[1]:.6f}   ratio {errors[0] / errors[1]:.5f}")


def compare_tracking() -> None:
    """Steps of a warm and a cold start on a changing matrix."""
    print(
        "\n4. Tracking: 8 modes of 120 x 80, each step changes 1 % of ||H||_F; steps of training, mean of five matrices"
    )
    print(f"   {'matrix':12s}{'change':14s}{'warm':>6s}{'cold':>6s}{'ratio':>7s}{'worst':>7s}{'sigma error':>13s}")
    for decay in ("0.97^i", "0.9^i", "1/i", "gaussian", "rank 6"):
        for change in ("random", "rotation"):
            rng = np.random.default_rng(3)
            H = random_matrix(rng, decay, 120, 80, "complex128")
            n_modes = 6 if decay == "rank 6" else 8  # a seventh mode would be the change itself, new in every step
            svd, warm, cold, error = NeuralSVD(n_modes=n_modes).fit(H), [], [], 0.0
            for _ in range(5):
                D = normal(rng, 120, 80, is_complex=True)
                if change == "rotation":
                    A = normal(rng, 120, 120, is_complex=True)
                    D = (A - A.conj().T) @ H
                H = H + 0.01 * np.linalg.norm(H) * D / np.linalg.norm(D)
                warm.append(svd.partial_fit(H).n_steps_)
                cold.append(NeuralSVD(n_modes=n_modes).fit(H).n_steps_)
                error = max(error, relative_error(svd.singular_values_, np.linalg.svd(H, compute_uv=False)))
            ratio, worst = np.mean(warm) / np.mean(cold), np.max(np.divide(warm, cold))
            line = f"{np.mean(warm):6.1f}{np.mean(cold):6.1f}{ratio:7.2f}{worst:7.2f}{error:13.0e}"
            print(f"   {decay:12s}{change:14s}{line}", flush=True)


def fourier_operator(M: int, N: int) -> LinearOperator:
    """The first M rows of a discrete Fourier transform of a weighted signal: products only."""
    weights = 1 / (1 + np.arange(N)[:, None]) ** 0.7

    def multiply(X: np.ndarray) -> np.ndarray:
        return np.fft.fft(weights * X.reshape(N, -1), axis=0, norm="ortho")[:M]

    def adjoint(Y: np.ndarray) -> np.ndarray:
        return weights * np.fft.ifft(Y.reshape(M, -1), n=N, axis=0, norm="ortho")

    options = {"matmat": multiply, "rmatmat": adjoint, "dtype": complex}
    return LinearOperator((M, N), matvec=multiply, rmatvec=adjoint, **options)


def compare_times() -> None:
    """Times of all methods in one run."""
    print(
        "\n5. Times, and largest relative error of 6 sigmas (against torch.linalg.svd, or svds where that is too large)"
    )
    rng = np.random.default_rng(4)
    cases = {
        "dense 100 x 80": random_matrix(rng, "0.9^i", 100, 80),
        "dense 1000 x 800": random_matrix(rng, "0.97^i", 1000, 800),
        "dense 1000 x 800, gaussian": random_matrix(rng, "gaussian", 1000, 800),
        "sparse 20000 x 10000, 200k": scipy.sparse.random(20000, 10000, 1e-3, format="csr", random_state=0),
        "matrix-free 4000 x 5000": fourier_operator(4000, 5000),
    }
    for name, H in cases.items():
        print(f"   {name}")
        methods = {
            "torch.linalg.svd": lambda H=H: torch.linalg.svd(torch.as_tensor(H), full_matrices=False)[1].numpy(),
            "scipy svds": lambda H=H: np.sort(svds(H, 6, return_singular_vectors=True)[1])[::-1],
            "sklearn randomized_svd": lambda H=H: randomized_svd(H, 6, random_state=0)[1],
            "NeuralSVD": lambda H=H: NeuralSVD(n_modes=6).fit(H),
            "NeuralSVD, polished": lambda H=H: NeuralSVD(n_modes=6, polish_steps=100).fit(H),
        }
        exact = None
        for method, call in methods.items():
            if method == "torch.linalg.svd" and not isinstance(H, np.ndarray):
                continue
            if method == "sklearn randomized_svd" and isinstance(H, LinearOperator):
                continue  # takes arrays and sparse matrices only
            result, seconds = timed(call)
            values = result.singular_values_ if isinstance(result, NeuralSVD) else result
            exact = values if exact is None else exact
            note = f"{result.n_steps_} + {result.n_polish_steps_} steps" if isinstance(result, NeuralSVD) else ""
            print(
                f"     {method:24s}{seconds:9.3f} s {relative_error(values[:6], exact[:6]):9.0e}   {note}", flush=True
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    compare_orthogonalities()
    compare_accuracies()
    compare_denoising()
    compare_tracking()
    compare_times()
    print(ADVICE)
