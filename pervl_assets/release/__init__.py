"""The release: what was published, told in Croissant, the metadata format of MLCommons for machine-learning data sets.

Belongs here: what a release is made of, and its description. Does not belong here: making any of its parts, nor which
assets they are (`defs.release`). The library mlcroissant brings pandas, scipy and rdflib and takes a second to import,
so it is imported inside functions only.
"""
