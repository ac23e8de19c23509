"""Stage two: train students on the stored embeddings of a teacher."""
