"""Work on a dask.distributed cluster: client, tasks and retries."""
