"""Packaging. Ranges live here; the exact versions that are tested live in constraints.txt."""

from setuptools import find_packages, setup

NOTEBOOKS = ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=7.0", "jupytext>=1.19"]
DOCS = ["mkdocs-material>=9.8,<10", "mkdocstrings[python]>=1.0,<2"]
LEGACY = ["mathruler==0.1.0", "pylatexenc>=2.10,<3", "tqdm"]  # what LLaVA-Critic-R1's released reward calls

setup(
    name="critique_rl",
    version="0.1.0",
    description="Train critics of language and vision-language models with reinforcement learning",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["critique_rl", "critique_rl.*"]),
    package_data={
        "critique_rl": [
            "assets/**/*",
            "benchmarks/*.yaml",
            "reports/page.html",
            "reports/card.md",
            "training/*.yaml",
            "view/page.*",
            "py.typed",
        ]
    },
    install_requires=[
        "torch>=2.6",
        # The trainer overrides private methods of GRPOTrainer: tests/training/test_trl_contract.py pins them.
        "trl>=1.16,<1.17",
        "transformers>=5.23,<5.24",
        "accelerate>=1.10",
        "datasets>=4.0",
        "peft>=0.17",
        "math-verify>=0.9,<0.10",
        "sympy>=1.13",
        "openai>=2.0",
        "tenacity>=9.0,<10",
        "matplotlib>=3.9",
        "pyyaml>=6.0",
        "rich>=13.0",
        "filelock>=4.2,<5",
        "tensorboard>=2.17",
        "gguf>=0.10",
        "numpy>=2.0",
        "pillow>=11.0",
        "shtab>=1.13,<2",
        "safetensors>=0.5",
        "huggingface_hub>=1.0",
        # pages: reports and `critique-rl view`
        "jinja2>=3.1",
        "markdown-it-py>=3.0",
        "markupsafe>=2.1",
    ],
    extras_require={
        "test": [
            "hypothesis>=6.100",
            "pytest>=8.0",
            "ruff>=0.14",
            "mypy>=1.15",
            "import-linter>=2.17,<3",
            "types-PyYAML",
            "transformers[serving]",
            "reasoning-gym>=0.1.23",
            "selenium>=4.40",
            *LEGACY,
            *DOCS,
            *NOTEBOOKS,
        ],
        "docs": DOCS,
        "legacy": LEGACY,
        "procedural": ["reasoning-gym>=0.1.23"],
        "vllm": ["vllm>=0.19"],
        "eval": ["lm-eval>=0.4.9"],
        # pins packages of its own: install it into another environment, see critique_rl/benchmarks/policy.py
        "lmms-eval": ["lmms-eval>=0.7.3,<0.8"],
        "notebooks": [*NOTEBOOKS, "jupyterlab>=4.3", "transformers[serving]"],
    },
    entry_points={"console_scripts": ["critique-rl=critique_rl.cli:main"]},
)
