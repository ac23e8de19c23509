"""Preloaded into nannies under test: workers are forked from a process that has imported what they need."""

from distributed.utils import get_mp_context

get_mp_context().set_forkserver_preload(
    ["distributed", "compress_ssl.pipeline.embed.on_dask", "compress_ssl.pipeline.images.renderers.dali"]
)
