"""The order of the house: a file imports only from files above it, and importing it changes nothing outside."""

import ast
import functools
import itertools
import pathlib
import re
import statistics
import subprocess
import sys

import pytest

import koopman_lora

pytestmark = pytest.mark.any_processor

PACKAGE = pathlib.Path(koopman_lora.__file__).parent
README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")


def rooms_of_readme():
    """The rooms in the order of the README's table of files, a folder as one room."""
    table = README.split("| file | does |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return [name.removesuffix(".py").rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


ORDER = [*rooms_of_readme(), "__init__"]
FILES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])  # the imports of a lazy `__init__.py` are in its stub
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]


def place(module):
    """Room in which `koopman_lora.<module>` stands: a file, or a folder with all its files."""
    return module.split(".")[0]


def rank(module):
    """Number of that room."""
    return ORDER.index(place(module))


def module_name(path):
    relative = path.relative_to(PACKAGE).with_suffix("")
    return ".".join(relative.parts)


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path):
    """Every module that a file imports, absolute, at any depth of the code: (name, imported names, line)."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, [], node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = path.relative_to(PACKAGE.parent).parts[: -node.level]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            found.append((base, [alias.name for alias in node.names], node.lineno))
    return found


def own_imports(path):
    """Modules of this package that a file imports, without the prefix."""
    for base, names, line in imports(path):
        if base == "koopman_lora":  # from koopman_lora import x: x is a file, or a name of __init__
            for name in names or ["__init__"]:
                is_file = (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()
                yield (name if is_file else "__init__"), line
        elif base.startswith("koopman_lora."):
            yield base.removeprefix("koopman_lora."), line


def test_every_file_has_a_place():
    assert [path.name for path in FILES if place(module_name(path)) not in ORDER] == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_go_downward_only(path):
    me = module_name(path)
    for module, line in own_imports(path):
        assert rank(module) <= rank(me), f"{path.name}:{line} imports {module}, which stands below it"


@functools.cache
def all_edges():
    return {module_name(p): {m for m, _ in own_imports(p)} for p in FILES if p.stem != "__init__"}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_do_not_import_each_other_in_a_circle(path):
    """Within a folder too, no chain of imports leads back."""
    edges = all_edges()
    seen, todo = set(), list(edges.get(module_name(path), ()))
    while todo:
        module = todo.pop()
        assert module != module_name(path), f"{path.name} imports itself through others"
        if module not in seen:
            seen.add(module)
            todo += edges.get(module, ())


FORBIDDEN = {
    "_linalg": {"torch", "xarray", "sklearn", "matplotlib"},
    "_labels": {"torch", "matplotlib"},
    "systems": {"torch", "lightning_fabric", "matplotlib"},
    "encoders": {"xarray", "matplotlib", "numpy"},
    "losses": {"xarray", "numpy", "matplotlib"},
    "model": {"xarray", "matplotlib", "lightning_fabric"},
    "moments": {"xarray", "scipy", "matplotlib", "lightning_fabric"},
    "spectrum": {"lightning_fabric", "matplotlib"},
    "clock": {"torch", "xarray", "scipy", "matplotlib"},
    "plots": {"torch", "scipy", "sklearn", "lightning_fabric"},
    "report": {"torch", "scipy", "sklearn", "lightning_fabric"},
    "tables": {"torch", "scipy", "sklearn", "lightning_fabric", "matplotlib"},
}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_do_not_know_what_they_may_not_know(path):
    forbidden = FORBIDDEN.get(place(module_name(path)), set())
    found = {base.split(".")[0] for base, _, _ in imports(path)} & forbidden
    assert found == set()


@pytest.mark.parametrize(
    "path", sorted([*PACKAGE.glob("plots/*.py"), *PACKAGE.glob("report/*.py")]), ids=lambda p: p.name
)
def test_plots_and_report_do_not_reach_torch_through_this_package(path):
    for module, _ in own_imports(path):
        source = PACKAGE / f"{module.replace('.', '/')}.py"
        source = source if source.exists() else source.with_suffix("") / "__init__.py"
        assert not any(base.split(".")[0] == "torch" for base, _, _ in imports(source)), module


def test_the_matrix_wing_knows_neither_trajectories_nor_fabric():
    files = sorted(PACKAGE.glob("svd/*.py"))
    known = {base for path in files for base, _, _ in imports(path)}
    assert files
    assert not [name for name in known if name.startswith(("koopman_lora.data", "koopman_lora.training"))]
    assert "lightning_fabric" not in known


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_can_execute_data(path):
    """No pickle, no torch.load, no eval or exec: a file from elsewhere is never code."""
    tree = tree_of(path)
    modules = {base.split(".")[0] for base, _, _ in imports(path)}
    assert modules & {"pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"} == set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "torch.jit.load"}
        if called.endswith("np.load"):
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert keywords.get("allow_pickle", "False") == "False"


GLOBAL_STATE = """
import logging, random, sys, warnings
import matplotlib, numpy as np, torch
np.random.seed(1); torch.manual_seed(1); random.seed(1)

