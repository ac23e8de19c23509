"""Stage two: students that learn the teacher's similarities from the store."""
