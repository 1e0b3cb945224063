"""All parts of the GPU check in their order: cheap ones first, and the tests, which compile kernels, before timing."""

from hpc_jepa.cli.gpu_check.part import Part

_HERE = "hpc_jepa.cli.gpu_check"

PARTS = (
    Part("environment", "Versions, driver and compilers", f"{_HERE}.environment:environment", 15, short=True),
    Part("decoding", "One decode per codec, against PyAV", f"{_HERE}.decoding:decode_each_codec", 35, short=True),
    Part("tests", "Tests that need a GPU", f"{_HERE}.kernels:gpu_tests", 150),
    Part("zero", "ZeRO stages against the CPU", f"{_HERE}.zero_stages:zero_stages", 60, short=True),
    Part("speed", "Training steps", f"{_HERE}.speed:eager_steps", 60, short=True),
    Part("compiled", "Training steps with torch.compile", f"{_HERE}.speed:compiled_steps", 80),
    Part("kernels", "Operations against their lower bounds", f"{_HERE}.kernels:bounds", 30),
    Part("profile", "Profile of a run, killed and resumed", f"{_HERE}.training_run:profile_and_resume", 70),
    Part("rates", "Decode rates", f"{_HERE}.decoding:decode_rates", 35),
    Part("options", "Cost of deterministic and TF32", f"{_HERE}.speed:option_costs", 60),
    Part("processes", "Several GPUs against one", f"{_HERE}.processes:several_processes", 60),
)
"""The limits of all parts but the last, which needs two GPUs, add up to less than ten minutes."""
