"""The straightforward ways to the training data, like the published scripts: plain loops, one item after another.

Plain code without any of the project's, so that it can also check the project's results. Run by `perf.triplets`,
`perf.encoding` and `perf.matching` as commands of their own; prints its duration as one line of JSON.

    python -m pervl_assets_tests.perf.inversion_plain triplets TEXT OUT
    python -m pervl_assets_tests.perf.inversion_plain encoding ARCHIVE MODEL WEIGHTS OUT
    python -m pervl_assets_tests.perf.inversion_plain matching NAMES CLASSES OUT {loop,matrix}
"""

import io
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from pervl_assets_tests.perf.figures import run_task

TOP = 1000


def collect_triplets(text: str, out: str) -> dict[str, float]:
    """Collect the masked sentences about the most common objects; saves a pickled dictionary of text arrays.

    Text arrays are as wide as their longest text, every object is searched in all of them, and rows found are copied
    again for every sentence. So the time grows with the square of the lines.
    """
    start = time.perf_counter()
    ids, subjects, objects, sentences = [], [], [], []
    with Path(text).open(encoding="utf-8") as file:
        for line in file:
            fields = line.split("|")
            parts = fields[1].split(",")
            ids.append(fields[0].split("=")[1])
            subjects.append(parts[0].strip())
            objects.append(parts[2].strip())
            sentences.append(fields[3].strip())
    all_names, all_ids, all_sentences = np.asarray(subjects + objects), np.asarray(ids * 2), np.asarray(sentences * 2)
    found = {}
    for name, _ in Counter(subjects + objects).most_common(TOP):
        rows = np.where(all_names == name)[0]
        masked = [all_sentences[rows][row].replace(name, "*", 1) for row in range(len(rows))]
        found[name] = [all_ids[rows], all_sentences[rows], np.asarray(masked)]
    np.save(out, found)  # type: ignore[arg-type]
    return {"own_seconds": time.perf_counter() - start}


def encode_images(path: str, name: str, weights: str, out: str) -> dict[str, float]:
    """Encode the images of an archive one at a time in fp32, prepared by torchvision; vectors in id order."""
    import open_clip
    import torch
    from PIL import Image
    from torchvision import transforms

    start = time.perf_counter()
    if weights:
        model = open_clip.create_model(name)
        model.load_state_dict(torch.load(weights, weights_only=True))
    else:
        model = open_clip.create_model(f"local-dir:{name}")
    model.eval()
    prepare = transforms.Compose(
        [
            transforms.Resize(300, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    loaded = time.perf_counter()
    vectors = []
    with zipfile.ZipFile(path) as archive, torch.no_grad():
        for member in sorted(archive.namelist(), key=lambda member: f"{int(Path(member).stem[-12:])} "):
            image = Image.open(io.BytesIO(archive.read(member)))
            vectors.append(model.encode_image(prepare(image).unsqueeze(0)).numpy()[0])
    seconds = time.perf_counter() - loaded
    np.save(out, np.stack(vectors))
    return {"images": len(vectors), "seconds": seconds, "loading": loaded - start}


def match_names(names: str, classes: str, out: str, way: str) -> dict[str, float]:
    """Find the nearest class of every name: one name after another, or from one matrix of all distances."""
    a, b = np.load(names), np.load(classes)
    start = time.perf_counter()
    if way == "loop":
        wide = b.astype(np.float64)
        nearest = [int(((wide - name) ** 2).sum(axis=1).astype(np.float32).argmin()) for name in a]
    else:
        wide, other = a.astype(np.float64), b.astype(np.float64)
        distances = (wide**2).sum(axis=1)[:, None] - 2 * wide @ other.T + (other**2).sum(axis=1)[None]
        nearest = distances.argmin(axis=1).tolist()
    seconds = time.perf_counter() - start
    np.save(out, np.asarray(nearest))
    return {"own_seconds": seconds}


TASKS = {"triplets": collect_triplets, "encoding": encode_images, "matching": match_names}

if __name__ == "__main__":
    run_task(TASKS)
