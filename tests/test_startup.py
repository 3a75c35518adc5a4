"""What is imported when: front door and command line without torch, heavy packages where they are used."""

import ast
import inspect
import subprocess
import sys

import pytest

import koopman_lora as kl
from koopman_lora.cli import make_parser

pytestmark = pytest.mark.any_processor


def printed(code):
    """What a new process prints last that runs `code`: a literal."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return ast.literal_eval(result.stdout.splitlines()[-1])


def packages(code):
    """Packages that are there after `code`."""
    return printed(f"import sys\n{code}\nprint(sorted({{name.split('.')[0] for name in sys.modules}}))")


def test_the_front_door_imports_nothing_but_its_lazy_loader():
    new = set(packages("import koopman_lora; dir(koopman_lora), dir(koopman_lora.systems)")) - set(packages(""))
    assert new - sys.stdlib_module_names == {"koopman_lora", "lazy_loader"}


HELP = """
import contextlib, io
from koopman_lora.cli import main
commands = ("fit", "simulate", "health", "spectrum", "report")
for arguments in ("", "--help", *(f"{command} --help" for command in commands), "svd --wrong"):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments.split())
        except SystemExit:
            continue
    raise AssertionError(arguments)
"""


def test_help_and_wrong_flags_wait_for_no_torch():
    assert set(packages(HELP)) & {"torch", "numpy", "xarray", "scipy", "sklearn", "matplotlib"} == set()


ESTIMATOR = """
import sys, torch, xarray, sklearn.base
before = set(sys.modules)
import koopman_lora
koopman_lora.KoopmanLoRA
new = {name for name in set(sys.modules) - before if not name.startswith("koopman_lora")}
"""


@pytest.mark.slow
def test_the_estimator_imports_little_beside_torch_xarray_and_sklearn_base():
    """No Fabric, which drags in torch's compiler, no pictures, no HDF5."""
    new = printed(f"{ESTIMATOR}print(sorted(new))")
    assert {name.split(".")[0] for name in new} == {"lazy_loader", "safetensors", "tqdm"}


def test_what_can_be_simulated_on_the_command_line_is_every_system():
    commands = next(action for action in make_parser()._actions if action.dest == "command")
    offered = next(a for a in commands.choices["simulate"]._actions if a.dest == "system").choices
    classes = {name: getattr(kl.systems, name) for name in dir(kl.systems)}
    simulated = {name for name, c in classes.items() if hasattr(c, "simulate") and not inspect.isabstract(c)}
    assert sorted(offered) == sorted(simulated - {"System"})
