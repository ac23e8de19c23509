"""The renderers: one interface (``compress_ssl.pipeline.images.rendering.Renderer``), held together by a parity test."""
