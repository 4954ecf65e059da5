"""The gallery: concepts, images, boxes, captions, a map of the embeddings and nearest neighbours as one web page."""
