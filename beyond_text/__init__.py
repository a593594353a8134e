"""Beyond Text: a curriculum recipe for multimodal product search."""
