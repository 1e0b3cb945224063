"""Constraints are resolved against the index's metadata; `make lint` does it for every extra."""

from pathlib import Path

import check_install
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SETUP = f"""
from setuptools import setup
names = {[*check_install.COMMON_EXTRAS, "cuda13", "cpu"]}
setup(name="few", version="1", install_requires=["torch"], extras_require={{name: [] for name in names}})
"""


@pytest.fixture(scope="module")
def index():
    if not check_install.index_is_reachable():
        pytest.skip("uv is not installed, or it reaches no package index")


@pytest.fixture
def few(tmp_path):
    """A setup.py that requires torch only, and ``constraints(triton)`` for it."""

    def constraints(triton):
        common = tmp_path / "common.txt"
        common.write_text("# a comment\nsympy==1.14.0\n")
        file = tmp_path / "constraints.txt"
        file.write_text(f"--constraint common.txt\ntorch==2.13.0\ntriton=={triton}\n")
        return file

    (tmp_path / "setup.py").write_text(SETUP)
    return tmp_path / "setup.py", constraints


@pytest.mark.slow
def test_the_triton_of_another_torch_is_refused_for_cuda_only(index, few):
    setup, constraints = few
    with pytest.raises(check_install.ResolutionError, match="triton"):
        check_install.resolve(setup, "cuda13", constraints("3.9.0"), "3.11")
    on_cpu = check_install.resolve(setup, "cpu", constraints("3.9.0"), "3.11")
    on_cuda = check_install.resolve(setup, "cuda13", constraints("3.7.1"), "3.11")
    assert not any(package.name.startswith(("nvidia-", "triton")) for package in on_cpu)
    assert {"triton==3.7.1", "torch==2.13.0", "sympy==1.14.0"} <= set(map(str, on_cuda))
    assert "jinja2" in check_install.unpinned(on_cuda, constraints("3.7.1"))


def test_a_package_without_a_pin_is_named():
    packages = [Requirement(line) for line in ("nvidia-nccl-cu13==1", "typing-extensions==4", "unheard-of==2")]
    assert check_install.unpinned(packages, ROOT / "constraints.txt") == ["unheard-of"]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-cuda12.txt"])
def test_every_package_is_pinned_once_and_exactly(name):
    pins = list(check_install._pins(ROOT / name))
    names = [check_install._plain(pin.name) for pin in pins]
    assert len(names) == len(set(names))
    assert {"torch", "triton", "numpy", "deepspeed"} <= set(names)
    assert all(str(pin.specifier).startswith("==") for pin in pins)


def test_without_an_index_the_check_is_skipped_and_says_so(monkeypatch, capsys):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", "/nonexistent/cache")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    check_install.main()
    assert "skipped" in capsys.readouterr().out
