"""What Triton needs to build launchers, found in a fake environment."""

import pytest
import torch

from hpc_jepa.errors import HpcJepaError
from hpc_jepa.kernels.build_tools import find_build_tools, require_build_tools
from hpc_jepa.runs.run_dir import RunDir


@pytest.fixture
def machine(tmp_path):
    """``machine(*programs, headers=...)``: a PATH with these programs, and a folder with or without Python.h."""

    def make(*programs, headers=True):
        for folder in ("bin", "include"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for program in programs:
            (tmp_path / "bin" / program).touch(mode=0o755)
        if headers:
            (tmp_path / "include" / "Python.h").touch()
        return {"PATH": str(tmp_path / "bin")}, tmp_path / "include"

    return make


@pytest.mark.parametrize(
    ("programs", "chosen"), [(["gcc", "clang"], "gcc"), (["clang"], "clang"), (["icx"], None), ([], None)]
)
def test_the_compiler_is_the_one_that_triton_takes(programs, chosen, machine):
    environment, include = machine(*programs)
    tools = find_build_tools(environment, include)
    assert (tools.compiler and tools.compiler.rsplit("/")[-1]) == chosen
    assert bool(tools.missing) == (chosen is None)


def test_cc_takes_precedence_and_must_exist(machine):
    environment, include = machine("gcc", "icx")
    assert find_build_tools(environment | {"CC": "icx"}, include).compiler.endswith("/icx")
    assert find_build_tools(environment | {"CC": "nowhere-cc"}, include).compiler is None


def test_headers_may_lie_where_only_the_compiler_is_told(machine, tmp_path):
    environment, include = machine("gcc", headers=False)
    assert find_build_tools(environment, include).missing == ("Python.h",)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "Python.h").touch()
    for variable in ("CPATH", "C_INCLUDE_PATH"):
        tools = find_build_tools(environment | {variable: f"/nowhere:{tmp_path / 'elsewhere'}"}, include)
        assert tools.python_h == tmp_path / "elsewhere" / "Python.h"


def test_the_error_is_one_line_with_everything_that_is_missing(machine):
    with pytest.raises(HpcJepaError) as raised:
        require_build_tools(find_build_tools(*machine(headers=False)))
    message = str(raised.value)
    assert "\n" not in message and "Python.h" in message and "gcc" in message
    require_build_tools(find_build_tools(*machine("gcc")))


def test_a_gpu_run_is_refused_before_its_networks_are_built(monkeypatch, configure, tmp_path):
    from hpc_jepa.training import build

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build, "build_train_module", lambda config: pytest.fail("networks were built"))
    config = configure()
    with (
        pytest.raises(HpcJepaError, match="compiler"),
        build.build_run(config, torch.device("cuda"), lambda line: None),
    ):
        pass
    assert not config.folder.exists()


def test_an_evaluation_on_a_gpu_is_refused_too(monkeypatch, configure, tmp_path):
    from hpc_jepa.config.benchmark import BenchmarkConfig
    from hpc_jepa.distributed import GlooGroup
    from hpc_jepa.evaluation import context
    from hpc_jepa.evaluation.progress import no_progress
    from hpc_jepa.evaluation.split_clips import SplitClips

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(context, "_newest_checkpoint", lambda *arguments: None)
    monkeypatch.setattr(context, "open_run", RunDir)
    monkeypatch.setattr(context, "select_device", lambda setting: torch.device("cuda"))
    benchmark = BenchmarkConfig.model_construct(name="b", protocols={"standard": None})
    clips = SplitClips(benchmark, "standard", no_progress, GlooGroup())
    with pytest.raises(HpcJepaError, match="compiler"):
        context.EvaluationContext.open(tmp_path, clips, device="cuda")
