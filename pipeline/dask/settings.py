"""Settings of stages that can run on a Dask cluster."""

from typing import Annotated, Self

from pydantic import field_validator, model_validator

from compress_ssl.pipeline.common.settings import Settings, runtime_option


class DaskSettings(Settings):
    """The Dask cluster to run on; the stage runs in this process where neither field is set."""

    workers: Annotated[
        int | None,
        runtime_option(
            "Start N Dask workers on this machine. With embed each has its own GPU, if there are GPUs, and --threads "
            "is divided among them.",
            ge=1,
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        runtime_option(
            "Run on the dask.distributed cluster whose scheduler has this address, such as tcp://HOST:8786; embed's "
            "--threads are then per worker."
        ),
    ] = None

    @field_validator("scheduler")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        if address is not None and not all(address.partition("://")):
            raise ValueError(
                f"'{address}' is no address; give the one that 'dask scheduler' printed, such as tcp://HOST:8786."
            )
        return address

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        if self.workers is not None and self.scheduler is not None:
            raise ValueError("--workers starts a cluster here, --scheduler is one that exists; give one of them.")
        return self

    @property
    def uses_dask(self) -> bool:
        """True if the stage runs on a Dask cluster instead of in this process."""
        return self.workers is not None or self.scheduler is not None
