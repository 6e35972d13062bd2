"""The project: what an import loads, what is public, what the wheel holds, what README says."""

import ast
import contextlib
import doctest
import inspect
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxpool
from experiments import readme

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "jaxpool").glob("*.py"))

# DESIGN: options after `padding` are keyword-only; a stride of None is the window.
WINDOW = {
    "strides": None,
    "padding": "VALID",
    "window_dilation": 1,
    "ceil_mode": False,
    "axis": None,
    "where": None,
}
OPTIONS: dict[str, dict] = {"avg_pool": {"count_include_pad": True, "divisor_override": None}}
OPTIONS["mixed_pool"] = {"count_include_pad": False, "alpha": 0.5}
for kind in ("", "global_", "adaptive_"):
    OPTIONS[f"{kind}lse_pool"] = {"temperature": 1.0, "normalize": True}
    OPTIONS[f"{kind}softmax_pool"] = {"temperature": 1.0}
    OPTIONS[f"{kind}lp_pool"] = {"p": 2.0, "normalize": False}
    OPTIONS[f"{kind}gem_pool"] = {"p": 3.0, "eps": 1e-6}
WINDOWED = ["max_pool", "min_pool", "sum_pool", "avg_pool", "lse_pool", "softmax_pool", "lp_pool"]
LOCATED = ["max_pool_with_indices", "min_pool_with_indices"]
ADAPTIVE = [f"adaptive_{name}" for name in [*WINDOWED, LOCATED[0]]]
SHAPES = ["output_shape", *(f"{k}_output_shape" for k in ("global", "adaptive"))]
SHAPES += ["fractional_output_shape", "pyramid_output_shape", "receptive_field", "pooling_cost"]
OTHERS = ["max_unpool", "fractional_max_pool", "spatial_pyramid_pool", "blur_pool", "max_blur_pool"]
OTHERS += ["stochastic_pool", "polyphase_pool", "polyphase_unpool"]
FUNCTIONS = [*WINDOWED, "mixed_pool", *LOCATED, *(f"global_{name}" for name in WINDOWED), *ADAPTIVE]
FUNCTIONS += ["gem_pool", "global_gem_pool"]


# What an import loads


