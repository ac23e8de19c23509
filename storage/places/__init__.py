"""Where a store can be: a local folder, a bucket, a web server; files, leases, cache."""
