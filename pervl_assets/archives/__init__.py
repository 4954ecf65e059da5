"""Raw inputs: zip archives, unzipped folders and annotation files; how they are found, downloaded, checked and read."""
