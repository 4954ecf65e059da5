"""CLIP: encoders, checkpoints, preprocessing, and feature tables. Knows neither COCO nor PALAVRA."""
