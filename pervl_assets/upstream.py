"""Upstream (NVlabs/PerVLBenchmark): links to its paper and scripts, and the misspelt names that consumers rely on."""

from typing import Final

REPOSITORY: Final = "NVlabs/PerVLBenchmark"
COMMIT: Final = "06ec7a6938cfab368310bc75cfb09b949b94ead5"
"""The commit of the cited scripts, and of the annotations in `annotations/manifest.yaml`."""

PAPER: Final = "[Cohen et al., ECCV 2022](https://arxiv.org/abs/2204.01694)"
PALAVRA: Final = "[PALAVRA](https://github.com/NVlabs/PALAVRA)"
POLAR: Final = "[POLAR](https://github.com/adobe-research/polar-vl)"
CONCON_CHI: Final = "[ConCon-Chi](https://github.com/hsp-iit/concon-chi_benchmark)"


def cite_script(path: str, rules: str = "") -> str:
    """Return a link to one of upstream's scripts.

    Args:
        path: Its path in upstream's repository.
        rules: Numbers of its rules in `docs/fidelity.md`, e.g. `A1 to A15`. The first one is linked.
    """
    link = f"[`{path.rpartition('/')[2]}`](https://github.com/{REPOSITORY}/blob/{COMMIT}/{path})"
    return f"{link} ({rules} in {link_docs('fidelity', rules.replace(',', ' ').split()[0])})" if rules else link


def link_docs(page: str, anchor: str) -> str:
    """Return a link to a heading or numbered rule of the documentation, which `pervl ui` serves."""
    return f"[docs/{page}.md](/docs/{page}.md#{anchor})"


RETRIVAL_SETS: Final = "retrival_sets"
"""Folder of the YTVOS retrieval sets, in the spelling of PALAVRA's README."""

COMMOM_OBJ_DICT: Final = "commom_obj_dict"
"""Stem of the pickled dictionary of the common objects' sentences, in PALAVRA's spelling."""