def state():
    return {
        "torch dtype": torch.get_default_dtype(), "torch threads": torch.get_num_threads(),
        "torch grad": torch.is_grad_enabled(), "torch deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch matmul": torch.get_float32_matmul_precision(), "torch rng": torch.get_rng_state().tolist(),
        "torch print": str(torch._tensor_str.PRINT_OPTS),
        "numpy errors": np.geterr(), "numpy rng": np.random.get_state()[1].tolist(),
        "numpy print": np.get_printoptions(),
        "python rng": random.getstate(), "warnings": list(warnings.filters),
        "matplotlib": dict(matplotlib.rcParams), "root handlers": list(logging.getLogger().handlers),
        "root level": logging.getLogger().level, "recursion": sys.getrecursionlimit(), "excepthook": sys.excepthook,
    }

# what third-party packages do to global state when imported is theirs; it is done before we look
import lightning_fabric, scipy.linalg, scipy.sparse, sklearn.base, tqdm.auto, xarray, matplotlib.pyplot
for name in ("scipy.integrate", "scipy.optimize", "scipy.special", "scipy.stats", "scipy.spatial", "safetensors.torch"):
    __import__(name)
before = state()
import koopman_lora, importlib, pkgutil
for module in pkgutil.walk_packages(koopman_lora.__path__, "koopman_lora."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
after = state()
print([name for name in before if before[name] != after[name]])
"""


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_importing_changes_no_global_state():
    assert run(GLOBAL_STATE) == "[]"


@pytest.mark.slow
def test_importing_loads_no_heavy_optional_package():
    heavy = [
        "zarr", "dask", "distributed", "numcodecs", "h5py", "h5netcdf", "pandas.plotting._matplotlib", "IPython",
        "sklearn.linear_model", "sklearn.ensemble", "sklearn.cluster", "torchvision", "tensorboard",
        "pytest", "hypothesis",
    ]  # fmt: skip
    code = f"""
import sys, torch, xarray, lightning_fabric
bare = set(sys.modules)
import koopman_lora as kl
[getattr(kl, name) for name in dir(kl)]
print([m for m in {heavy} if m in sys.modules and m not in bare])
"""
    assert run(code) == "[]"


# ---- small rooms, short forms, one front door ------------------------------------------------------------------------


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_is_long(path):
    assert lines(path) < 350


def test_files_are_short():
    assert statistics.median(lines(path) for path in FILES) < 180


# settings of a whole procedure, each with a default; everything else takes what it needs
MANY_SETTINGS = {"estimator.KoopmanLoRA.__init__", "svd.neural_svd.NeuralSVD.__init__"}


def public_functions(path):
    """Functions, methods and constructors that a user may call: (dotted name, number of parameters but self)."""

    def walk(node, name, in_class):
        for child in node.body:
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                yield from walk(child, f"{name}.{child.name}", True)
            elif isinstance(child, ast.FunctionDef) and (child.name == "__init__" or not child.name.startswith("_")):
                a = child.args
                names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if p is not None]
                yield f"{name}.{child.name}", len([n for n in names if not (in_class and n in ("self", "cls"))])

    yield from walk(tree_of(path), module_name(path), False)


def test_public_functions_take_few_parameters():
    found = {name: n for path in FILES for name, n in public_functions(path)}
    assert len(found) > 200
    assert MANY_SETTINGS <= set(found)
    assert {name: n for name, n in found.items() if n > 8 and name not in MANY_SETTINGS} == {}


def public_names():
    """Names that the front door imports for its users: written `name as name` in its stub."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    aliases = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return [alias.asname for alias in aliases if alias.asname is not None]


def test_help_names_every_public_name_and_no_other():
    entries = [re.match(r"    (\w+(?:, \w+)*)  +\S", line) for line in koopman_lora.__doc__.splitlines()]
    described = [name for entry in entries if entry for name in entry.group(1).split(", ")]
    assert len(described) == len(set(described)) > 50
    assert sorted(described) == sorted(public_names()) == koopman_lora.__all__ == dir(koopman_lora)
    for name in described:
        assert hasattr(koopman_lora, name), name


def test_the_front_door_has_no_name_but_its_public_ones():
    """What `import koopman_lora` shows beside them are its own files, which Python puts there."""
    files = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    shown = {name for name in vars(koopman_lora) if not name.startswith("_")}
    assert shown - files - set(public_names()) == set()


# ---- one trajectory, from `fit` to a singular value ------------------------------------------------------------------


def stops_of_contributing():
    """Functions in the table of CONTRIBUTING.md, `module.function`."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("| stop | what comes out |")[1].split("\n\n")[0]
    return [re.search(r"`([^`]+)`", line).group(1) for line in table.splitlines()[2:]]


def called(function):
    """What a call of `function` calls of this package, in order, as `module.function`."""
    codes, prefix = [], f"{PACKAGE}/"

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(prefix):
            codes.append(frame.f_code)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return [f"{module_name(pathlib.Path(code.co_filename))}.{code.co_qualname}" for code in codes]


@pytest.mark.slow
def test_a_fit_goes_the_way_that_is_described_to_newcomers():
    data = koopman_lora.systems.NoisyRotation().simulate(n_trajectories=1, n_steps=800, seed=0)
    estimator = koopman_lora.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=1)
    calls = iter(called(lambda: estimator.fit(data).spectrum_.canonical_singular_values.values))
    stops = stops_of_contributing()
    for stop in stops:
        assert stop in calls, f"{stop} is not called behind the stop before it"  # an iterator: it is read up to there
    # rooms are told from another only where the way goes up the table of the README: seldom
    ranks = [rank(stop) for stop in stops]
    assert sum(after > before for before, after in itertools.pairwise(ranks)) <= 8
