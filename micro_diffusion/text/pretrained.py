"""Frozen text models in the format of transformers, from a local folder or the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def load_pretrained(
    architecture: str, model: str, revision: str | None, dtype: torch.dtype, *, kind: str
) -> tuple[Any, Any]:
    """The tokenizer and the frozen network.

    Args:
        architecture: a class of transformers, such as "T5EncoderModel".
        model: a local folder, or a repository on the hub.
        revision: branch, tag or commit of the repository; None for its main branch.
        dtype: of the weights.
        kind: what the error calls the network.

    Raises:
        FileNotFoundError: when the weights are neither here nor within reach.
    """
    import transformers  # takes seconds, and only encoders of its format need it

    local = Path(model).expanduser()
    source = str(local) if local.is_dir() else model
    where = {"revision": revision or "main"}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **where)
        network: Any = getattr(transformers, architecture).from_pretrained(source, **where, torch_dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise FileNotFoundError(
            f"there is no {kind} to load from {model} ({str(error).strip().splitlines()[0]}); connect to the network "
            "once, or run `huggingface-cli download` elsewhere and set text_encoder.model to the folder"
        ) from error
    return tokenizer, network.eval().requires_grad_(False)
