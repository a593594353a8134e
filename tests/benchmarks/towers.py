"""The command that writes random encoders of CLIP ViT-B/32's size, to measure speed without a hub.

    python -m tests.benchmarks.towers OUT --tokenizer data/encoders/minilm-l6

OUT/image is timm's ViT-B/32, OUT/text a BERT with the layers and width of CLIP's text encoder. They
are as fast as trained ones, and open_clip and sentence-transformers can load them too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    TimmWrapperConfig,
    TimmWrapperModel,
)

LENGTH = 77
LAYERS = 12


def write_towers(out: Path, tokenizer: Path, layers: int = LAYERS) -> None:
    """Writes both encoders, the text encoder with a tokenizer."""
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(out / "text")
    text = BertConfig(
        vocab_size=len(words),
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=LENGTH,
    )
    BertModel(text).save_pretrained(out / "text")
    image = TimmWrapperConfig(
        architecture="vit_base_patch32_224",
        num_labels=0,  # type: ignore[call-arg]
    )
    image.model_args = {"depth": layers}
    TimmWrapperModel(image).save_pretrained(out / "image")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.towers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path("data/encoders/minilm-l6"))
    arguments = parser.parse_args()
    write_towers(arguments.out, arguments.tokenizer)
