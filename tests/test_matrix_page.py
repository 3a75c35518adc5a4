"""docs/matrix_svd.md: every number on it, and the channel that it follows in ten lines."""

import doctest
import pathlib
import re

import numpy as np

from koopman_lora.svd.orthogonality import orthogonality_error

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "matrix_svd.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_number_on_the_page():
    examples = "\n".join(blocks("pycon"))
    test = doctest.DocTestParser().get_doctest(examples, {}, "docs/matrix_svd.md", None, 0)
    assert len(test.examples) > 30
    runner = doctest.DocTestRunner()
    printed = []
    runner.run(test, out=printed.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(printed)


def test_a_channel_is_followed_in_ten_lines():
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names = {}
    exec(compile(code, "docs/matrix_svd.md", "exec"), names)
    H, svd, history = names["H"], names["svd"], np.array(names["history"])
    U, s, Vh = np.linalg.svd(H)
    np.testing.assert_allclose(history[-1], s[:3], rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(U[:, :3].conj() * svd.U_, axis=0)), 1, atol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(Vh[:3].conj() * svd.Vh_, axis=1)), 1, atol=1e-4)
    assert orthogonality_error(svd.U_) < 1e-12
    assert np.abs(np.diff(history, axis=0)).max() < 0.1 * history.min()  # it changes slowly, and is followed
    assert svd.result_["previous_mode"].values.tolist() == [1, 2, 3]
    assert svd.result_["overlap"].min() > 0.9
