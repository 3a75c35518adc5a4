"""docs/matrix_svd.md: every number on it; the channel that it follows is one of `test_five_jobs`."""

import doctest
import pathlib
import re

import pytest

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "matrix_svd.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
def test_every_number_on_the_page():
    examples = "\n".join(blocks("pycon"))
    test = doctest.DocTestParser().get_doctest(examples, {}, "docs/matrix_svd.md", None, 0)
    assert len(test.examples) > 30
    runner = doctest.DocTestRunner()
    printed = []
    runner.run(test, out=printed.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(printed)
