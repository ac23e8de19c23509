"""What came out: tables of results."""
