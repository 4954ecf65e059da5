"""The release: all published results, described in Croissant, the metadata format of MLCommons for data sets.

mlcroissant brings pandas, scipy and rdflib and takes a second to import, so it is imported inside functions only.
"""
