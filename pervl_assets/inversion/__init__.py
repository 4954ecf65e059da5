"""Training data of the inversion model: COCO object classes, CLIP features, OpenImages matches, PALAVRA's files.

Belongs here: what is computed from the COCO triplets, the COCO images and the OpenImages class names. Knows no Dagster
and no benchmark; torch and open_clip are imported inside functions only.
"""
