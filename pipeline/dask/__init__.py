"""Work on a dask.distributed cluster: ``cluster.py`` connects a client, ``tasks.py`` runs tasks with retries."""
