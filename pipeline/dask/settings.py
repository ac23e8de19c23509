"""Where work that many processes can share is done."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import field_validator, model_validator

from compress_ssl.pipeline.common.settings import Settings, runtime_option


class DaskSettings(Settings):
    """A cluster, where one of the two is given; else the work is done in one process."""

    workers: Annotated[
        int | None,
        runtime_option(
            "Do it in so many processes here; embed has one a GPU where there are GPUs, and divides --threads "
            "among them.",
            ge=1,
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        runtime_option(
            "Do it on the dask.distributed cluster at this address, as tcp://HOST:8786; embed's --threads is then "
            "each worker's."
        ),
    ] = None

    @field_validator("scheduler")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        if address is not None and not all(address.partition("://")):
            raise ValueError(
                f"'{address}' is no address; give that which 'dask scheduler' printed, as tcp://HOST:8786."
            )
        return address

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        if self.workers is not None and self.scheduler is not None:
            raise ValueError("--workers starts a cluster here, --scheduler is one that exists; give one of them.")
        return self

    @property
    def is_shared(self) -> bool:
        """Whether other processes than this one do the work."""
        return self.workers is not None or self.scheduler is not None
