"""Names that upstream misspelt and its consumers rely on.

Belongs here: a spelling nobody would choose today and nobody may correct. Nothing else.
"""

from typing import Final

RETRIVAL_SETS: Final = "retrival_sets"
"""Folder of the YTVOS retrieval sets, as `PALAVRA` is told to read it."""

COMMOM_OBJ_DICT: Final = "commom_obj_dict"
"""Stem of the pickled dictionary of the common objects' sentences."""
