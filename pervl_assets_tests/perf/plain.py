"""The straightforward way to both trees, like the published scripts: unpack everything, then one file after another.

Plain code in one process, without any of the project's, so that it can also check the project's files. Run by
`perf.trees` as a command of its own.

    python -m pervl_assets_tests.perf.plain {ytvos,deep_fashion} ARCHIVE ANNOTATIONS OUT [--password P] [--every N]
"""

import argparse
import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("benchmark", choices=["ytvos", "deep_fashion"])
    parser.add_argument("archive", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--password", default="")
    parser.add_argument("--every", type=int, default=1, help="use every n-th concept")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    password = ["-P", given.password] if given.password else []
    subprocess.run(["unzip", "-q", *password, str(given.archive), "-d", str(given.out / "unpacked")], check=True)
    make = make_ytvos if given.benchmark == "ytvos" else make_deep_fashion
    make(given.out / "unpacked/train", given.annotations, given.out / "trees", given.every)


def make_ytvos(raw: Path, annotations: Path, out: Path, every: int) -> None:
    concepts = yaml.safe_load((annotations / "ytvos/ytvos_personalization_meta.yaml").read_text())
    for folder in ("images", "gt_mask", "retrieval", "images_with_bbox"):
        (out / "eval" / folder).mkdir(parents=True)
    boxes = {}
    for name in sorted(concepts)[::every]:
        concept = concepts[name]
        (out / "train" / name).mkdir(parents=True)
        for frame in [*concept["train_frames"], concept["test_frame"]]:
            image = np.array(Image.open(raw / f"JPEGImages/{concept['scene_id']}/{frame}.jpg"))
            indices = np.array(Image.open(raw / f"Annotations/{concept['scene_id']}/{frame}.png"))
            mask = indices == int(concept["instance_id"])
            ys, xs = np.nonzero(mask)
            x0, y0, x1, y1 = (int(value) for value in (xs.min(), ys.min(), xs.max(), ys.max()))
            file = f"{name}_{frame}"
            if frame != concept["test_frame"]:
                Image.fromarray(image[y0:y1, x0:x1]).save(out / f"train/{name}/{file}.jpg", quality=95)
                continue
            Image.fromarray(image).save(out / f"eval/images/{file}.jpg", quality=95)
            Image.fromarray(mask.astype(np.uint8)).save(out / f"eval/gt_mask/{file}.png")
            (height, width), dx, dy = mask.shape, (x1 - x0) / 2, (y1 - y0) / 2
            left, top, right, bottom = max(x0 - dx, 0), max(y0 - dy, 0), min(x1 + dx, width), min(y1 + dy, height)
            crop = image[int(top) : int(bottom), int(left) : int(right)]
            Image.fromarray(crop).save(out / f"eval/retrieval/{file}.jpg", quality=95)
            framed = Image.fromarray(image)
            ImageDraw.Draw(framed).rectangle((x0, y0, x1, y1), outline=(255, 255, 0), width=3)
            framed.save(out / f"eval/images_with_bbox/{file}.jpg", quality=95)
            boxes[name] = [x0, y0, x1, y1]
    (out / "eval/gt_box_labels.yaml").write_text(yaml.safe_dump(boxes, default_flow_style=None))


def make_deep_fashion(raw: Path, annotations: Path, out: Path, every: int) -> None:
    for split in ("validation", "test"):
        tree, source = out / f"personalized_{split}", annotations / "deep_fashion"
        (tree / "eval/test").mkdir(parents=True)
        wanted, pair = {}, ""
        for line in (source / f"{split}_fsl_train.txt").read_text().splitlines():
            if line.startswith("codes_infer/"):
                pair = line.removeprefix("codes_infer/").removesuffix(":")
                wanted[pair] = []
            elif line:
                wanted[pair].append(line)
        chosen = sorted(wanted)[::every]
        for pair in chosen:
            (tree / "codes_infer" / pair).mkdir(parents=True)
            for image in wanted[pair]:
                shutil.copy(raw / "image" / image, tree / "codes_infer" / pair / image)
        with (source / f"{split}_captions.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["pair_id"] in chosen:
                    image = Path(row["image_name"]).name
                    shutil.copy(raw / "image" / image, tree / "eval/test" / image)


if __name__ == "__main__":
    main()
