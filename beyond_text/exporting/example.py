"""Encodes queries and products by the graphs of an export: onnxruntime, tokenizers and pillow.

python example.py "a red striped cushion"            # from the export's folder
python example.py "a red striped cushion" photo.jpg  # a query with a picture
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


def tokens(texts, prefix):
    """Returns a graph's inputs for texts."""
    found = TOKENIZER.encode_batch([prefix + text for text in texts])
    ids = np.array([text.ids for text in found], dtype=np.int64)
    mask = np.array([text.attention_mask for text in found], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask if TEXTS["masked"] else np.ones_like(ids)}


def opened(data, size):
    """Returns a picture upright, in RGB over white; a JPEG may be decoded at half its size."""
    file = Image.open(BytesIO(data))
    file.draft(None, (size, size))
    image = ImageOps.exif_transpose(file).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def pixels(data):
    """Returns a picture's pixels: reduced to a small JPEG, as in training, and squeezed."""
    stored, size = BytesIO(), PICTURES["image_size"]
    image = opened(data, PICTURES["stored_size"])
    scale = min(1, PICTURES["stored_size"] / max(image.size))
    smaller = [max(1, round(side * scale)) for side in image.size]
    image.resize(smaller, Image.Resampling.LANCZOS).save(
        stored, "JPEG", quality=PICTURES["stored_quality"]
    )
    square = opened(stored.getvalue(), size).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)


def encode(graph, texts, pictures, prefix):
    """Returns unit vectors of rows with a text, "" for none, a picture's bytes, None, or both."""
    has_text = np.array([text != "" for text in texts])
    has_image = np.array([picture is not None for picture in pictures])
    blank = np.zeros((3,) + (PICTURES["image_size"],) * 2, dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(HERE / "onnx" / graph))
    inputs = tokens(texts, prefix)
    if "pixels" in {each.name for each in session.get_inputs()}:
        numbers = np.arange(len(texts))
        inputs["text_row"] = np.where(has_text, numbers, -1)
        inputs["pixels"] = np.stack([blank if p is None else pixels(p) for p in pictures])
        inputs["image_row"] = np.where(has_image, numbers, -1)
    return session.run(["vectors"], inputs)[0]


if __name__ == "__main__":
    words, *file = sys.argv[1:]
    picture = Path(file[0]).read_bytes() if file else None
    graph = "query_picture.onnx" if file else "query.onnx"
    print(encode(graph, [words], [picture], TEXTS["query_prefix"])[0][:8])
