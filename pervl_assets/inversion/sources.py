"""The raw inputs of the inversion side: paths, licences, and the archive member of each COCO image."""

from functools import partial
from typing import Final

from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.inversion.coco_classes import read_triplets
from pervl_assets.inversion.open_images import read_class_names

COCO_TRAIN2014: Final = ArchiveSpec(
    name="coco_train2014",
    title="The images of COCO 2014 train",
    description="82,783 photographs, `train2014/COCO_train2014_<12 digits>.jpg`. Only the images of the most common "
    "objects are read.",
    file="inversion_model_train_data/train2014.zip",
    folders=("inversion_model_train_data/train2014",),
    homepage="https://cocodataset.org/#download",
    how_to_get="Download http://images.cocodataset.org/zips/train2014.zip.",
    url="http://images.cocodataset.org/zips/train2014.zip",
    most_bytes=20_000_000_000,
    licence="images under the terms of Flickr and their owners; see https://cocodataset.org/#termsofuse",
    disk="13 GB",
)

COCO_SVO_TRIPLETS: Final = ArchiveSpec(
    name="coco_svo_triplets",
    title="The subject-relation-object triplets of the COCO 2014 train captions",
    description="One triplet per line: image id, subject, relation, object, and the caption it was parsed from.",
    file="inversion_model_train_data/mscoco-train2014-svo-2016-02-18.txt",
    homepage="https://github.com/yuvalatzmon/compositional-relationships-data",
    how_to_get="Download mscoco-train2014-svo-2016-02-18.txt from the repository.",
    url="https://raw.githubusercontent.com/yuvalatzmon/compositional-relationships-data/master/"
    "mscoco-train2014-svo-2016-02-18.txt",
    most_bytes=500_000_000,
    check=read_triplets,
    licence="CC-BY-4.0",
    redistributable=True,
    disk="45 MB",
)

_OPENIMAGES_CLASS_DESCRIPTIONS: Final = ArchiveSpec(
    name="openimages_class_descriptions",
    title="The class names of OpenImages V6",
    description="19,994 class labels with their display names, as CSV with a header.",
    file="inversion_model_train_data/oidv6-class-descriptions.csv",
    homepage="https://storage.googleapis.com/openimages/web/download_v6.html",
    how_to_get="Download https://storage.googleapis.com/openimages/v6/oidv6-class-descriptions.csv.",
    url="https://storage.googleapis.com/openimages/v6/oidv6-class-descriptions.csv",
    most_bytes=5_000_000,
    check=partial(read_class_names, mode="csv"),
    licence="CC-BY-4.0",
    redistributable=True,
    disk="0.5 MB",
)

ARCHIVES: Final = (COCO_TRAIN2014, COCO_SVO_TRIPLETS, _OPENIMAGES_CLASS_DESCRIPTIONS)


def locate_image(image_id: str) -> str:
    """Return the archive member of an image, e.g. `train2014/COCO_train2014_000000009712.jpg` for `"9712 "`.

    Upstream cuts off the last character of the id text, whatever it is (rule E7). Here the spaces around the number
    are cut off.
    """
    return f"train2014/COCO_train2014_{int(image_id):012d}.jpg"
