"""One training loop for all that is trained: pre-training a teacher, distilling a student."""
