"""What to read and how a view is made: the index, the policies, the renderers."""