def python(code):
    """Run code in a fresh interpreter, in the root of the project."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def check_loads_no_flax(code):
    """Fail when the code loads Flax, in an interpreter of its own."""
    result = python(f"{code}; import sys; print('flax' in sys.modules)")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False", f"{code!r} loads flax"


def test_import_loads_no_flax():
    check_loads_no_flax("import jaxpool")


@pytest.mark.parametrize("module", ["jaxpool.linen", "jaxpool.nnx"])
def test_the_check_for_flax_can_fail(module):
    with pytest.raises(AssertionError, match="loads flax"):
        check_loads_no_flax(f"import {module}")


# What is public


def test_the_public_names():
    assert sorted(jaxpool.__all__) == sorted([*FUNCTIONS, *OTHERS, *SHAPES])


@pytest.mark.parametrize("name", jaxpool.__all__)
def test_everything_public_is_documented_by_example(name):
    examples = doctest.DocTestFinder(recurse=False).find(getattr(jaxpool, name), name)
    assert any(test.examples for test in examples), f"{name} has no doctest"
    _, _, described = inspect.getdoc(getattr(jaxpool, name)).partition("\nArgs:\n")
    for p in signature(name):
        assert re.search(rf"^ +(\w+, )*{p}(, \w+)*:", described, re.MULTILINE), p


def signature(name):
    return inspect.signature(getattr(jaxpool, name)).parameters


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures(name):
    found = signature(name)
    kind = name.split("_")[0]
    first, defaults = {
        "global": (["x"], {"axis": None, "keepdims": False, "where": None}),
        "adaptive": (["x", "output_shape"], {"axis": None, "where": None}),
    }.get(kind, (["x", "window_shape", "strides", "padding"], WINDOW))
    defaults = defaults | OPTIONS.get(name, {})
    assert {n: p.default for n, p in found.items() if p.default is not p.empty} == defaults
    assert [n for n, p in found.items() if p.kind is not p.KEYWORD_ONLY] == first


@pytest.mark.parametrize(
    ("name", "first", "options"),
    [
        ("max_unpool", ["x", "indices", "output_shape"], ["axis"]),
        (
            "fractional_max_pool",
            ["key", "x", "window_shape"],
            "output_shape output_ratio axis where sequence overlapping samples".split(),
        ),
        ("blur_pool", ["x", "strides"], ["filter_size", "padding", "axis"]),
        (
            "max_blur_pool",
            ["x", "window_shape", "strides"],
            ["filter_size", "padding", "axis"],
        ),
        (
            "stochastic_pool",
            ["key", "x", "window_shape", "strides", "padding"],
            "window_dilation ceil_mode axis where deterministic".split(),
        ),
        ("spatial_pyramid_pool", ["x", "levels"], ["pool", "axis", "where"]),
        (
            "polyphase_pool",
            ["x", "strides"],
            ["order", "axis", "phase", "return_phase", "strict"],
        ),
        ("polyphase_unpool", ["x", "phase", "strides"], ["output_shape", "axis"]),
        ("adaptive_output_shape", ["x_shape", "output_shape"], ["axis"]),
        ("receptive_field", ["layers"], []),
    ],
)
def test_signatures_of_the_others(name, first, options):
    found = signature(name)
    assert [n for n, p in found.items() if p.kind is not p.KEYWORD_ONLY] == first
    assert [n for n, p in found.items() if p.kind is p.KEYWORD_ONLY] == options


def test_signature_of_output_shape():
    """That of a pooling, with a shape in the place of x, and without its data."""
    names = [name for name in signature("max_pool") if name != "where"]
    assert list(signature("output_shape")) == ["x_shape", *names[1:]]
    for name in names[1:]:
        one, other = signature("output_shape")[name], signature("max_pool")[name]
        assert (one.default, one.kind) == (other.default, other.kind)


def test_version():
    assert f'version = "{jaxpool.__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_user_error_is_an_assert(path):
    """An assert vanishes under -O and names no argument."""
    tree = ast.parse(path.read_text("utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


# What is compiled


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equal_shapes_are_traced_once(name):
    arguments = () if "global" in name else ((2, 2),)
    chex.clear_trace_counter()  # it counts by name, and every row has the same one

    @jax.jit
    @chex.assert_max_traces(1)
    def run(x, options):
        return getattr(jaxpool, name)(x, *arguments, **options)

    for value in 1.0, 2.0, 3.0:
        x = jnp.full((1, 4, 4, 2), value)
        options = {"where": x > 0}
        for number in {"temperature", "p"} & set(signature(name)):
            options[number] = jnp.float32(value)  # data: another one compiles nothing
        chex.assert_tree_all_finite(run(x, options))


# What the wheel holds


def build_wheel(folder):
    """Build the wheel with the project's own backend, without a network."""
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    result = python(code)
    assert result.returncode == 0, result.stderr
    return folder / result.stdout.split()[-1]


def test_the_wheel_holds_the_library_alone(tmp_path):
    pytest.importorskip("hatchling")
    wheel = build_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == {f"jaxpool/{path.name}" for path in SOURCES} | {"jaxpool/py.typed"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


# What README says


def blocks(text):
    """The ```python blocks of a Markdown text, each with the line where it starts."""
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text[: match.start()].count("\n") + 1, match.group(1)


def execute(text, name):
    """Run the blocks in order, in one namespace; `print(...)  # y` must print y."""
    namespace = {"__name__": name}
    for line, code in blocks(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + code, name, "exec"), namespace)
        expected = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
        assert printed.getvalue().split() == " ".join(expected).split(), f"{name}, line {line}"


def test_readme_runs():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(list(blocks(text))) >= 3
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        execute(text, "README.md")  # under the settings that a reader has


@pytest.mark.parametrize("last", ["assert x == 2", "print(x)  # 2", "print(x)"])
def test_readme_would_fail_if_it_were_wrong(last):
    with pytest.raises(AssertionError):
        execute(f"```python\nx = 1\n```\ntext\n```python\n{last}\n```\n", "text.md")


def test_readme_shows_the_numbers_that_are_kept(tmp_path):
    """The table is made of the stored numbers: `make reference` writes it."""
    text = (ROOT / "README.md").read_text("utf-8")
    kept, times, gpu = (ROOT / path for path in (readme.NUMBERS, readme.TIMES, readme.GPU))
    assert readme.renewed(text, kept, times, gpu) == text
    other = tmp_path / "other.csv"
    other.write_text(kept.read_text().replace(",0.", ",0.0"))
    assert readme.renewed(text, other, times, gpu) != text
    other.write_text(times.read_text("utf-8").replace("**no**", "yes"), "utf-8")
    assert readme.renewed(text, kept, other, gpu) != text
    other.write_text(gpu.read_text("utf-8").replace("device gpu: ", "device gpu: other "), "utf-8")
    assert readme.renewed(text, kept, times, other) != text


def test_readme_shows_what_is_there():
    """Every file that README links to exists."""
    text = (ROOT / "README.md").read_text("utf-8")
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]
