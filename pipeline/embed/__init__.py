"""Stage one: run every view of every image through the teacher, once."""
