"""Where the content of each asset is defined: of the inversion model, PALAVRA's files, the evaluation and the release.

They are shown on asset pages after *Source:*. They are not part of the descriptions, because those go into
`croissant.json`, whose readers do not know upstream's scripts. Those of benchmarks are in `pervl_assets.benchmarks`.
"""

from collections.abc import Mapping
from typing import Final

from pervl_assets.upstream import CONCON_CHI, PALAVRA, POLAR, cite_script, link_docs

_TRIPLETS: Final = "inversion_training/parse_mscoco_txt.py"
_IMAGES: Final = "inversion_training/get_visual_features.py"
_NAMES: Final = "inversion_training/text_from_open_images.py"
_ENCODED: Final = f"prompt, and `encode_text` without normalising, as in {cite_script(_NAMES, 'F3, F5')}."

_EVALUATED: Final = f"as in the evaluation of {PALAVRA}, with the preprocessing and precision of CLIP."
_RANKED: Final = f"as {PALAVRA} ranks and scores. Ties, which it leaves to faiss, are placed pessimistically."
_BASELINES: Final = f"{_RANKED} Shots and texts are averaged as there."

EACH: Final = "<benchmark>"
"""In a key: every benchmark that is searched."""

SOURCE_NOTES: Final[Mapping[str, str]] = {
    "inversion/coco_triplets": "a line is `img_id=<id> | <subject>, <relation>, <object> | <text> | <sentence>`, split "
    "at every `|`, and its triplet at every comma. Parts are stripped, the id is not, as in "
    f"{cite_script(_TRIPLETS, 'D1, D2')}.",
    "inversion/coco_malformed_lines": f"specific to this project. {cite_script(_TRIPLETS)} stops at such a line.",
    "inversion/coco_object_classes": f"as in {cite_script(_TRIPLETS, 'D3, D4, D7')}.",
    "inversion/coco_object_sentences": "one row per occurrence of a class in the list of all subjects in file order "
    f"followed by all objects in file order, as in {cite_script(_TRIPLETS, 'D5, D6')}.",
    "inversion/coco_image_features": "images of the chosen classes only, ids in text order, preprocessing, "
    f"`encode_image` without normalising: as in {cite_script(_IMAGES, 'E1 to E4')}.",
    "inversion/coco_class_text_features": _ENCODED,
    "inversion/openimages_text_features": _ENCODED,
    "inversion/openimages_classes": "a row is `<label>,<display name>` in CSV. With `PERVL_OPENIMAGES_NAMES=upstream` "
    f"it is split at every comma, as in {cite_script(_NAMES, 'F1, F2')}.",
    "inversion/openimages_malformed_rows": f"specific to this project. {cite_script(_NAMES)} accepts such a row.",
    "inversion/openimages_matches": f"as in {cite_script(_NAMES, 'F3, F4')}, which uses faiss `IndexFlatL2`.",
    "palavra/object_names": f"as {PALAVRA} reads it: {cite_script(_TRIPLETS, 'D4')}.",
    "palavra/object_sentences": f"as {PALAVRA} reads it: {cite_script(_TRIPLETS, 'D4 to D8, D11')}.",
    "palavra/visual_features": f"as {PALAVRA} reads it: {cite_script(_IMAGES, 'E2, E3')}.",
    "palavra/openimages_names": f"as {PALAVRA} reads it: {cite_script(_NAMES, 'F1, F2, F6')}.",
    "palavra/openimages_map": f"as {PALAVRA} reads it: {cite_script(_NAMES, 'F3, F4, F6')}.",
    f"evaluation/{EACH}/queries": f"as {PALAVRA}, {POLAR} and {CONCON_CHI} ask, with their quirks: "
    f"{link_docs('evaluation', 'quirks-of-the-evaluation')}.",
    f"evaluation/{EACH}/few_shot_draws": f"as {PALAVRA} draws, by numpy's legacy generator, and {POLAR}, by Python's. "
    "`distinct` is specific to this project.",
    f"evaluation/{EACH}/image_features": _EVALUATED,
    f"evaluation/{EACH}/query_features": _EVALUATED,
    f"evaluation/{EACH}/baseline_ranks": _BASELINES,
    f"evaluation/{EACH}/baseline_scores": _BASELINES,
    f"evaluation/{EACH}/concept_ranks": _RANKED,
    f"evaluation/{EACH}/concept_scores": _RANKED,
    f"evaluation/{EACH}/concept_query_features": _EVALUATED,
    f"training/{EACH}/concept_tokens": f"as {PALAVRA} learns them, with the flags of its README; its random starts "
    "have no seed.",
    "evaluation/results": f"published numbers are those of the papers of {PALAVRA} and {POLAR}.",
    "training/set_encoder": f"as {PALAVRA} trains, or as its paper says; quirks T1 to T7 and T9: "
    f"{link_docs('evaluation', 'T1')}.",
    "release/croissant": "[Croissant 1.1](https://docs.mlcommons.org/croissant/), validated with mlcroissant.",
    "release/data_card": "[data cards](https://huggingface.co/docs/hub/datasets-cards) and "
    "[their data files](https://huggingface.co/docs/hub/datasets-manual-configuration) of the Hugging Face Hub.",
}
"""By asset key, in which `EACH` may be the benchmark."""
