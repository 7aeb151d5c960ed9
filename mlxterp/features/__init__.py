"""Which features a text activates, and which texts activate a feature: asked of the model itself, without an index."""
