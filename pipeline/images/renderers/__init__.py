"""The renderers, behind one protocol (``rendering.Renderer``); a test compares their pixels."""
