"""Teachers and students: what they are built of, what they want to see, where their weights come from."""
