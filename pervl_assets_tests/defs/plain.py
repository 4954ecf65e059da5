"""The rules of docs/fidelity.md once more, in a few lines of plain Python each: the results are compared with them."""

import csv
import io
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from pervl_assets.demo import TINY_CLIP

RAW = "inversion_model_train_data"
TRIPLETS = f"{RAW}/mscoco-train2014-svo-2016-02-18.txt"
OPENIMAGES = f"{RAW}/oidv6-class-descriptions.csv"
COCO = f"{RAW}/train2014.zip"


def read_sentences(data: Path, top_objects: int) -> dict[str, list[tuple[str, str, str]]]:
    """Return class name to rows of image id text, sentence and masked sentence, all in upstream's order."""
    subjects, objects = [], []
    for line in (data / TRIPLETS).read_text(encoding="utf-8").splitlines():
        head, triplet, _, sentence, *_ = line.split("|")
        subject, _, thing, *_ = (part.strip() for part in triplet.split(","))
        row = head.split("=")[1], sentence.strip()
        subjects.append((subject, *row))
        objects.append((thing, *row))
    joint = subjects + objects
    names = [name for name, _ in Counter(name for name, *_ in joint).most_common(top_objects)]
    return {name: [(i, s, s.replace(name, "*", 1)) for n, i, s in joint if n == name] for name in names}


def name_member(image_id: str) -> str:
    return f"train2014/COCO_train2014_{int(image_id):012d}.jpg"


def read_openimages(data: Path) -> list[str]:
    with (data / OPENIMAGES).open(encoding="utf-8", newline="") as file:
        return [name for _, name in csv.reader(file)][1:]


def measure_cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


class PlainClip:
    """The demo's CLIP in plain open_clip, one image or one text at a time, in fp32."""

    def __init__(self) -> None:
        import open_clip
        from torchvision import transforms

        self.model = open_clip.create_model(f"local-dir:{TINY_CLIP}").eval()
        (merges,) = TINY_CLIP.glob("*.txt.gz")
        self.tokenize = open_clip.tokenizer.SimpleTokenizer(str(merges), context_length=32)
        self.prepare = transforms.Compose(
            [
                transforms.Resize(300, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                lambda image: image.convert("RGB"),
                transforms.ToTensor(),
                transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
            ]
        )

    def encode_images(self, archive: Path, members: list[str]) -> np.ndarray:
        import torch

        with zipfile.ZipFile(archive) as opened, torch.inference_mode():
            images = (Image.open(io.BytesIO(opened.read(member))) for member in members)
            return np.concatenate([self.model.encode_image(self.prepare(image)[None]).numpy() for image in images])

    def encode_names(self, names: list[str]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            prompts = (self.tokenize([f"This is a photo of a {name}"]) for name in names)
            return np.concatenate([self.model.encode_text(tokens).numpy() for tokens in prompts])


@cache
def load_plain_clip() -> PlainClip:
    return PlainClip()
