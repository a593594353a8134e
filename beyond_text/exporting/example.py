"""Encodes queries and products by the graphs of an export: onnxruntime, tokenizers and pillow.

python example.py "a red striped cushion" [photo.jpg]
"""

import json
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
SETTINGS = json.loads((HERE / "preprocessing.json").read_text(encoding="utf-8"))
TEXTS, PICTURES = SETTINGS["texts"], SETTINGS["pictures"]
# It lowers case, cuts and pads as the model wants.
TOKENIZER = Tokenizer.from_file(str(HERE / "tokenizer.json"))


def opened(data, size):
    """Returns a picture upright, in RGB over white; a JPEG may be decoded at half its size."""
    file = Image.open(BytesIO(data))
    file.draft(None, (size, size))
    image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):
        # Pillow's own conversion turns grey of 16 bits white.
        grey = np.asarray(image).clip(0, 65535).astype(np.uint16) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def pixels(data):
    """Returns a picture's pixels: reduced to a small JPEG, as in training, and squeezed."""
    stored, size, largest = BytesIO(), PICTURES["image_size"], PICTURES["stored_size"]
    image = opened(data, largest)
    scale = min(1, largest / max(image.size))
    smaller = image.resize([max(1, round(scale * s)) for s in image.size], Image.Resampling.LANCZOS)
    smaller.save(stored, "JPEG", quality=PICTURES["stored_quality"])
    square = opened(stored.getvalue(), size).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)


def encode(graph, texts, pictures, prefix):
    """Returns unit vectors of rows with a text, "" for none, a picture's bytes, None, or both."""
    session = onnxruntime.InferenceSession(str(HERE / "onnx" / graph))
    found = TOKENIZER.encode_batch([prefix + text for text in texts])
    ids, mask = np.array([[each.ids, each.attention_mask] for each in found]).swapaxes(0, 1)
    inputs = {"input_ids": ids, "attention_mask": mask if TEXTS["masked"] else np.ones_like(ids)}
    if "pixels" in {each.name for each in session.get_inputs()}:
        blank = np.zeros((3,) + (PICTURES["image_size"],) * 2, dtype=np.uint8)
        inputs["pixels"] = np.stack([pixels(each) if each else blank for each in pictures])
        for name, column in (("text_row", texts), ("image_row", pictures)):
            inputs[name] = np.array([row if each else -1 for row, each in enumerate(column)])
    return session.run(["vectors"], inputs)[0]


if __name__ == "__main__":
    words, *file = sys.argv[1:]
    picture = Path(file[0]).read_bytes() if file else None
    graph = "query_picture.onnx" if file else "query.onnx"
    print(encode(graph, [words], [picture], TEXTS["query_prefix"])[0][:8])
