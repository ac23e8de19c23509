"""Settings as they are given to the command line."""

from compress_ssl.pipeline.distill.settings import DistillSettings


def command_of(settings: DistillSettings) -> list[str]:
    """Return the words of the ``distill`` command that has these settings."""
    given = settings.model_dump(mode="json", include=settings.model_fields_set, exclude={"store", "data", "run"})
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["distill", *map(str, (settings.store, settings.data, settings.run)), *options]
