"""The `[session]` table of a bundle: how its session runs on this box, typed by runtime, unknown keys refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class OnnxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[session]` of a `runtime = "onnx"` bundle."""

    threads: Annotated[int, Meta(ge=0, le=256)] = 0  # 0: `models.threads` of config.toml
    providers: list[str] = []  # execution providers in order of preference; those the box lacks are passed over


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[session]` of a language model."""

    threads: Annotated[int, Meta(ge=0, le=256)] = 0  # 0: `models.llm_threads` of config.toml
    context_tokens: Annotated[int, Meta(ge=64, le=1 << 20)] = 2048  # prompt and answer of one call together
    parallel: Annotated[int, Meta(ge=1, le=64)] = 1  # calls decoded at once; memory for the context is taken for each
    # Tokens of a prompt that are computed in one go, between two looks at the deadline. On two x86 cores 128 was 13%
    # slower than 512 at reading a prompt, and takes 16 MB less.
    batch_tokens: Annotated[int, Meta(ge=32, le=8192)] = 128
    gpu_layers: Annotated[int, Meta(ge=0, le=10000)] = 0  # layers put on a GPU, where the library was built for one
    swa_full: bool = True  # keep the whole cache of sliding-window models: without it Gemma 3 reuses no prefix
    memory_map: bool = True  # False: read the weights into memory (cards that read slowly in pieces)
    drafts: Literal["auto", "none"] = "auto"  # auto: speculative decoding where it is measured to be faster
    draft_model: str = ""  # the role of the bundle's file with a small model of the same vocabulary, to draft with
    prompt_cache_bytes: Annotated[int, Meta(ge=0)] = 0  # memory for the states of prompts whose slot went to another
