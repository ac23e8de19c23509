"""Stage one: every image once through the teacher, in every view, into an embedding store."""
