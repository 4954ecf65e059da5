"""Training data of the inversion model: COCO object classes, CLIP features, OpenImages matches, PALAVRA's files.

torch and open_clip are imported inside functions only.
"""
