"""The renderers: one interface (``pipeline.images.rendering.Renderer``), held together by a parity test."""
